"""When a scheduler forgets: a little at a time, and often enough."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sqlsched.engine.retention import BELIEVED_AFTER_US, Retention
from sqlsched.engine.settings import Settings
from sqlsched.instants import MINUTE_US, SECOND_US
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.ledger import Ledger
from sqlsched.storage.pruning import ROWS

NOW = 1_800_014_400 * SECOND_US
DAY_US = 86_400 * SECOND_US
_INSERT = """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
    due_us, finished_us) VALUES ('a', 'm:f', ?1, 1, 'schedule', ?2, ?1, ?1)"""
SETTINGS = Settings(keep_us=DAY_US, keep_failed_us=3 * DAY_US)


class Memory:
    """A ledger, and what forgets it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.retention = Retention(ledger, SETTINGS)

    async def record(self, count: int, days: float, status: str = "succeeded") -> None:
        """Enter runs that ended so many days ago."""

        def insert(database: Database) -> None:
            at = NOW - round(days * DAY_US)
            rows = ((at + number, status) for number in range(count))
            with transaction(database):
                database.executemany(_INSERT, rows)

        await self.ledger.run(insert)

    async def left(self) -> int:
        def count(database: Database) -> int:
            found: int = database.execute("SELECT count(*) FROM runs").fetchone()[0]
            return found

        return await self.ledger.run(count)

    async def sweep(self, at: int = NOW, *, pressed: bool = False) -> int:
        """Sweep, if it is time to; how many runs are left."""
        if self.retention.is_due(at):
            await self.retention.sweep(at, lambda: pressed)
        return await self.left()


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with Ledger(tmp_path / "a.db") as ledger:
        yield Memory(ledger)


async def test_all_that_is_old_goes_if_nothing_is_in_the_way(memory: Memory) -> None:
    await memory.record(3 * ROWS, days=2)
    await memory.record(1, days=0.5)
    assert await memory.sweep() == 1


async def test_what_is_in_the_way_delays_it_by_a_second_only(memory: Memory) -> None:
    await memory.record(2 * ROWS + 10, days=2)
    left = [await memory.sweep(NOW + s * SECOND_US, pressed=True) for s in (0, 0, 1, 2, 3)]
    assert left == [ROWS + 10, ROWS + 10, 10, 0, 0]


async def test_with_nothing_to_forget_it_looks_once_a_minute(memory: Memory) -> None:
    await memory.sweep()
    assert not memory.retention.is_due(NOW + MINUTE_US - 1)
    assert memory.retention.is_due(NOW + MINUTE_US)
    assert memory.retention.is_due(NOW - 1)  # the clock was put back


async def test_failed_runs_that_stay_keep_no_others_from_going(memory: Memory) -> None:
    await memory.record(3 * ROWS, days=2, status="failed")
    await memory.record(2, days=1.5)
    await memory.record(2, days=0.5)
    assert await memory.sweep() == 3 * ROWS + 2


def test_failed_runs_are_kept_as_others_unless_one_says_otherwise() -> None:
    same, longer = (Settings().with_options(None, 60, seconds) for seconds in (None, 90))
    assert (same.keep_us, same.keep_failed_us) == (60 * SECOND_US, 60 * SECOND_US)
    assert (longer.keep_us, longer.keep_failed_us) == (60 * SECOND_US, 90 * SECOND_US)


async def test_failed_runs_may_go_before_others(memory: Memory) -> None:
    memory.retention = Retention(memory.ledger, replace(SETTINGS, keep_failed_us=DAY_US // 4))
    await memory.record(ROWS, days=0.7)
    await memory.record(2, days=0.5, status="failed")
    assert await memory.sweep() == ROWS


async def test_what_was_passed_over_is_looked_at_again_within_an_hour(memory: Memory) -> None:
    await memory.record(10, days=2.999, status="failed")
    assert await memory.sweep() == 10
    assert await memory.sweep(NOW + 10 * MINUTE_US) == 10
    assert await memory.sweep(NOW + 60 * MINUTE_US) == 0


async def test_who_served_long_ago_is_forgotten_with_the_runs(memory: Memory) -> None:
    def enter(database: Database) -> None:
        with transaction(database):
            database.executemany(
                """INSERT INTO owners (token, pid, boot_id, started_us, seen_us, stopped_us)
                   VALUES (?1, 1, 'x', ?2, ?2, ?2)""",
                [(str(days), NOW - days * DAY_US) for days in (0, 2)],
            )

    def count(database: Database) -> int:
        found: int = database.execute("SELECT count(*) FROM owners").fetchone()[0]
        return found

    await memory.ledger.run(enter)
    await memory.sweep()
    assert await memory.ledger.run(count) == 1


async def test_a_clock_that_jumped_ahead_is_not_believed_at_once(memory: Memory) -> None:
    await memory.record(10, days=2)
    memory.retention.doubt(NOW)
    assert await memory.sweep(NOW + BELIEVED_AFTER_US - 1) == 10
    assert await memory.sweep(NOW + BELIEVED_AFTER_US) == 0


async def test_who_keeps_all_that_ever_was_does_not_look_for_what_is_old(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    monkeypatch.setattr("sqlsched.storage.pruning.prune", lambda *_: looks.append(1))
    memory.retention = Retention(memory.ledger, Settings(keep_us=NOW, keep_failed_us=NOW))
    assert await memory.sweep() == 0
    assert looks == []

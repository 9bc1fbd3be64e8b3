"""Firings that never ran are put on record once, at a price that does not follow what did run."""

import pytest

from sqlsched.planner import Stretch
from sqlsched.storage.unrun import record
from sqlsched.trigger import Trigger

from .bench import Bench, s

EACH_SECOND = Trigger(None, None, None, 1, s(0), None, 0)


def enter_runs(bench: Bench, *seconds: int) -> None:
    bench.database.executemany(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, started_us, finished_us)
           VALUES ('job', 'm:f', ?1, 1, 'schedule', 'succeeded', ?1, ?1, ?1)""",
        [(s(second),) for second in seconds],
    )


def miss(bench: Bench, last: int) -> list[tuple[float, float, int]]:
    stretch = Stretch(s(0), s(last), last + 1, "missed", "coalesced")
    record(bench.database, "job", "m:f", stretch, EACH_SECOND, s(last))
    return [row[:3] for row in bench.unrun()]


def test_runs_at_the_beginning_of_a_stretch_are_not_gone_through_one_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_runs(bench, *range(5000))
    plain, calls = Trigger.next_us, []

    def next_us(self: Trigger, after_us: int) -> int | None:
        calls.append(after_us)
        return plain(self, after_us)

    monkeypatch.setattr(Trigger, "next_us", next_us)
    assert miss(bench, 5999) == [(5000, 5999, 1000)]
    assert len(calls) < 5


def test_runs_and_records_amid_a_stretch_part_it(bench: Bench) -> None:
    enter_runs(bench, 3, 4, 8)
    assert miss(bench, 5) == [(0, 2, 3), (5, 5, 1)]
    assert miss(bench, 10) == [(0, 2, 3), (5, 5, 1), (6, 7, 2), (9, 10, 2)]
    assert miss(bench, 10) == [(0, 2, 3), (5, 5, 1), (6, 7, 2), (9, 10, 2)]

"""The SQLite source, where it is used in other ways than by a scheduler."""

import asyncio
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from sqlsched import ScheduledTask, SqliteScheduleSource
from sqlsched.storage.connection import Database, open_for_writing
from sqlsched.storage.files import Gate


async def test_calls_that_come_at_once_open_the_database_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def noted(path: Path, **more: Any) -> Database:
        opened.append(path)
        return open_for_writing(path, **more)

    monkeypatch.setattr("sqlsched.storage.ledger.open_for_writing", noted)
    source = SqliteScheduleSource(tmp_path / "a.db")
    tasks = [ScheduledTask(task_name="m:f", interval=60, schedule_id=f"s{n}") for n in range(8)]
    await asyncio.gather(*map(source.add_schedule, tasks))
    assert len(await source.get_schedules()) == 8
    await source.shutdown()
    assert len(opened) == 1


def test_a_source_may_be_used_in_one_event_loop_after_another(tmp_path: Path) -> None:
    source = SqliteScheduleSource(tmp_path / "a.db")

    async def add(prefix: str) -> int:
        ids = [f"{prefix}{number}" for number in range(4)]
        tasks = [ScheduledTask(task_name="m:f", interval=60, schedule_id=each) for each in ids]
        await asyncio.gather(*map(source.add_schedule, tasks))
        found = len(await source.get_schedules())
        await source.shutdown()
        return found

    assert [asyncio.run(add(prefix)) for prefix in "ab"] == [4, 8]


async def test_a_startup_that_is_cancelled_while_it_waits_for_others_lets_them_go_on(
    tmp_path: Path,
) -> None:
    gate, went_on = Gate(tmp_path / "a.db"), False
    gate.open()
    with closing(gate), ExitStack() as held:
        held.enter_context(gate.held(1))

        def go_on() -> None:
            nonlocal went_on
            went_on = True
            held.close()

        starting = asyncio.create_task(SqliteScheduleSource(tmp_path / "a.db").startup())
        await asyncio.sleep(0.1)
        asyncio.get_running_loop().call_later(0.1, go_on)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert went_on

"""The SQLite source, where it is used in other ways than by a scheduler."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sqlsched import ScheduledTask, SqliteScheduleSource
from sqlsched.storage import ledger


async def test_calls_that_come_at_once_open_the_database_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, opened = ledger.open_for_writing, []

    def open_for_writing(path: Path, **more: Any) -> Any:
        opened.append(path)
        return plain(path, **more)

    monkeypatch.setattr(ledger, "open_for_writing", open_for_writing)
    source = SqliteScheduleSource(tmp_path / "a.db")
    tasks = [ScheduledTask(task_name="m:f", interval=60, schedule_id=f"s{n}") for n in range(8)]
    await asyncio.gather(*map(source.add_schedule, tasks))
    assert len(await source.get_schedules()) == 8
    await source.shutdown()
    assert len(opened) == 1

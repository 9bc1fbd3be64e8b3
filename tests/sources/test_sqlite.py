"""The SQLite source, where it is used in other ways than by a scheduler."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sqlsched import ScheduledTask, SqliteScheduleSource
from sqlsched.storage.connection import Database, open_for_writing


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

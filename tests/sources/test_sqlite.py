"""The SQLite source, where it is used in other ways than by a scheduler."""

import asyncio
import threading
from pathlib import Path

from sqlsched import ScheduledTask, SqliteScheduleSource


async def test_calls_that_come_at_once_open_the_database_once(tmp_path: Path) -> None:
    source = SqliteScheduleSource(tmp_path / "a.db")
    before = set(threading.enumerate())
    tasks = [ScheduledTask(task_name="m:f", interval=60, schedule_id=f"s{n}") for n in range(8)]
    await asyncio.gather(*map(source.add_schedule, tasks))
    assert len(await source.get_schedules()) == 8
    await source.shutdown()
    assert set(threading.enumerate()) <= before

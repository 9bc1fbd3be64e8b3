"""A scheduler on a fake clock: whole days pass in milliseconds, through the real loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sqlsched import InProcessBroker, ScheduledTask, Scheduler, SqliteScheduleSource
from sqlsched.engine.scheduler import Options
from sqlsched.instants import from_us
from sqlsched.storage import runs
from sqlsched.storage.connection import Database, open_for_reading, open_for_writing
from sqlsched.storage.runs import RunRow
from sqlsched.testing import FakeClock

START = datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)


class World:
    """A database, a fake clock, a broker with a few tasks, and what they did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock(START)
        self.broker = InProcessBroker()
        self.source = SqliteScheduleSource(path, clock=self.clock)
        self.calls: list[tuple[str, datetime]] = []
        self.failures_left = 0
        self.task("note", self._note)
        self.task("flaky", self._flaky)
        self.task("nap", self._nap)

    def task(self, name: str, function: Callable[..., Any]) -> None:
        self.broker.tasks[f"t:{name}"] = function

    def scheduler(self) -> Scheduler:
        return Scheduler(self.broker, [self.source], clock=self.clock)

    async def add(self, task_name: str = "t:note", **fields: Any) -> ScheduledTask:
        schedule = ScheduledTask(task_name=task_name, **fields)
        await self.source.add_schedule(schedule)
        return schedule

    async def run(self, duration: timedelta | None = None, **arguments: Any) -> None:
        """Serve for a while, or until idle."""
        options = arguments.pop("options", Options())
        if duration is not None:
            arguments["until"] = self.clock.now() + duration
        else:
            arguments.setdefault("until_idle", True)
        await self.scheduler().run(options=options, **arguments)

    def history(self, schedule_id: str | None = None) -> list[RunRow]:
        """Every row of the ledger, oldest first."""
        database = open_for_reading(self.path)
        try:
            return list(runs.history(database, schedule_id=schedule_id))[::-1]
        finally:
            database.close()

    def statuses(self) -> list[tuple[str, str]]:
        """When and how, for each row: `("12:01", "succeeded")`."""
        return [(f"{from_us(r.scheduled_us):%H:%M:%S}", r.status) for r in self.history()]

    def writing(self) -> Database:
        return open_for_writing(self.path)

    async def _note(self, label: str = "note") -> None:
        self.calls.append((label, self.clock.now()))

    async def _flaky(self) -> None:
        self.calls.append(("flaky", self.clock.now()))
        if self.failures_left:
            self.failures_left -= 1
            raise RuntimeError("not yet")

    async def _nap(self, seconds: float) -> None:
        self.calls.append(("asleep", self.clock.now()))
        await self.clock.sleep(seconds)
        self.calls.append(("awake", self.clock.now()))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "app.db")
    await made.source.startup()
    async with asyncio.timeout(30):
        yield made
    await made.source.shutdown()

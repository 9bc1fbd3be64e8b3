"""The source that everything starts with: schedules in a SQLite file."""

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from sqlsched.abc import ScheduleSource
from sqlsched.clock import Clock, SystemClock
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import additions, changes, schedules
from sqlsched.storage.connection import Database, check_files
from sqlsched.storage.ledger import Ledger

log = logging.getLogger("sqlsched")


class SqliteScheduleSource(ScheduleSource):
    """Schedules in a SQLite file, which also is the ledger of their runs.

    `clock` decides what "now" is when a schedule is added; without one it is its scheduler's.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        self.path = self.database = Path(path)
        self.clock = clock
        self._ledger: Ledger | None = None
        self._opening: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    async def startup(self) -> None:
        """Open the database; make it if it is missing."""
        if self._ledger is None:
            async with self._opened_once():
                if self._ledger is None:
                    self._ledger = await Ledger(self.path).__aenter__()

    def _opened_once(self) -> asyncio.Lock:
        """The lock of this event loop: a lock belongs to one, a source may see several."""
        loop = asyncio.get_running_loop()
        if self._opening is None or self._opening[0] is not loop:
            self._opening = loop, asyncio.Lock()
        return self._opening[1]

    async def shutdown(self) -> None:
        """Close the database."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            await ledger.__aexit__(None, None, None)

    async def get_schedules(self) -> list[ScheduledTask]:
        """Every schedule that is not done."""
        return await (await self._open()).run(_all_schedules)

    async def add_schedule(self, schedule: ScheduledTask, replace: bool = False) -> None:
        """Store a schedule durably; a running scheduler sees it within a second."""
        ledger = await self._open()
        await ledger.run(additions.add, schedule, self._now_us(), replace_other=replace)

    async def add_schedules(
        self, schedules: Iterable[ScheduledTask], replace: bool = False
    ) -> None:
        """Store schedules durably, all of them or, if one is refused or `schedules` raises, none.

        Each is taken as by `add_schedule`; an id that comes twice is refused. `schedules` is
        iterated in the database's thread, while nobody else can write: let it be quick.
        """
        ledger = await self._open()
        await ledger.run(additions.add_all, schedules, self._now_us(), replace_other=replace)

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule; its history stays."""
        await (await self._open()).run(changes.remove, [schedule_id], self._now_us())

    async def _open(self) -> Ledger:
        await self.startup()
        assert self._ledger is not None
        return self._ledger

    def _now_us(self) -> int:
        return (self.clock or SystemClock()).now_us()


def _all_schedules(database: Database) -> list[ScheduledTask]:
    check_files(database)
    selection = schedules.Selection(source="")
    return [row.schedule for row in schedules.stored(database, selection, on_bad=_tell_of_bad)]


def _tell_of_bad(schedule_id: str, error: Exception) -> None:
    log.error("schedule %s is passed over, as its row is damaged: %s", schedule_id, error)

"""The schedules in Redis: adding, removing and listing them."""

import logging
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from sqlsched.exceptions import DuplicateScheduleError, ScheduleNotFoundError, StorageError
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.serialization import shorten
from sqlsched.sources.redis import decisions, rows
from sqlsched.sources.redis.connection import Connection
from sqlsched.sources.redis.rows import DAMAGED, Row, Span, State

log = logging.getLogger("sqlsched")

PUT_TRIES = 20


@dataclass(frozen=True, slots=True)
class _There:
    """What stands in Redis under an id."""

    content: str | None
    state: str | None
    dispatched: int
    is_done: int
    unstarted: str
    """Nominal times, with commas."""
    removed: str | None
    """The state of one that was removed in the last day."""
    now_ms: str

    def claimed(self) -> tuple[Span, ...]:
        """The firings of the one that was removed."""
        if self.removed is None:
            return ()
        try:
            return decisions.recent(rows.read_state(self.removed).claimed, int(self.now_ms))
        except DAMAGED:
            return ()


class Store:
    """The schedules under one prefix."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._named: set[str] = set()

    async def add(self, schedule: ScheduledTask, now_us: int, *, replace_other: bool) -> None:
        """Store a schedule. DuplicateScheduleError if its id has other content."""
        for _ in range(PUT_TRIES):
            there = _There(*await self._connection.run("peek", schedule.schedule_id))
            state, is_new = self._decide(schedule, there, now_us, replace_other)
            if state is None or await self._put(schedule, there, state, is_new):
                return
        raise StorageError(
            f"{self._connection.shown}: schedule {schedule.schedule_id} changes all the time; "
            "try again"
        )

    async def remove(self, schedule_id: str) -> None:
        """Remove a schedule, or a damaged row; ScheduleNotFoundError if there is none."""
        if not await self._connection.run("delete", schedule_id):
            raise ScheduleNotFoundError(f"no schedule has the id {shorten(schedule_id)}")

    async def missing(self, ids: Collection[str]) -> set[str]:
        """Those of these ids that are not here."""
        wanted = list(ids)
        there = await self._connection.run("there", *wanted) if wanted else []
        return {one for one, found in zip(wanted, there, strict=True) if not found}

    async def pages(self) -> AsyncIterator[list[Row]]:
        """Every schedule that is not done, some hundreds at a time."""
        cursor, seen = "0", set[str]()
        while True:
            cursor, found = await self._connection.run("page", cursor)
            # While the table grows, a page may repeat what was on one before.
            fresh = [entry for entry in found if entry[0] not in seen]
            seen.update(entry[0] for entry in fresh)
            yield [row for entry in fresh if (row := self.row(*entry)) is not None]
            if cursor == "0":
                return

    def row(self, schedule_id: str, content: str | None, state: str | None) -> Row | None:
        """A row, or None if it is damaged, which is said once."""
        try:
            return rows.read_row(schedule_id, content, state)
        except DAMAGED as error:
            self.name(schedule_id, error)
            return None

    def name(self, schedule_id: str, error: Exception) -> None:
        """Say, once, that a schedule is damaged."""
        if schedule_id not in self._named:
            self._named.add(schedule_id)
            log.error(
                "schedule %s in %s is put aside, as its row is damaged: %s",
                *(shorten(schedule_id), self._connection.shown, error),
                extra={"schedule_id": schedule_id},
            )

    def _decide(
        self, schedule: ScheduledTask, there: _There, now_us: int, replace_other: bool
    ) -> tuple[State | None, bool]:
        """The state to store, or None if there is nothing to change; and whether it begins anew."""
        if there.content is None and there.state is None:
            return decisions.inserted(schedule, now_us, there.claimed()), True
        row = _readable(schedule.schedule_id, there)
        same = row.schedule.content() == schedule.content()
        if same and not (there.is_done and row.trigger.recurring):
            return None, False
        if there.is_done:
            return decisions.inserted(schedule, now_us, row.state.claimed), True
        if not replace_other:
            raise DuplicateScheduleError(
                f"a schedule with the id {schedule.schedule_id!r} and other content exists; "
                "replace it, or use another id"
            )
        unstarted = [int(us) for us in there.unstarted.split(",") if us]
        return decisions.changed(row, schedule, there.dispatched, unstarted, now_us), False

    async def _put(self, schedule: ScheduledTask, there: _There, state: State, new: bool) -> bool:
        """False if somebody changed the schedule meanwhile."""
        wake_us = rows.wake_us(schedule, state)
        stored = await self._connection.run(
            *("put", schedule.schedule_id),
            *(there.content or "", there.state or "", there.unstarted),
            *(rows.written_schedule(schedule), rows.written_state(state)),
            *("" if wake_us is None else str(wake_us), str(int(state.next_us is None))),
            str(int(new)),
        )
        return bool(stored)


def _readable(schedule_id: str, there: _There) -> Row:
    try:
        return rows.read_row(schedule_id, there.content, there.state)
    except DAMAGED as error:
        raise StorageError(
            f"schedule {schedule_id} was changed by other means and cannot be read: {error}; "
            "delete it first"
        ) from error

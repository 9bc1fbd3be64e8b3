"""Backfilling: running firings of the past that have no run, because somebody asks for it.

A backfilled firing has a row of its own beside what is on record of it, with a fixed key, so that
it has one however often it is asked for. They stand in a line, and leave it one at a time.
"""

from dataclasses import dataclass

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import format_us
from sqlsched.storage.changes import refuse_shared
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.hooks import hooked
from sqlsched.storage.runs import pruned_us
from sqlsched.storage.schedules import DISPATCHED, LIVE, StoredSchedule, get
from sqlsched.storage.turn import BACKFILL_KEY

MOST_FIRINGS = 100_000


@dataclass(frozen=True, slots=True)
class Missing:
    """The firings in a span of time, and those of them that have no run."""

    total: int
    without_run: list[int]


def missing(database: Database, schedule_id: str, first_us: int, last_us: int) -> Missing:
    """Which firings of a schedule from one instant to another, both included, have neither been
    dispatched nor are about to be.

    InvalidScheduleError if that cannot be told: the history there is pruned, or other machines have
    a part of it; or if there are more firings than `MOST_FIRINGS`.
    """
    there = get(database, schedule_id)
    refuse_shared(database, [schedule_id], "run its firings there")
    _refuse_pruned(database, schedule_id, first_us)
    firings = _firings(there, first_us, last_us)
    rows = database.execute(
        f"""SELECT scheduled_us FROM runs WHERE schedule_id = ? AND scheduled_us BETWEEN ? AND ?
            AND attempt > 0 AND manual_key IN (0, {BACKFILL_KEY}) AND ({DISPATCHED} OR {LIVE})""",
        (schedule_id, first_us, last_us),
    )
    known = {row[0] for row in rows}
    return Missing(len(firings), [us for us in firings if us not in known])


def backfill(
    database: Database, schedule_id: str, first_us: int, last_us: int, now_us: int
) -> Missing:
    """Have those firings run, one after another; a scheduler that serves the schedule does it."""
    with transaction(database):
        found = missing(database, schedule_id, first_us, last_us)
        there = get(database, schedule_id)
        _take_place(database, there, found.without_run, now_us)
        # One that was cancelled before it started is asked for again.
        database.executemany(
            f"""INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, manual_key,
                    trigger, status, due_us, held, untold)
                SELECT ?1, ?2, ?3, 1, {BACKFILL_KEY}, 'backfill', 'waiting', ?4, 2,
                    {hooked("schedules")} FROM schedules WHERE schedule_id = ?1
                ON CONFLICT DO UPDATE SET task_name = excluded.task_name, status = 'waiting',
                    due_us = excluded.due_us, held = 2, reason = NULL, owner = NULL,
                    finished_us = NULL, cancel_us = NULL, because_of = NULL""",
            [(schedule_id, there.schedule.task_name, us, now_us) for us in found.without_run],
        )
    return found


def _refuse_pruned(database: Database, schedule_id: str, first_us: int) -> None:
    pruned = pruned_us(database)
    if first_us <= pruned:
        raise InvalidScheduleError(
            f"history up to {format_us(pruned)} has been pruned, and nobody knows what has run of "
            f"{schedule_id!r} until then; begin later"
        )


def _firings(there: StoredSchedule, first_us: int, last_us: int) -> list[int]:
    trigger = there.trigger
    first, last = trigger.next_us(first_us - 1), trigger.previous_us(last_us + 1)
    if first is None or last is None or first > last:
        return []
    number = trigger.count(first, last)
    if number > MOST_FIRINGS:
        raise InvalidScheduleError(
            f"{there.schedule.schedule_id!r} has {number:,} firings from {format_us(first_us)} to "
            f"{format_us(last_us)}, and at most {MOST_FIRINGS:,} are backfilled at once; do it in "
            "parts"
        )
    firings: list[int] = []
    cursor: int | None = first
    while cursor is not None and cursor <= last:
        firings.append(cursor)
        cursor = trigger.next_us(cursor)
    return firings


def _take_place(database: Database, there: StoredSchedule, firings: list[int], now_us: int) -> None:
    """Let no scheduler run, on its own account, what it has not decided about yet."""
    if there.next_us is None:
        return
    database.executemany(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status, reason,
               due_us, finished_us)
           VALUES (?1, ?2, ?3, 1, 'schedule', 'skipped', 'backfilled', ?3, ?4)
           ON CONFLICT DO NOTHING""",
        [
            (there.schedule.schedule_id, there.schedule.task_name, us, now_us)
            for us in firings
            if us >= there.next_us
        ],
    )

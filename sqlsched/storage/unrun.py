"""Firings that never ran: one row of the ledger for a stretch of them."""

from dataclasses import replace

from sqlsched.planner import Stretch
from sqlsched.storage.connection import Database
from sqlsched.storage.hooks import hooked
from sqlsched.trigger import Trigger


def record(
    database: Database,
    schedule_id: str,
    task_name: str,
    stretch: Stretch,
    trigger: Trigger,
    now_us: int,
) -> Stretch | None:
    """Write one row for firings that never ran; what the ledger has of them, or None.

    Its attempt is 0, so that it takes no firing's identity: should the clock be put back, those
    firings can still run. Of those that did, before a clock that was put back went on, it says
    nothing.
    """
    unrun = _without_runs(database, schedule_id, stretch, trigger)
    if unrun is None:
        return None
    database.execute(
        f"""INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               reason, due_us, last_us, count, finished_us, untold)
           VALUES (?1, ?2, ?3, 0, 'schedule', ?4, ?5, ?3, ?6, ?7, ?8,
               ?4 = 'missed' AND coalesce((SELECT {hooked("s")} FROM schedules AS s
                   WHERE s.schedule_id = ?1), 0))
           ON CONFLICT DO UPDATE SET status = excluded.status, reason = excluded.reason,
               last_us = max(last_us, excluded.last_us), count = max(count, excluded.count)""",
        (
            *(schedule_id, task_name, unrun.first_us, unrun.status, unrun.reason),
            *(unrun.last_us, unrun.count, now_us),
        ),
    )
    return unrun


def _without_runs(
    database: Database, schedule_id: str, stretch: Stretch, trigger: Trigger
) -> Stretch | None:
    ran, last_us = count_ran(database, schedule_id, stretch.first_us, stretch.last_us)
    if not ran:
        return stretch
    if ran >= stretch.count:
        return None
    first_us: int | None = stretch.first_us
    if trigger.count(stretch.first_us, last_us) == ran:  # those at the beginning, as a rule
        first_us = trigger.next_us(last_us)
    return replace(stretch, first_us=first_us or stretch.first_us, count=stretch.count - ran)


def count_ran(database: Database, schedule_id: str, first_us: int, last_us: int) -> tuple[int, int]:
    """How many firings of a span of time the ledger has as runs, and the last of them."""
    row: tuple[int, int] = database.execute(
        """SELECT count(*), coalesce(max(scheduled_us), 0) FROM runs
           WHERE schedule_id = ? AND scheduled_us BETWEEN ? AND ?
           AND attempt = 1 AND manual_key = 0""",
        (schedule_id, first_us, last_us),
    ).fetchone()
    return row

"""Firings that never ran: one row of the ledger for a stretch of them."""

from collections.abc import Iterator
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
) -> list[Stretch]:
    """Write a row for firings that never ran, or several: what the ledger has of them already, as
    runs or as such a row, is left out. Returns what was written.

    Their attempt is 0, so that they take no firing's identity: should the clock be put back, those
    firings can still run.
    """
    unrun = list(_not_known(database, schedule_id, stretch, trigger))
    database.executemany(
        f"""INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               reason, due_us, last_us, count, finished_us, untold)
           VALUES (?1, ?2, ?3, 0, 'schedule', ?4, ?5, ?3, ?6, ?7, ?8,
               ?4 = 'missed' AND coalesce((SELECT {hooked("s")} FROM schedules AS s
                   WHERE s.schedule_id = ?1), 0))""",
        [
            (*(schedule_id, task_name, s.first_us, s.status, s.reason), s.last_us, s.count, now_us)
            for s in unrun
        ],
    )
    return unrun


def _not_known(
    database: Database, schedule_id: str, stretch: Stretch, trigger: Trigger
) -> Iterator[Stretch]:
    """What the ledger does not have, as after a clock that was put back, or a change to what was
    claimed: as a rule all of it, or its end."""
    first_us: int | None = stretch.first_us
    ran, ran_us = count_ran(database, schedule_id, stretch.first_us, stretch.last_us)
    if ran and trigger.count(stretch.first_us, ran_us) == ran:
        first_us = trigger.next_us(ran_us)  # so many need not be gone through
    known = database.execute(
        """SELECT scheduled_us, coalesce(last_us, scheduled_us) FROM runs
           WHERE schedule_id = ? AND scheduled_us BETWEEN ? AND ? AND attempt <= 1
           AND manual_key = 0 ORDER BY scheduled_us""",
        (schedule_id, first_us, stretch.last_us),
    )
    for begin_us, end_us in known:
        if first_us is None:
            return
        if first_us < begin_us:
            yield _part(stretch, trigger, first_us, trigger.previous_us(begin_us))
        if first_us <= end_us:
            first_us = trigger.next_us(end_us)
    if first_us == stretch.first_us:
        yield stretch
    elif first_us is not None and first_us <= stretch.last_us:
        yield _part(stretch, trigger, first_us, stretch.last_us)


def count_ran(database: Database, schedule_id: str, first_us: int, last_us: int) -> tuple[int, int]:
    """How many firings of a span of time the ledger has as runs, and the last of them."""
    row: tuple[int, int] = database.execute(
        """SELECT count(*), coalesce(max(scheduled_us), 0) FROM runs
           WHERE schedule_id = ? AND scheduled_us BETWEEN ? AND ?
           AND attempt = 1 AND manual_key = 0""",
        (schedule_id, first_us, last_us),
    ).fetchone()
    return row


def _part(stretch: Stretch, trigger: Trigger, first_us: int, last_us: int | None) -> Stretch:
    last_us = first_us if last_us is None else max(first_us, last_us)
    count = trigger.count(first_us, last_us)
    return replace(stretch, first_us=first_us, last_us=last_us, count=count)

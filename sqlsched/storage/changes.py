"""Changing schedules: edit, remove, pause, resume; each is durable when it returns.

A change takes back the firings that a scheduler has claimed but not started; it leaves running
runs alone, and accounts in the ledger for firings that will not run because of it.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.planner import jittered_us, resume, settle
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.serialization import checked_text
from sqlsched.storage import audit, highest_time
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.schedules import (
    StoredSchedule,
    UnreadableScheduleError,
    get,
    to_row,
)
from sqlsched.storage.starts import REMOVED, UNSTARTED, is_going
from sqlsched.storage.unrun import record
from sqlsched.trigger import Trigger

_THESE = "schedule_id IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` or `edit` did: `changed` is False where the same content was there already."""

    next_us: int | None
    changed: bool


def edit(
    database: Database,
    schedule_id: str,
    change: Callable[[ScheduledTask], ScheduledTask],
    now_us: int,
) -> Added:
    """Replace a schedule by what `change` makes of it; its firings are computed from now on."""
    with transaction(database):
        there = get(database, schedule_id)
        if there.source:
            raise InvalidScheduleError(
                f"schedule {schedule_id!r} comes from {there.source}; change it there"
            )
        return replace_one(database, change(there.schedule), now_us, "edited")


def remove(
    database: Database, ids: Sequence[str], now_us: int, *, copies_too: bool = False
) -> None:
    """Remove schedules, all or none; their history stays, and so do their running runs.

    InvalidScheduleError for one that another source lists, which would come back; unless
    `copies_too`.
    """
    with transaction(database):
        if not copies_too:
            _refuse(database, ids, "source != ''", "remove it there")
        remove_all(database, ids, now_us)


def pause(
    database: Database,
    ids: Sequence[str],
    now_us: int,
    *,
    note: str | None = None,
    who: str | None = None,
) -> None:
    """Stop firings until `resume`. Pausing what is paused changes nothing but its note.

    `note` says why and `who` by whom, for the record; by default it is who runs this process.
    InvalidScheduleError for one that several machines share.
    """
    if note is not None:
        checked_text(note, "note")
    with transaction(database):
        refuse_shared(database, ids, "pause it there")
        pause_within(database, ids, now_us, note=note, who=who)


def resume_all(database: Database, ids: Sequence[str], now_us: int) -> None:
    """Go on from now: what a pause swallowed is recorded as skipped, a one-shot still runs.

    InvalidScheduleError for one that several machines share.
    """
    with transaction(database):
        refuse_shared(database, ids, "resume it there")
        resume_within(database, ids, now_us)


def refuse_shared(database: Database, ids: Sequence[str], what: str) -> None:
    """InvalidScheduleError if several machines share one of these schedules."""
    _refuse(database, ids, "shared = 1", what)


def _refuse(database: Database, ids: Sequence[str], condition: str, what: str) -> None:
    """InvalidScheduleError that names the first of these schedules that fits the condition."""
    row = database.execute(
        f"""SELECT schedule_id, source FROM schedules
            WHERE {condition} AND schedule_id IN (SELECT value FROM json_each(?))""",
        (json.dumps(list(ids)),),
    ).fetchone()
    if row is not None:
        raise InvalidScheduleError(f"schedule {row[0]!r} comes from {row[1]}; {what}")


def next_columns(
    schedule_id: str,
    schedule: ScheduledTask,
    anchor_us: int,
    next_us: int | None,
    *,
    paused: bool = False,
) -> dict[str, int | None]:
    """The columns that say when a schedule is looked at next; one that is paused is not."""
    if paused or next_us is None:
        return {"next_us": next_us, "wake_us": None}
    return {"next_us": next_us, "wake_us": wake(schedule_id, schedule, anchor_us, next_us)}


def wake(schedule_id: str, schedule: ScheduledTask, anchor_us: int, next_us: int) -> int:
    """When to look for the firing at `next_us`."""
    if schedule.jitter is None:
        return next_us
    return jittered_us(schedule_id, schedule.timing(anchor_us), next_us)


def replace_one(
    database: Database,
    schedule: ScheduledTask,
    now_us: int,
    what: Literal["edited", "replaced"],
) -> Added:
    """Let a schedule take the place of the one with its id, within a transaction."""
    highest_time.note(database, now_us)
    audit.ended(database, what, [schedule.schedule_id], now_us)
    revoke(database, schedule.schedule_id)
    there = get(database, schedule.schedule_id)
    same_trigger = _without_end(schedule) == _without_end(there.schedule)
    anchor = there.anchor_us if same_trigger else now_us
    trigger = schedule.trigger(anchor)
    dispatched = dispatches(database, there, schedule)
    next_us = _next_after_change(there, trigger, now_us, same_trigger)
    if schedule.max_runs is not None and dispatched >= schedule.max_runs:
        next_us = None
    if next_us is None and there.next_us is not None:
        raise never(schedule)
    if next_us != there.next_us:
        account(database, there, now_us, "missed", "edited")
    values = to_row(schedule) | {"anchor_us": anchor, "dispatched": dispatched, "failures": 0}
    paused = there.paused_us is not None
    values |= next_columns(schedule.schedule_id, schedule, anchor, next_us, paused=paused)
    changes = ", ".join(f"{name} = :{name}" for name in values)
    database.execute(f"UPDATE schedules SET {changes} WHERE schedule_id = :schedule_id", values)
    if schedule.paused:
        pause_within(database, [schedule.schedule_id], now_us)
    return Added(next_us, changed=True)


def _without_end(schedule: ScheduledTask) -> Trigger:
    return replace(schedule.trigger(0), end_us=None)


def dispatches(database: Database, there: StoredSchedule, schedule: ScheduledTask) -> int:
    """How many firings count towards `max_runs`; only schedules that have one keep the count."""
    if schedule.max_runs is None or there.schedule.max_runs is not None:
        return there.dispatched
    query = """SELECT count(*) FROM runs WHERE schedule_id = ? AND attempt = 1
               AND manual_key = 0 AND started_us >= ?"""
    values = (schedule.schedule_id, there.created_us)  # not those of one before it, of the same id
    count: int = database.execute(query, values).fetchone()[0]
    return count


def _next_after_change(
    there: StoredSchedule, trigger: Trigger, now_us: int, same_trigger: bool
) -> int | None:
    if trigger.recurring:
        if same_trigger and there.next_us is not None:
            # While this one waited for its turn to write, another may have started a firing.
            now_us = max(now_us, there.next_us - 1)
        return trigger.next_us(now_us)
    # An overdue one-shot whose time stays as it was is still to run, and one that ran is done.
    return there.next_us if same_trigger else trigger.time_us


def never(schedule: ScheduledTask) -> InvalidScheduleError:
    """The error about a schedule that would not fire again."""
    bounds = [f"end {schedule.end.isoformat()}"] if schedule.end else []
    bounds += [f"max_runs {schedule.max_runs}"] if schedule.max_runs else []
    return InvalidScheduleError(
        f"{' and '.join(bounds) or 'the trigger'} leaves no firing from now on; widen the bounds"
    )


def remove_all(
    database: Database, ids: Sequence[str], now_us: int, *, who: str | None = None
) -> None:
    """Remove schedules, within a transaction. Only those that leave something undone are gone
    through one by one. ScheduleNotFoundError if one is not there."""
    listed = json.dumps(list(ids))
    missing = database.execute(
        """SELECT value FROM json_each(?)
           WHERE value NOT IN (SELECT schedule_id FROM schedules) LIMIT 1""",
        (listed,),
    ).fetchone()
    if missing is not None:
        get(database, missing[0])
    audit.ended(database, "removed", ids, now_us, who)
    for schedule_id in _undone(database, listed, now_us):
        _cancel_all(database, schedule_id, now_us)
    database.execute(
        f"""UPDATE runs SET reason = '{REMOVED}'
            WHERE {is_going("runs")} AND status IN ('running', 'sending') AND {_THESE}""",
        (listed,),
    )
    database.execute(f"DELETE FROM schedules WHERE {_THESE}", (listed,))


def _undone(database: Database, listed: str, now_us: int) -> list[str]:
    """Those of these schedules that have something due, claimed or waiting.

    Few runs are claimed or waiting: with the plus, SQLite starts from them and not from the ids.
    """
    these = _THESE.replace("?", "?1")
    rows = database.execute(
        f"""SELECT schedule_id FROM schedules WHERE next_us <= ?2 AND {these}
            UNION SELECT schedule_id FROM runs WHERE status = 'claimed' AND +{these}
            UNION SELECT schedule_id FROM runs WHERE status = 'waiting' AND held = 0 AND +{these}
            UNION SELECT schedule_id FROM runs WHERE held = 1 AND +{these}""",
        (listed, now_us),
    )
    return [row[0] for row in rows]


def _cancel_all(database: Database, schedule_id: str, now_us: int) -> None:
    """Account for what a schedule that goes has not done."""
    with suppress(UnreadableScheduleError):  # nobody can tell its firings; it goes all the same
        revoke(database, schedule_id)
        account(database, get(database, schedule_id), now_us, "cancelled", "removed")
    database.execute(
        """UPDATE runs SET status = 'cancelled', reason = 'removed', held = 0, finished_us = ?
           WHERE schedule_id = ? AND status IN ('waiting', 'claimed')""",
        (now_us, schedule_id),
    )


def account(
    database: Database,
    there: StoredSchedule,
    now_us: int,
    status: Literal["missed", "cancelled"],
    reason: str,
) -> None:
    """Put on record what was due and will not run, as its schedule changes; what a pause swallowed
    was paused, not missed."""
    stretches = settle(there.trigger, there.next_us, now_us, status, reason)
    if there.paused_us is not None and there.trigger.recurring:
        stretches, _ = resume(there.trigger, there.next_us, there.paused_us, now_us)
    schedule = there.schedule
    for stretch in stretches:
        record(database, schedule.schedule_id, schedule.task_name, stretch, there.trigger, now_us)


def pause_within(
    database: Database,
    ids: Sequence[str],
    now_us: int,
    *,
    note: str | None = None,
    who: str | None = None,
) -> None:
    """The same as `pause`, within a transaction."""
    listed = json.dumps(list(ids))
    audit.paused(database, ids, now_us, note=note, who=who)
    unstarted = f"""SELECT schedule_id FROM runs WHERE status = 'claimed' AND +{_THESE}
        UNION SELECT schedule_id FROM runs WHERE status = 'waiting' AND held = 0 AND +{_THESE}"""
    for (schedule_id,) in database.execute(unstarted, (listed, listed)).fetchall():
        revoke(database, schedule_id)
    database.execute(
        f"""UPDATE schedules SET paused_us = ?, wake_us = NULL
            WHERE paused_us IS NULL AND {_THESE}""",
        (now_us, listed),
    )


def resume_within(database: Database, ids: Sequence[str], now_us: int) -> None:
    """The same as `resume_all`, within a transaction."""
    highest_time.note(database, now_us)
    audit.resumed(database, ids, now_us)
    for schedule_id in ids:
        _resume(database, schedule_id, now_us)


def _resume(database: Database, schedule_id: str, now_us: int) -> None:
    there = get(database, schedule_id)
    if there.paused_us is None:
        return
    stretches, next_us = resume(there.trigger, there.next_us, there.paused_us, now_us)
    for stretch in stretches:
        record(database, schedule_id, there.schedule.task_name, stretch, there.trigger, now_us)
    values: dict[str, Any] = next_columns(schedule_id, there.schedule, there.anchor_us, next_us)
    database.execute(
        """UPDATE schedules SET paused_us = NULL, failures = 0, next_us = :next_us,
               wake_us = :wake_us
           WHERE schedule_id = :schedule_id""",
        values | {"schedule_id": schedule_id},
    )


def revoke(database: Database, schedule_id: str) -> None:
    """Take back what was claimed and not started, whoever claimed it, or gave it back.

    Firings go back into the schedule, whose next firing is the earliest of them again; retries
    and held runs go back to waiting. Manual triggers are nobody's firing and stay.
    """
    firings = f"schedule_id = ? AND {UNSTARTED}"
    earliest = database.execute(
        f"SELECT min(scheduled_us) FROM runs WHERE {firings}",
        (schedule_id,),
    ).fetchone()[0]
    if earliest is not None:
        there = get(database, schedule_id)
        next_us = earliest if there.next_us is None else min(earliest, there.next_us)
        values = next_columns(schedule_id, there.schedule, there.anchor_us, next_us)
        database.execute(f"DELETE FROM runs WHERE {firings}", (schedule_id,))
        database.execute(
            "UPDATE schedules SET next_us = ?, wake_us = ? WHERE schedule_id = ?",
            (values["next_us"], values["wake_us"], schedule_id),
        )
    database.execute(
        """UPDATE runs SET status = 'waiting', owner = NULL
           WHERE schedule_id = ? AND status = 'claimed' AND attempt > 1 AND manual_key = 0""",
        (schedule_id,),
    )

"""Schedules of other sources, as they stand in the ledger: copied whole, or with what was claimed.

A copy is served like a schedule that was made here; which source it came from is in its row.
"""

import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlsched.instants import MINUTE_US
from sqlsched.planner import Claim, Firing, Identity, Stretch, resume
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import audit, changes, unrun
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.hooks import hooked
from sqlsched.storage.runs import pruned_us
from sqlsched.storage.schedules import CONTENT, LIVE, Selection, get, stored, to_row, to_values

_Row = dict[str, Any]
_ANCHOR_US = 0
"""What is declared has no creation: its intervals count from the epoch."""
TAKEN_OVER = "taken-over"
"""Why a run is cancelled whose firing was claimed by another machine."""


@dataclass(slots=True)
class Synced:
    """What `sync` did, by schedule id."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Ids that are taken by schedules of the database itself."""


def sync(
    database: Database, source: str, schedules: Sequence[ScheduledTask], now_us: int
) -> Synced:
    """Make the copies of a source what the source lists: add, change, remove, in one transaction.

    What is listed unchanged keeps its state; if all of it is, nothing is written.
    """
    wanted = {schedule.schedule_id: schedule for schedule in schedules}
    rows = {schedule_id: _row(schedule) for schedule_id, schedule in wanted.items()}
    if _copies(database, source) == rows:
        return Synced()
    result = Synced()
    with transaction(database):
        there = _copies(database, source)
        result.removed += there.keys() - rows.keys() - _going_once(database, source)
        changes.remove_all(database, result.removed, now_us, who=audit.source(source))
        elsewhere = _elsewhere(database, source, rows)
        for schedule_id, row in rows.items():
            if schedule_id in elsewhere and not elsewhere[schedule_id]:
                result.refused.append(schedule_id)
            elif schedule_id in there:
                if there[schedule_id] != row:
                    _change(database, wanted[schedule_id], row, now_us, audit.source(source))
                    result.changed.append(schedule_id)
            else:
                if schedule_id in elsewhere:  # it has moved here from a source that is gone
                    changes.remove_all(database, [schedule_id], now_us, who=audit.source(source))
                _add(database, source, wanted[schedule_id], row, now_us)
                result.added.append(schedule_id)
    return result


def copied(database: Database, source: str) -> list[ScheduledTask]:
    """The schedules of a source as they stand in the ledger; of its own, those not done."""
    selection = Selection(source=source, include_done=source != "")
    return [row.schedule for row in stored(database, selection, on_bad=lambda *_: None)]


def _row(schedule: ScheduledTask) -> _Row:
    return to_row(schedule) | {"declared_paused": int(schedule.paused)}


def _copies(database: Database, source: str) -> dict[str, _Row]:
    names = (*CONTENT, "declared_paused")
    rows = database.execute(f"SELECT {', '.join(names)} FROM schedules WHERE source = ?", (source,))
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def _going_once(database: Database, source: str) -> set[str]:
    """One-shots that are on their way: some sources list them only until they are due."""
    rows = database.execute(
        f"""SELECT schedule_id FROM schedules JOIN runs USING (schedule_id)
            WHERE source = ? AND time_us IS NOT NULL AND {LIVE}""",
        (source,),
    )
    return {row[0] for row in rows}


def _elsewhere(database: Database, source: str, ids: Iterable[str]) -> dict[str, str]:
    """The source of each of these schedules that another source has."""
    rows = database.execute(
        """SELECT schedule_id, source FROM schedules
           WHERE source != ? AND schedule_id IN (SELECT value FROM json_each(?))""",
        (source, json.dumps(list(ids))),
    )
    return dict(rows.fetchall())


def _add(database: Database, source: str, schedule: ScheduledTask, row: _Row, now_us: int) -> None:
    next_us = _first_us(database, schedule, now_us)
    values = row | {"source": source, "created_us": now_us, "anchor_us": _ANCHOR_US}
    values |= _next_columns(schedule, next_us, now_us if schedule.paused else None)
    _insert(database, values)


def _insert(database: Database, values: _Row) -> None:
    marks = ", ".join(f":{name}" for name in values)
    database.execute(f"INSERT INTO schedules ({', '.join(values)}) VALUES ({marks})", values)


def _first_us(database: Database, schedule: ScheduledTask, now_us: int) -> int | None:
    """The first firing of a schedule seen now. A cron's may lie in this very minute, as nobody
    knows whether it was there a moment ago; a one-shot that has run already has none."""
    trigger = schedule.trigger(_ANCHOR_US)
    if trigger.recurring:
        minute_us = now_us - (now_us % MINUTE_US if schedule.cron else 0)
        return trigger.next_us(max(minute_us - 1, pruned_us(database)))
    ran = database.execute(
        """SELECT 1 FROM runs WHERE schedule_id = ? AND scheduled_us = ? AND attempt = 1
           AND manual_key = 0""",
        (schedule.schedule_id, trigger.time_us),
    ).fetchone()
    forgotten = (trigger.time_us or 0) <= pruned_us(database)
    return None if ran or forgotten else trigger.time_us


def _change(database: Database, schedule: ScheduledTask, row: _Row, now_us: int, who: str) -> None:
    """Bring a copy up to date. A firing to come stays as it is while the trigger does."""
    audit.ended(database, "edited", [schedule.schedule_id], now_us, who)
    changes.revoke(database, schedule.schedule_id)
    there = get(database, schedule.schedule_id)
    next_us, paused_us = there.next_us, there.paused_us
    if schedule.trigger(_ANCHOR_US) != there.trigger:
        changes.account(database, there, now_us, "missed", "edited")
        next_us = _first_us(database, schedule, now_us)
    dispatched = changes.dispatches(database, there, schedule)
    if schedule.max_runs is not None and dispatched >= schedule.max_runs:
        next_us = None
    elif next_us is None and there.schedule.max_runs != schedule.max_runs:
        trigger = schedule.trigger(_ANCHOR_US)  # it was over, and may go on
        next_us = trigger.next_us(now_us) if trigger.recurring else None
    was_declared_paused = database.execute(
        "SELECT declared_paused FROM schedules WHERE schedule_id = ?", (schedule.schedule_id,)
    ).fetchone()[0]
    if schedule.paused and not was_declared_paused:
        audit.paused(database, [schedule.schedule_id], now_us, who)
        paused_us = now_us if paused_us is None else paused_us
    elif was_declared_paused and not schedule.paused and paused_us is not None:
        audit.resumed(database, [schedule.schedule_id], now_us, who)
        trigger = schedule.trigger(_ANCHOR_US)
        stretches, next_us = resume(trigger, next_us, paused_us, now_us)
        for stretch in stretches:
            unrun.record(
                *(database, schedule.schedule_id, schedule.task_name, stretch, trigger, now_us)
            )
        paused_us = None
    values = row | _next_columns(schedule, next_us, paused_us) | {"dispatched": dispatched}
    _update(database, values)


def _next_columns(schedule: ScheduledTask, next_us: int | None, paused_us: int | None) -> _Row:
    paused = paused_us is not None
    found = changes.next_columns(schedule.schedule_id, schedule, _ANCHOR_US, next_us, paused=paused)
    return found | {"paused_us": paused_us}


def _update(database: Database, values: _Row) -> None:
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    database.execute(f"UPDATE schedules SET {assignments} WHERE schedule_id = :schedule_id", values)


# -- what was claimed elsewhere -------------------------------------------------------------------


def adopt(
    database: Database,
    source: str,
    claims: Sequence[Claim],
    now_us: int,
    *,
    served: Collection[str] = (),
    merged_out: Collection[str] = (),
) -> list[str]:
    """Write firings that are this ledger's now as runs that wait for their time.

    The ledger may know better: what has ended here stays so, and `live` will not name it. Returns
    the ids that are taken, by schedules made here or of another source that is `served`.
    """
    refused = []
    with transaction(database):
        elsewhere = _elsewhere(database, source, [claim.schedule.schedule_id for claim in claims])
        for claim in claims:
            schedule_id = claim.schedule.schedule_id
            if elsewhere.get(schedule_id) in {"", *served}:
                refused.append(schedule_id)
                continue
            _keep(database, source, claim, now_us)
            task_name, trigger = claim.schedule.task_name, claim.schedule.trigger(claim.anchor_us)
            for stretch in claim.stretches:
                unrun.record(database, schedule_id, task_name, stretch, trigger, now_us)
            for firing in claim.firings:
                if schedule_id in merged_out:
                    skipped = Stretch(
                        firing.scheduled_us, firing.scheduled_us, 1, "skipped", "merged"
                    )
                    unrun.record(database, schedule_id, task_name, skipped, trigger, now_us)
                else:
                    _wait(database, claim.schedule, firing)
    return refused


def _keep(database: Database, source: str, claim: Claim, now_us: int) -> None:
    values = _row(claim.schedule) | {
        "anchor_us": claim.anchor_us,
        "dispatched": claim.dispatched,
        "next_us": claim.next_us,
        "wake_us": None,
        "shared": 1,
        "source": source,
    }
    schedule_id = claim.schedule.schedule_id
    there = database.execute(
        f"SELECT {', '.join(CONTENT)} FROM schedules WHERE schedule_id = ?", (schedule_id,)
    ).fetchone()
    if there:
        if there != to_values(claim.schedule):
            audit.ended(database, "edited", [schedule_id], now_us, audit.source(source))
        _update(database, values)
    else:
        _insert(database, values | {"created_us": now_us})


def _wait(database: Database, schedule: ScheduledTask, firing: Firing) -> None:
    # What another machine had taken over may come back to this one.
    database.execute(
        f"""INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, untold)
           SELECT ?1, ?2, ?3, 1, ?4, 'waiting', ?5, {hooked("schedules")} FROM schedules
           WHERE schedule_id = ?1
           ON CONFLICT DO UPDATE SET status = 'waiting', reason = NULL, owner = NULL,
               started_us = NULL, finished_us = NULL
           WHERE status = 'cancelled' AND reason = ?6""",
        (
            *(schedule.schedule_id, schedule.task_name, firing.scheduled_us, firing.trigger),
            *(firing.due_us, TAKEN_OVER),
        ),
    )


def live(database: Database, firings: Collection[Identity]) -> set[Identity]:
    """Those of these firings that have not ended: a retry to come is one of theirs."""
    rows = database.execute(
        f"""SELECT DISTINCT schedule_id, scheduled_us FROM json_each(?) AS firing
            JOIN runs ON schedule_id = json_extract(firing.value, '$[0]')
                AND scheduled_us = json_extract(firing.value, '$[1]')
            WHERE {LIVE}""",
        (json.dumps(list(firings)),),
    )
    return set(rows.fetchall())


def shared(database: Database, source: str) -> list[str]:
    """The ids of a shared source's schedules that this ledger knows."""
    query = "SELECT schedule_id FROM schedules WHERE source = ? AND shared = 1"
    return [row[0] for row in database.execute(query, (source,))]


def forget(database: Database, ids: Collection[str], now_us: int) -> None:
    """Remove the copies of shared schedules that are gone from their source."""
    with transaction(database):
        for schedule_id, source in _elsewhere(database, "", ids).items():
            changes.remove_all(database, [schedule_id], now_us, who=audit.source(source))


def record_abandoned(
    database: Database,
    source: str,
    abandoned: Sequence[tuple[ScheduledTask, int]],
    now_us: int,
) -> None:
    """Write down what another machine had started when it died, as far as anyone can tell."""
    with transaction(database):
        for schedule, scheduled_us in abandoned:
            if not _elsewhere(database, source, [schedule.schedule_id]):
                database.execute(
                    """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger,
                           status, due_us, finished_us, reason, error)
                       VALUES (?1, ?2, ?3, 1, 'schedule', 'abandoned', ?3, ?4, 'owner-died',
                           'the machine that ran it is gone')
                       ON CONFLICT DO UPDATE SET status = excluded.status,
                           reason = excluded.reason, error = excluded.error
                       WHERE status = 'cancelled' AND reason = 'taken-over'""",
                    (schedule.schedule_id, schedule.task_name, scheduled_us, now_us),
                )


def ledger_id(database: Database) -> str:
    """What other machines know this ledger by; made when first asked for."""
    query = "SELECT value FROM meta WHERE key = 'ledger_id'"
    found = database.execute(query).fetchone()
    if found is None:
        with transaction(database):
            database.execute(
                "INSERT INTO meta VALUES ('ledger_id', ?) ON CONFLICT DO NOTHING",
                (os.urandom(8).hex(),),
            )
            found = database.execute(query).fetchone()
    return str(found[0])

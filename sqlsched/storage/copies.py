"""Schedules taken out of one database, to be put into another and played with there.

What is taken is what decides about firings, column by column: nothing that would act on the world
(who serves the database, the processes of runs, hooks) comes along.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlsched.storage.changes import next_columns
from sqlsched.storage.connection import Database, savepoint, transaction
from sqlsched.storage.hooks import NAMES as HOOKS
from sqlsched.storage.schedules import (
    COLUMNS,
    DISPATCHED,
    LIVE,
    Selection,
    StoredSchedule,
    stored,
)
from sqlsched.storage.turn import BACKFILL_KEY

_SCHEDULE = (*(name for name in COLUMNS.split(", ") if name not in HOOKS), "shared")
_RUN = (
    *("schedule_id", "task_name", "scheduled_us", "attempt", "manual_key", "trigger", "status"),
    *("reason", "due_us", "held", "started_us"),
)
_OF_THESE = "schedule_id IN (SELECT value FROM json_each(?))"

Row = tuple[Any, ...]
OnBad = Callable[[str, Exception], None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Schedules with their state, and their runs that have not ended, as rows; and how long
    their runs take."""

    schedules: Sequence[Row] = ()
    runs: Sequence[Row] = ()
    durations_us: Mapping[str, int] = field(default_factory=dict)
    """The median of those that ended, by schedule."""
    dispatched: Mapping[str, int] = field(default_factory=dict)
    """How many firings were dispatched of those at or after an instant, by schedule."""


def snapshot(
    database: Database, ids: Collection[str] | None = None, *, since_us: int = 2**62
) -> Snapshot:
    """The schedules of a database, or those of these ids, as they are now.

    `since_us`: the instant from which on the dispatched firings are counted.
    """
    with savepoint(database):  # all of it at one moment
        which = json.dumps(list(ids) if ids is not None else _ids(database))
        return _snapshot(database, which, since_us)


def _snapshot(database: Database, which: str, since_us: int) -> Snapshot:
    return Snapshot(
        database.execute(
            f"SELECT {', '.join(_SCHEDULE)} FROM schedules WHERE {_OF_THESE} ORDER BY seq", (which,)
        ).fetchall(),
        database.execute(
            f"SELECT {', '.join(_RUN)} FROM runs WHERE {LIVE} AND {_OF_THESE}", (which,)
        ).fetchall(),
        _durations(database, which),
        dict(
            database.execute(
                f"""SELECT schedule_id, count(*) FROM runs WHERE {DISPATCHED} AND attempt = 1
                    AND manual_key = 0 AND scheduled_us >= ? AND {_OF_THESE}
                    GROUP BY schedule_id""",
                (since_us, which),
            ).fetchall()
        ),
    )


def _ids(database: Database) -> list[str]:
    return [row[0] for row in database.execute("SELECT schedule_id FROM schedules")]


def _durations(database: Database, which: str) -> dict[str, int]:
    """Of an even number of runs, the shorter of the two in the middle."""
    rows = database.execute(
        f"""SELECT schedule_id, took FROM (
                SELECT schedule_id, finished_us - started_us AS took,
                    row_number() OVER (PARTITION BY schedule_id
                        ORDER BY finished_us - started_us) AS place,
                    count(*) OVER (PARTITION BY schedule_id) AS number
                FROM runs WHERE status IN ('succeeded', 'failed', 'timed_out')
                AND finished_us >= started_us AND {_OF_THESE})
            WHERE place = (number + 1) / 2""",
        (which,),
    )
    return dict(rows.fetchall())


def fill(
    database: Database, taken: Snapshot, from_us: int, on_bad: OnBad
) -> dict[tuple[str, int], int]:
    """Put schedules into an empty database, to go on there from an instant as they would have.

    Whatever their source, they are its own there. A row that cannot be read is given to `on_bad`
    and left out. What is running is a run that starts at once, as if it were tried again; returns
    since when each has been going, by its firing.
    """
    with transaction(database):
        _insert(database, "schedules", _SCHEDULE, taken.schedules)
        readable = _readable(database, on_bad)
        going = {}
        rows = []
        for row in taken.runs:
            run = dict(zip(_RUN, row, strict=True))
            started_us = run.pop("started_us")
            if run["status"] == "claimed":
                is_backfill = run["manual_key"] == BACKFILL_KEY and run["attempt"] == 1
                run["held"] = 2 if is_backfill else int(run["reason"] == "overlap")
            elif run["status"] != "waiting":
                going[run["schedule_id"], run["scheduled_us"]] = started_us
                run |= {"attempt": run["attempt"] + 1, "trigger": "retry", "due_us": from_us}
            rows.append(tuple((run | {"status": "waiting"}).values()))
        _insert(database, "runs", _RUN[:-1], rows)
        shared = {row[0] for row in taken.schedules if row[-1]}
        for there in readable:
            if there.schedule.schedule_id in shared:  # its source knows better than the ledger
                _move(database, there, there.trigger.next_us(from_us - 1))
        _own_all(database, from_us)
    return going


def fill_anew(
    database: Database, taken: Snapshot, from_us: int, now_us: int, on_bad: OnBad
) -> None:
    """The same, to begin there at any instant, with nothing going on: up to then all firings are
    settled, and from then on all are to come, whatever the ledger says of them."""
    with transaction(database):
        _insert(database, "schedules", _SCHEDULE, taken.schedules)
        for there in _readable(database, on_bad):
            used = _used(there, taken, from_us, now_us)
            limit = there.schedule.max_runs
            is_over = limit is not None and used >= limit
            _move(database, there, None if is_over else there.trigger.next_us(from_us - 1), used)
        _own_all(database, from_us)


def _used(there: StoredSchedule, taken: Snapshot, from_us: int, now_us: int) -> int:
    """How many firings before an instant count towards `max_runs`; those to come will have run."""
    used = there.dispatched - taken.dispatched.get(there.schedule.schedule_id, 0)
    if now_us < from_us and there.next_us is not None and there.next_us < from_us:
        last_us = there.trigger.previous_us(from_us)
        used += there.trigger.count(there.next_us, last_us or there.next_us)
    return used


def _own_all(database: Database, from_us: int) -> None:
    database.execute("UPDATE schedules SET source = '', shared = 0")
    # Should the clock be put back, what was before the beginning is not begun with.
    database.execute("INSERT INTO meta VALUES ('pruned_us', ?)", (from_us - 1,))


def _readable(database: Database, on_bad: OnBad) -> list[StoredSchedule]:
    """All schedules; without those that cannot be read, which are removed."""
    bad: dict[str, Exception] = {}
    readable = list(stored(database, Selection(include_done=True), on_bad=bad.__setitem__))
    for schedule_id, error in bad.items():
        database.execute("DELETE FROM schedules WHERE schedule_id = ?", (schedule_id,))
        on_bad(schedule_id, error)
    return readable


def _move(
    database: Database, there: StoredSchedule, next_us: int | None, used: int | None = None
) -> None:
    schedule_id = there.schedule.schedule_id
    paused = there.paused_us is not None
    values = next_columns(schedule_id, there.schedule, there.anchor_us, next_us, paused=paused)
    database.execute(
        """UPDATE schedules SET next_us = ?, wake_us = ?, dispatched = coalesce(?, dispatched)
           WHERE schedule_id = ?""",
        (next_us, values["wake_us"], used, schedule_id),
    )


def _insert(database: Database, table: str, names: Sequence[str], rows: Sequence[Row]) -> None:
    marks = ", ".join("?" * len(names))
    database.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)

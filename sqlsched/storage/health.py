"""What a database says of its own health: what `sqlsched doctor` asks, in a few queries each."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC
from operator import itemgetter
from typing import Any, NamedTuple

from sqlsched.field_checks import check_schedule_id
from sqlsched.instants import checked_time, from_us
from sqlsched.scheduled_task import COMMANDS, EXEC_TASK, SHELL_TASK, check_command
from sqlsched.serialization import checked_array, checked_object, checked_text
from sqlsched.storage.connection import Database
from sqlsched.storage.migrations import migrate
from sqlsched.storage.schedules import CONTENT, DAMAGED, DISPATCHED, to_schedule
from sqlsched.storage.starts import is_going
from sqlsched.storage.timing import TIMING, timing_of_row

SQLITE_VERSION = sqlite3.sqlite_version_info
"""Of the library."""
FAILING_RUNS = 3
"""So many runs in a row that fail are no accident."""

_ACTIVE = "s.paused_us IS NULL AND s.next_us IS NOT NULL"
_SANE = " AND ".join(
    # The years 1 to 9999, as Python has them.
    f"coalesce({name}, 0) BETWEEN -62135596800000000 AND 253402300799999999"
    for name in ("created_us", "anchor_us", "paused_us", "next_us", "wake_us")
)
_FREE = ("schedule_id", "args", "kwargs", "labels", "note", "time_us")
"""What may be another in every row; of all else many rows have the same."""
_free = itemgetter(*map(CONTENT.index, _FREE))
_alike = itemgetter(*(place for place, name in enumerate(CONTENT) if name not in _FREE))
_TASK_NAME = CONTENT.index("task_name")
_decode = json.JSONDecoder().decode  # what `json.loads` does, without its questions


def damage(database: Database) -> list[str]:
    """What SQLite finds wrong with the file, the first ten; nothing if it is sound."""
    rows = database.execute("PRAGMA quick_check(10)").fetchall()
    return [row[0] for row in rows if row[0] != "ok"]


def strangers(database: Database) -> list[str]:
    """Tables, indexes, triggers and views that are missing, or not as we make them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        migrate(model, 0)
        ours = _schema(model)
    return sorted({f"{kind} {name}" for kind, name, _ in ours ^ _schema(database)})


def _schema(database: sqlite3.Connection) -> set[tuple[str, str, str]]:
    query = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    return set(database.execute(query).fetchall())


def count(database: Database) -> int:
    """How many schedules there are, done ones too."""
    found: int = database.execute("SELECT count(*) FROM schedules").fetchone()[0]
    return found


# -- schedules that say nothing sensible ----------------------------------------------------------


def unreadable(database: Database, now_us: int) -> Iterator[tuple[str, str]]:
    """The schedules whose rows somebody changed by other means, so that they cannot be listed or
    cannot fire, and why."""
    query = f"SELECT {', '.join(CONTENT)}, anchor_us, {_SANE} FROM schedules"
    sound: set[tuple[Any, ...]] = set()
    for row in database.execute(query):
        try:
            _check_row(row, sound, now_us)
        except DAMAGED as error:
            yield str(row[0]), str(error)


def _check_row(row: tuple[Any, ...], sound: set[tuple[Any, ...]], now_us: int) -> None:
    """Check a row; what it has in common with a sound one is not checked again."""
    free, alike = _free(row), _alike(row)
    common = (*alike, free[-1] is None)
    if common in sound:
        _check_free(row[_TASK_NAME], *free)
    else:
        schedule = to_schedule(dict(zip(CONTENT, row, strict=False)), paused=False)
        schedule.trigger(row[-2]).next_us(now_us)
        sound.add(common)
    if not row[-1]:
        raise ValueError("a time in its state is out of range")


def _check_free(
    task_name: str,
    schedule_id: str,
    args: str,
    kwargs: str,
    labels: str,
    note: str | None,
    time_us: int | None,
) -> None:
    check_schedule_id(schedule_id)
    values = [] if args == "[]" else checked_array(_decode(args), "args")
    keywords = {} if kwargs == "{}" else checked_object(_decode(kwargs), "kwargs")
    if labels != "{}":
        checked_object(_decode(labels), "labels")
    if note is not None:
        checked_text(note, "note")
    if time_us is not None:
        checked_time(from_us(time_us), UTC, "time")
    if task_name in COMMANDS:
        check_command(task_name, values, keywords)


# -- what they run --------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """Something that schedules run: a task, a program, or a shell line."""

    kind: str
    """`task`, or the task name of a command."""
    name: str
    schedule_id: str
    """One of those that run it."""


def wanted(database: Database) -> list[Wanted]:
    """What the schedules run that are to fire again and are not paused; each once."""
    commands = f"('{SHELL_TASK}', '{EXEC_TASK}')"
    rows = database.execute(
        f"""SELECT 'task', task_name, min(schedule_id) FROM schedules AS s
            WHERE {_ACTIVE} AND task_name NOT IN {commands} GROUP BY task_name"""
    ).fetchall()
    rows += database.execute(
        f"""SELECT task_name, json_extract(args, '$[0]') AS name, schedule_id FROM schedules AS s
            WHERE {_ACTIVE} AND task_name IN {commands} AND json_valid(args)
            AND json_type(args, '$[0]') = 'text' ORDER BY seq DESC"""
    )
    return list({row[:2]: Wanted(*row) for row in rows}.values())


# -- who runs them, and how late ------------------------------------------------------------------


class Overdue(NamedTuple):
    """The firing that has waited longest for somebody to start it."""

    due_us: int
    schedule_id: str
    source: str
    """Whose schedule it is; empty: the database's own."""


def oldest_overdue(database: Database, now_us: int) -> Overdue | None:
    """What should have started by now and has not, the oldest."""
    row = database.execute(
        """SELECT due_us, schedule_id, coalesce(source, '') FROM (
               SELECT * FROM (SELECT wake_us AS due_us, schedule_id FROM schedules
                   WHERE wake_us <= ?1 ORDER BY wake_us LIMIT 1)
               UNION ALL SELECT * FROM (SELECT due_us, schedule_id FROM runs
                   WHERE status = 'waiting' AND held = 0 AND due_us <= ?1
                   AND (manual_key != 0 OR NOT EXISTS (SELECT 1 FROM schedules AS p
                       WHERE p.schedule_id = runs.schedule_id AND p.paused_us IS NOT NULL))
                   ORDER BY due_us LIMIT 1)
               UNION ALL SELECT * FROM (SELECT due_us, schedule_id FROM runs
                   WHERE status = 'claimed' AND due_us <= ?1 ORDER BY due_us LIMIT 1))
           LEFT JOIN schedules USING (schedule_id) ORDER BY due_us LIMIT 1""",
        (now_us,),
    ).fetchone()
    return None if row is None else Overdue(*row)


def next_wake_us(database: Database) -> int | None:
    """When something fires next."""
    found: int | None = database.execute("SELECT min(wake_us) FROM schedules").fetchone()[0]
    return found


# -- schedules in trouble -------------------------------------------------------------------------


def silent(database: Database, now_us: int) -> Iterator[tuple[str, str]]:
    """The schedules that will not fire again although they should, and why."""
    for (schedule_id,) in database.execute(
        """SELECT schedule_id FROM schedules WHERE next_us IS NOT NULL AND wake_us IS NULL
           AND paused_us IS NULL AND shared = 0 ORDER BY seq"""
    ):
        yield schedule_id, "it was put aside, as its row could not be read"
    for schedule_id, *columns in database.execute(
        f"""SELECT schedule_id, {TIMING} FROM schedules WHERE next_us IS NULL AND time_us IS NULL
            AND max_runs IS NULL AND shared = 0 ORDER BY seq"""
    ):
        with suppress(*DAMAGED):  # which is told by `unreadable`
            if timing_of_row(*columns).trigger.next_us(now_us) is not None:
                yield schedule_id, "its next firing was taken away by other means"
    for schedule_id, run_id, status in database.execute(
        f"""SELECT schedule_id, run_id, status FROM (
                SELECT * FROM runs WHERE status = 'claimed'
                UNION ALL SELECT * FROM runs
                    WHERE {is_going("runs")} AND status IN ('running', 'sending')) AS live
            WHERE NOT EXISTS (
                SELECT 1 FROM owners WHERE owners.owner = live.owner AND stopped_us IS NULL)"""
    ):
        yield schedule_id, f"its run {run_id} is {status} for ever, as nobody has it"


class Failing(NamedTuple):
    """A schedule whose latest runs all failed."""

    schedule_id: str
    runs: int
    """How many in a row; at most a thousand are counted."""
    last_us: int
    error: str | None


def failing(database: Database) -> Iterator[Failing]:
    """The schedules to fire again whose latest runs failed or timed out, `FAILING_RUNS` or more."""
    latest = f"""(SELECT status IN ('failed', 'timed_out') FROM runs AS r
        WHERE r.schedule_id = s.schedule_id AND {DISPATCHED} AND finished_us IS NOT NULL
        ORDER BY scheduled_us DESC, attempt DESC, manual_key DESC LIMIT 1 OFFSET {{}})"""
    all_failed = " AND ".join(latest.format(offset) for offset in range(FAILING_RUNS))
    query = f"SELECT schedule_id FROM schedules AS s WHERE {_ACTIVE} AND {all_failed} ORDER BY seq"
    for (schedule_id,) in database.execute(query).fetchall():
        runs = database.execute(
            f"""SELECT status IN ('failed', 'timed_out'), finished_us, coalesce(error, status)
                FROM runs WHERE schedule_id = ? AND {DISPATCHED} AND finished_us IS NOT NULL
                ORDER BY scheduled_us DESC, attempt DESC, manual_key DESC LIMIT 1000""",
            (schedule_id,),
        ).fetchall()
        in_a_row = next((n for n, run in enumerate(runs) if not run[0]), len(runs))
        yield Failing(schedule_id, in_a_row, *runs[0][1:])

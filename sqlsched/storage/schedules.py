"""The table of schedules: how a row is a schedule, and how schedules are found."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlsched.exceptions import ScheduleNotFoundError, StorageError
from sqlsched.instants import from_us, to_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.serialization import dumps, parse, shorten
from sqlsched.storage.connection import Database
from sqlsched.timezones import format_cron_offset, read_cron_offset
from sqlsched.trigger import Trigger

if TYPE_CHECKING:
    from sqlsched.planner import Timing  # the deciding, which who only looks does not need

DAMAGED = (TypeError, ValueError, OverflowError)
"""What is raised by a row that somebody changed by other means."""

_JSON = ("args", "kwargs", "labels")
_TIMES = {"time": "time_us", "start": "start_us", "end": "end_us"}
_SECONDS = {
    "interval": "interval_s",
    "jitter": "jitter_s",
    "timeout": "timeout_s",
    "retry_delay": "retry_delay_s",
    "expires": "expires_s",
}
_PLAIN = (
    *("schedule_id", "task_name", "task_id", "cron", "max_runs", "catchup_window", "coalesce"),
    *("overlap", "retries", "note", "on_success", "on_failure", "on_missed", "ping"),
    "pause_on_failure",
)
_plain, _times, _seconds = attrgetter(*_PLAIN), attrgetter(*_TIMES), attrgetter(*_SECONDS)
CONTENT = (*_PLAIN, *_JSON, "cron_offset", *_TIMES.values(), *_SECONDS.values())
_STATE = ("source", "created_us", "anchor_us", "paused_us", "dispatched", "next_us", "wake_us")
COLUMNS = ", ".join((*CONTENT, *_STATE))

LIVE = "finished_us IS NULL"
"""SQL: a run that has not ended (`claimed`, `waiting`, `sending` or `running`)."""
DONE = f"""next_us IS NULL AND NOT EXISTS (
    SELECT 1 FROM runs WHERE runs.schedule_id = s.schedule_id AND {LIVE})"""
IS_DONE = f"CASE WHEN next_us IS NULL THEN {DONE} ELSE 0 END"
"""The same as a column: of an AND there, SQLite evaluates both sides, and one goes through runs."""
DISPATCHED = "started_us IS NOT NULL"


class UnreadableScheduleError(StorageError):
    """Somebody changed a schedule's row by other means, and it says nothing sensible any more."""


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule with its state in the ledger."""

    schedule: ScheduledTask
    source: str
    created_us: int
    anchor_us: int
    paused_us: int | None
    dispatched: int
    next_us: int | None
    wake_us: int | None
    last_us: int | None
    last_status: str | None
    done: bool

    @property
    def trigger(self) -> Trigger:
        """Its nominal firings."""
        return self.schedule.trigger(self.anchor_us)

    @property
    def timing(self) -> "Timing":
        """What decides when they are dispatched."""
        return self.schedule.timing(self.anchor_us)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which schedules `stored` yields; None and empty mean any."""

    ids: Sequence[str] | None = None
    source: str | None = None
    include_done: bool = False
    paused: bool | None = None
    labels: dict[str, str] | None = None
    task_glob: str | None = None


def stored(
    database: sqlite3.Connection,
    selection: Selection,
    on_bad: Callable[[str, Exception], None] | None = None,
) -> Iterator[StoredSchedule]:
    """The selected schedules in the order of their making, one at a time.

    A row that somebody else damaged is given to `on_bad` and passed over; without it,
    UnreadableScheduleError names it.
    """
    where, values = _where(selection)
    columns = ", ".join(f"s.{name}" for name in COLUMNS.split(", "))
    last = f"""(SELECT run_id FROM runs WHERE runs.schedule_id = s.schedule_id AND {DISPATCHED}
                ORDER BY scheduled_us DESC, attempt DESC LIMIT 1)"""
    query = f"""SELECT {columns}, r.scheduled_us, r.status, {IS_DONE} AS done
                FROM schedules AS s LEFT JOIN runs AS r ON r.run_id = {last}
                WHERE {where} ORDER BY s.seq"""
    for row in database.execute(query, values):
        try:
            found = _from_row(row)
        except DAMAGED as error:
            if on_bad is None:
                raise _unreadable(row[0], error) from error
            on_bad(row[0], error)
        else:
            yield found


def _unreadable(schedule_id: str, error: Exception) -> UnreadableScheduleError:
    return UnreadableScheduleError(
        f"schedule {schedule_id} was changed by other means and cannot be read: {error}; "
        "remove it with `sqlsched rm`"
    )


def matching_ids(database: Database, selection: Selection) -> list[str]:
    """The ids of the selected schedules."""
    where, values = _where(selection)
    query = f"SELECT s.schedule_id FROM schedules AS s WHERE {where} ORDER BY s.seq"
    return [row[0] for row in database.execute(query, values)]


def _where(selection: Selection) -> tuple[str, list[Any]]:
    clauses, values = ["1"], []
    if not selection.include_done:
        clauses.append(f"NOT ({DONE})")
    if selection.ids is not None:
        clauses.append("s.schedule_id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(list(selection.ids)))
    if selection.source is not None:
        clauses.append("s.source = ?")
        values.append(selection.source)
    if selection.paused is not None:
        clauses.append(f"paused_us IS {'NOT ' if selection.paused else ''}NULL")
    for key, value in (selection.labels or {}).items():
        clauses.append(
            """CASE WHEN json_valid(s.labels) THEN EXISTS (
               SELECT 1 FROM json_each(s.labels) AS l WHERE l.key = ? AND ? =
               CASE l.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
               ELSE CAST(l.value AS TEXT) END) END"""
        )
        values += [key, value]
    if selection.task_glob is not None:
        clauses.append("s.task_name GLOB ?")
        values.append(selection.task_glob)
    return " AND ".join(clauses), values


def _from_row(row: tuple[Any, ...]) -> StoredSchedule:
    content = dict(zip(CONTENT, row, strict=False))
    state = row[len(CONTENT) :]
    source, created, anchor, paused, dispatched, *times, last_status, done = state
    next_us, wake_us, last_us = times
    for us in (created, anchor, paused, next_us, wake_us, last_us):
        from_us(us or 0)
    schedule = to_schedule(content, paused=paused is not None)
    return StoredSchedule(
        *(schedule, source, created, anchor, paused, dispatched, next_us, wake_us),
        *(last_us, last_status, bool(done)),
    )


def to_schedule(content: dict[str, Any], *, paused: bool) -> ScheduledTask:
    """The schedule that a row's columns say."""
    offset = content["cron_offset"]
    fields: dict[str, Any] = {name: content[name] for name in _PLAIN}
    fields |= {name: parse(content[name], name) for name in _JSON}
    fields |= {name: content[column] for name, column in _SECONDS.items()}
    for name, column in _TIMES.items():
        fields[name] = None if content[column] is None else from_us(content[column])
    if offset is not None:
        fields["cron_offset"] = read_cron_offset(offset)
    return ScheduledTask.from_stored(**fields, paused=paused)


def ids_beginning(database: Database, text: str, limit: int) -> list[tuple[str, str]]:
    """The first ids that begin so, done ones too, each with its task, or its command."""
    # No character of an id comes after "~"; so it is a range of the index.
    return database.execute(
        """SELECT schedule_id, iif(task_name GLOB 'sqlsched:*' AND json_valid(args),
               (SELECT group_concat(value, ' ') FROM json_each(args)), task_name)
           FROM schedules WHERE schedule_id >= ?1 AND schedule_id < ?1 || '~'
           ORDER BY schedule_id LIMIT ?2""",
        (text, limit),
    ).fetchall()


def get(database: Database, schedule_id: str) -> StoredSchedule:
    """The schedule with exactly this id; ScheduleNotFoundError if there is none."""
    found = next(stored(database, Selection([schedule_id], include_done=True)), None)
    if found is None:
        raise ScheduleNotFoundError(f"no schedule has the id {shorten(schedule_id)}")
    return found


def to_row(schedule: ScheduledTask) -> dict[str, Any]:
    """The columns that say what a schedule is."""
    return dict(zip(CONTENT, to_values(schedule), strict=True))


def to_values(schedule: ScheduledTask) -> tuple[Any, ...]:
    """The values of `CONTENT`. Schedules that have equal ones are the same."""
    offset = schedule.cron_offset
    return (
        *_plain(schedule),
        dumps(schedule.args) if schedule.args else "[]",
        dumps(schedule.kwargs) if schedule.kwargs else "{}",
        dumps(schedule.labels) if schedule.labels else "{}",
        None if offset is None else format_cron_offset(offset),
        *[None if moment is None else to_us(moment) for moment in _times(schedule)],
        *_seconds(schedule),
    )


def find(database: Database, given: str) -> str:
    """The one id that `given` is, or begins; ScheduleNotFoundError otherwise."""
    return find_all(database, [given])[0]


def find_all(database: Database, given: Sequence[str]) -> list[str]:
    """Resolve ids or unique prefixes, all or none. A done schedule is only found by its whole id
    or when no live one begins so."""
    return [_find(database, text) for text in given]


def _find(database: Database, text: str) -> str:
    if database.execute("SELECT 1 FROM schedules WHERE schedule_id = ?", (text,)).fetchone():
        return text
    matches: list[str] = []
    for done in (f"NOT ({DONE})", DONE):
        query = f"""SELECT schedule_id FROM schedules AS s WHERE schedule_id >= ?
                    AND schedule_id < ? AND {done} ORDER BY schedule_id LIMIT 6"""
        # '~' sorts after every character of an id.
        matches = matches or [row[0] for row in database.execute(query, (text, f"{text}~"))]
    if len(matches) == 1 and text:
        return matches[0]
    if not matches or not text:
        raise ScheduleNotFoundError(
            f"no schedule has the id {shorten(text)}, nor begins so; `sqlsched list` shows them"
        )
    listed = ", ".join(matches[:5]) + (", …" if len(matches) > 5 else "")
    raise ScheduleNotFoundError(f"{text!r} is ambiguous; it begins {listed}")

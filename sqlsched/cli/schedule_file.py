"""Schedules as code: a TOML file with a table `[schedules.ID]` for each, as `sync` reads it and
`export --format toml` writes it."""

import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any, BinaryIO

from sqlsched.durations import format_duration, parse_duration
from sqlsched.exceptions import InvalidScheduleError, SqlschedError
from sqlsched.field_checks import CATCHUP_WORDS, check_field, check_schedule_id
from sqlsched.instants import checked_time, parse_time
from sqlsched.scheduled_task import (
    EXEC_TASK,
    FIELD_NAMES,
    SHELL_TASK,
    ScheduledTask,
    schedule_to_json,
)
from sqlsched.serialization import dumps, loads, shorten
from sqlsched.timezones import checked_cron_offset, zone_info
from sqlsched.toml_lines import Lines
from sqlsched.toml_writer import has_null, toml_key, toml_text, toml_value

LARGEST = 64 * 1024 * 1024
"""Bytes; whoever names a file of another kind is told so, and does not run out of memory."""

_TABLE = "schedules"
_GROUP = "group"
_WHAT = {"task": "task_name", "task_name": "task_name", "shell": SHELL_TASK, "command": EXEC_TASK}
"""The keys that say what to run, of which a schedule has one."""
_JSON = {"args": "array", "kwargs": "table", "labels": "table"}
_TIMES = ("time", "start", "end")
_DURATIONS = ("interval", "jitter", "timeout", "retry_delay", "expires")
_FIRST = (
    *("cron", "interval", "time", "cron_offset", "args", "kwargs", "labels"),
    *("start", "end", "max_runs"),
)
_ORDER = _FIRST + tuple(
    name for name in FIELD_NAMES if name not in {*_FIRST, "task_name", "schedule_id"}
)
_KEYS = ("task", "shell", "command", *_ORDER, "task_name")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file, and where; `line` is None if that is nowhere in particular."""

    line: int | None
    error: SqlschedError


@dataclass(slots=True)
class ScheduleFile:
    """What a file says; with `problems` it is of no use."""

    text: str = ""
    group: str = ""
    schedules: list[ScheduledTask] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, refused: Iterable[tuple[str, SqlschedError]]) -> None:
        """Note that schedules, named by their ids, cannot be stored."""
        lines = Lines(self.text)
        self.problems += [Problem(lines.of(_TABLE, i), error) for i, error in refused]


# -- reading --------------------------------------------------------------------------------------


def read_file(file: BinaryIO) -> ScheduleFile:
    """Read a file, and all that is wrong with it."""
    content = file.read(LARGEST + 1)
    result = ScheduleFile()
    try:
        result.text = _text(content)
        document = _document(result.text)
    except _UnreadableError as error:
        result.problems = [Problem(error.line, InvalidScheduleError(str(error)))]
    else:
        _Reading(document, result).read()
    return result


class _UnreadableError(Exception):
    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line


def _text(content: bytes) -> str:
    if len(content) > LARGEST:
        raise _UnreadableError(None, f"it has more than {LARGEST} bytes; is it the right file?")
    if content.startswith(b"\xef\xbb\xbf"):
        raise _UnreadableError(1, "a byte order mark; save the file as UTF-8 without one")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before, around = content[: error.start], content[error.start : error.start + 20]
        raise _UnreadableError(
            before.count(b"\n") + 1, f"{around!r} is not UTF-8; a TOML file is"
        ) from None


def _document(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _UnreadableError(None, "it is nested too deep") from None
    except ValueError as error:
        message, _, place = str(error).partition(" (at ")
        line = _line_number(place, text)
        quoted = "" if line is None else f"{shorten(text.split(chr(10))[line - 1].strip())}: "
        raise _UnreadableError(line, f"{quoted}it is not valid TOML: {message}") from None


def _line_number(place: str, text: str) -> int | None:
    """The line in what tomllib says of a place: "line 3, column 5)", "end of document)"."""
    number = place.removeprefix("line ").partition(",")[0]
    if number.isdigit():
        return int(number)
    # An integer of thousands of digits is an error of Python's, without a place.
    return text.rstrip("\n").count("\n") + 1 if place else None


class _Reading:
    """A document as tomllib gives it, made a ScheduleFile."""

    def __init__(self, document: dict[str, Any], result: ScheduleFile) -> None:
        self._document = document
        self._result = result
        self._lines: Lines | None = None

    def read(self) -> None:
        for key in self._document:
            if key not in (_TABLE, _GROUP):
                self._wrong(f"unknown key {shorten(key)}; known are schedules.ID and group", key)
        self._read_group()
        if _TABLE not in self._document:
            self._wrong("there is no table [schedules.ID] in it; [schedules] alone means none")
        tables = self._document.get(_TABLE, {})
        if not isinstance(tables, dict):
            self._wrong(f"schedules {shorten(tables)}: give tables [schedules.ID]", _TABLE)
            return
        for schedule_id, table in tables.items():
            self._read_schedule(schedule_id, table)
        self._result.problems.sort(key=lambda problem: problem.line or 0)

    def _read_group(self) -> None:
        group = self._document.get(_GROUP, "")
        try:
            is_none = isinstance(group, str) and not group
            self._result.group = "" if is_none else check_schedule_id(group, _GROUP)
        except InvalidScheduleError as error:
            self._wrong(str(error).replace("an id", "a group"), _GROUP)

    def _read_schedule(self, schedule_id: str, table: Any) -> None:
        path = (_TABLE, schedule_id)
        before = len(self._result.problems)
        try:
            check_schedule_id(schedule_id, "the id")
        except InvalidScheduleError as error:
            self._wrong(str(error), *path)
        if not isinstance(table, dict):
            self._wrong(f"{schedule_id} {shorten(table)}: give a table", *path)
            return
        given: dict[str, Any] = {}
        for key, value in table.items():
            try:
                given |= _read_key(key, value, table)
            except InvalidScheduleError as error:
                self._wrong(str(error), *path, key)
        if len(self._result.problems) > before:
            return
        try:
            _check_what(table)
            self._result.schedules.append(
                ScheduledTask.from_fields(given | {"schedule_id": schedule_id})
            )
        except InvalidScheduleError as error:
            self._wrong(str(error), *path)

    def _wrong(self, message: str, *path: str) -> None:
        """Note what is wrong, and the line of it; the lines are looked for once it is needed."""
        if self._lines is None:
            self._lines = Lines(self._result.text)
        if path[:1] == (_TABLE,) and len(path) > 1:
            message = f"schedule {shorten(path[1])}: {message}"
        line = self._lines.of(*path) if path else None
        self._result.problems.append(Problem(line, InvalidScheduleError(message)))


def _read_key(key: str, value: Any, table: dict[str, Any]) -> dict[str, Any]:
    """The fields of ScheduledTask that a key sets; InvalidScheduleError if it cannot."""
    if key not in _KEYS:
        raise InvalidScheduleError(f"unknown key {shorten(key)}; known are {', '.join(_KEYS)}")
    if key == "shell":
        return {"task_name": SHELL_TASK, "args": [_line(value)]}
    if key == "command":
        return {"task_name": EXEC_TASK, "args": _words(value)}
    name = _WHAT.get(key, key)
    read = _READERS.get(key)
    return {name: check_field(name, read(value, key, table) if read else value)}


def _check_what(table: dict[str, Any]) -> None:
    """It says in one way what to run."""
    given = [key for key in _WHAT if key in table]
    if len(given) != 1:
        found = f"{' and '.join(given)} exclude each other" if given else "nothing to run"
        raise InvalidScheduleError(f"{found}: give one of task, shell and command")
    with_them = [key for key in ("args", "kwargs") if key in table]
    if given[0] in ("shell", "command") and with_them:
        raise InvalidScheduleError(
            f"{given[0]} and {' and '.join(with_them)}: the latter are for Python tasks only"
        )


def _line(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidScheduleError(f"shell {shorten(value)}: give a line for /bin/sh")


def _words(value: Any) -> list[Any]:
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return value
    raise InvalidScheduleError(
        f'command {shorten(value)}: give a program and its arguments, like ["/bin/echo", "hello"]'
    )


def _seconds(value: Any, key: str, _table: dict[str, Any]) -> int:
    if isinstance(value, str):
        return parse_duration(value, key)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidScheduleError(f'{key} {shorten(value)}: give a duration, like "90s" or 90')


def _window(value: Any, key: str, table: dict[str, Any]) -> Any:
    if value in CATCHUP_WORDS:
        return value
    try:
        return _seconds(value, key, table)
    except InvalidScheduleError as error:
        raise InvalidScheduleError(f"{error}; or give {' or '.join(CATCHUP_WORDS)}") from None


def _moment(value: Any, key: str, table: dict[str, Any]) -> datetime:
    """As for `add`, a time without an offset is on the schedule's clock."""
    offset = table.get("cron_offset")
    try:
        zone = zone_info(None if offset is None else checked_cron_offset(offset, "cron_offset"))
    except InvalidScheduleError:  # which is said of its own line
        zone = UTC
    if isinstance(value, str):
        return parse_time(value, zone, key)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        return checked_time(value, zone, key)
    raise InvalidScheduleError(
        f"{key} {shorten(value)}: give a time, like 2026-11-23T18:05:00+01:00"
    )


def _nested(value: Any, key: str, _table: dict[str, Any]) -> Any:
    """What TOML says itself, or text in JSON, which has null."""
    if isinstance(value, str):
        value = loads(value, key)
        if value is None:  # to a schedule that would be the default
            raise InvalidScheduleError(f"{key} null: leave it out instead")
    return value


_Reader = Callable[[Any, str, dict[str, Any]], Any]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys(_TIMES, _moment),
    **dict.fromkeys(_DURATIONS, _seconds),
    **dict.fromkeys(_JSON, _nested),
    "catchup_window": _window,
}
"""Where TOML says it otherwise than `ScheduledTask` takes it."""


# -- writing --------------------------------------------------------------------------------------


def to_toml(schedules: Iterable[ScheduledTask]) -> Iterator[str]:
    """Write a file, schedule by schedule; the same schedules always make the same bytes."""
    there = False
    for schedule in schedules:
        yield ("\n" if there else "") + to_table(schedule)
        there = True
    if not there:
        yield f"[{_TABLE}]\n"


def to_table(schedule: ScheduledTask) -> str:
    """Write one schedule, without the fields that are unset."""
    lines = [f"[{_TABLE}.{toml_key(schedule.schedule_id)}]"]
    lines += (f"{key} = {text}" for key, text in _entries(schedule))
    return "\n".join(lines) + "\n"


def _entries(schedule: ScheduledTask) -> Iterator[tuple[str, str]]:
    plain = schedule_to_json(schedule)
    if schedule.task_name == SHELL_TASK:
        yield "shell", toml_value(plain.pop("args")[0])
    elif schedule.task_name == EXEC_TASK:
        yield "command", toml_value(plain.pop("args"))
    else:
        yield "task", toml_value(schedule.task_name)
    for name in _ORDER:
        value = plain.get(name)
        if value in (None, [], {}) or value is False:
            continue
        if name in _TIMES:
            yield name, value  # in TOML a time is a value, and needs no quotes
        elif isinstance(value, int) and name in (*_DURATIONS, "catchup_window"):
            yield name, toml_text(format_duration(value))
        elif name in _JSON and has_null(value):
            yield name, toml_text(dumps(value))
        else:
            yield name, toml_value(value)

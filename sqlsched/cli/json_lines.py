"""A schedule as a line of JSON: what `export` writes and `import` reads, strictly."""

import json
from collections.abc import Callable
from typing import Any

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import parse_time
from sqlsched.scheduled_task import FIELD_NAMES, ScheduledTask, schedule_to_json
from sqlsched.serialization import parse, shorten
from sqlsched.timezones import checked_cron_offset, zone_info

LONGEST_LINE = 16 * 1024 * 1024
"""Bytes; whoever names a file of another kind is told so, and does not run out of memory."""
_FIRST = (
    *("task_name", "args", "kwargs", "labels", "cron", "cron_offset", "time", "interval"),
    *("paused", "note"),
)
_ORDER = _FIRST + tuple(
    name for name in FIELD_NAMES if name not in {*_FIRST, "schedule_id", "task_id"}
)
_FIELDS = {"id": "schedule_id"} | {name: name for name in (*_ORDER, "task_id")}
"""Each key, and the field that it sets."""
_BOM = b"\xef\xbb\xbf"
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def to_line(schedule: ScheduledTask) -> str:
    """Write a schedule, without the fields that are unset, and without a line's end."""
    plain = schedule_to_json(schedule)
    given = {key: plain[name] for key, name in _FIELDS.items() if plain[name] is not None}
    return _ENCODER.encode(given)


def from_line(line: bytes) -> ScheduledTask:
    """Read a schedule; InvalidScheduleError names what is wrong with it."""
    record = _record(line)
    given: dict[str, Any] = {}
    for key, value in record.items():
        if key not in _KEYS:
            raise _unknown(key)
        name, read = _KEYS[key]
        if value is not None and name:
            given[name] = read(value, key, record) if read else value
    return ScheduledTask.from_fields(given)


def _record(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise InvalidScheduleError(f"{line[:40]!r} is not UTF-8; JSON lines are") from None
    if len(line) > LONGEST_LINE:
        raise InvalidScheduleError(
            f"{line[:40]!r}… is longer than {LONGEST_LINE} bytes; give one schedule in each line"
        )
    if line.startswith(_BOM):
        raise InvalidScheduleError("a byte order mark; save the file as UTF-8 without one")
    try:
        record = parse(text.strip(), "it")
    except InvalidScheduleError as error:
        cut = "" if line.endswith(b"\n") else "; the input ends here, perhaps too early"
        message = str(error).replace(": line 1 column ", ": column ")
        raise InvalidScheduleError(message + cut) from None
    if isinstance(record, dict):
        return record
    raise InvalidScheduleError(
        f'{shorten(record)}: give a JSON object, like {{"task_name": "shop.jobs:mail", …}}'
    )


def _unknown(key: str) -> InvalidScheduleError:
    return InvalidScheduleError(f"unknown key {shorten(key)}; known are {', '.join(_FIELDS)}")


def _time(value: Any, key: str, record: dict[str, Any]) -> Any:
    """As for `add`, a time without an offset is on the schedule's clock."""
    if not isinstance(value, str):
        raise InvalidScheduleError(
            f"{key} {shorten(value)}: give a time as text, like 2026-11-23T18:05+01:00"
        )
    offset = record.get("cron_offset")
    zone = zone_info(None if offset is None else checked_cron_offset(offset, "cron_offset"))
    return parse_time(value, zone, key)


def _seconds(value: Any, key: str, _record: dict[str, Any]) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidScheduleError(f"{key} {shorten(value)}: give whole seconds, like 90")


def _window(value: Any, key: str, record: dict[str, Any]) -> Any:
    return value if isinstance(value, str) else _seconds(value, key, record)


_Reader = Callable[[Any, str, dict[str, Any]], Any]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys(("time", "start", "end"), _time),
    **dict.fromkeys(("interval", "jitter", "timeout", "retry_delay", "expires"), _seconds),
    "catchup_window": _window,
}
"""Where JSON says it otherwise than `ScheduledTask` takes it."""
_KEYS: dict[str, tuple[str | None, _Reader | None]] = {
    **{key: (name, _READERS.get(key)) for key, name in _FIELDS.items()},
    **dict.fromkeys(("next_fire_time", "last_fire_time", "last_status"), (None, None)),
}
"""What each key sets; nothing, if it is what `list --json` tells besides."""

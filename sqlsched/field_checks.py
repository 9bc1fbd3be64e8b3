"""What each field of a schedule may be: a check brings a value to its one form, or says what is
accepted instead."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlsched.durations import duration_seconds
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import checked_time
from sqlsched.serialization import checked_array, checked_object, checked_text, shorten
from sqlsched.timezones import checked_cron_offset

COALESCE = ("latest", "earliest", "all")
OVERLAP = ("allow", "skip", "buffer-one", "buffer-all", "cancel-other")
CATCHUP_WORDS = ("none", "unlimited")

NO_HOOK = "none"
"""A hook or ping of this schedule that is not even the database's."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PART = r"[^\W\d]\w*"
_TASK_PATH = re.compile(rf"{_PART}(\.{_PART})*:{_PART}(\.{_PART})*")
_TASK_NAME = re.compile(r"[\w<>-]+([.:/][\w<>-]+)*")
_CRON = re.compile(r"\s*(@[A-Za-z]+|([\w*?,/#-]+[ \t]+){4}[\w*?,/#-]+)\s*", re.ASCII)
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*")
_MAX_TASK_NAME = 255
_MAX_COUNT = 2**31 - 1


def check_schedule_id(value: object, what: str = "schedule_id") -> str:
    """Letters, digits, `.`, `_` and `-`, up to 64 of them."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise InvalidScheduleError(
        f"{what} {shorten(value)}: an id is 1 to 64 letters, digits, dots, underscores or hyphens"
    )


def _task_name(value: object, what: str) -> str:
    if isinstance(value, str) and _is_task_name(value):
        return value
    raise InvalidScheduleError(
        f"{what} {shorten(value)}: a task is package.module:object, like shop.jobs:send_mail, or "
        "the name that it is registered by"
    )


@lru_cache(maxsize=4096)
def _is_task_name(text: str) -> bool:
    return len(text) <= _MAX_TASK_NAME and _TASK_NAME.fullmatch(text) is not None


def is_task_path(text: str) -> bool:
    """Whether this names a task that can be imported, and is no command."""
    return len(text) <= _MAX_TASK_NAME and _TASK_PATH.fullmatch(text) is not None


def _hook(value: object, what: str) -> str:
    text = checked_text(value, what)
    if text.strip() and "\0" not in text:
        return text
    raise InvalidScheduleError(
        f"{what} {shorten(text)}: give a task (package.module:object), a line for /bin/sh, or none"
    )


def _ping(value: object, what: str) -> str:
    text = checked_text(value, what)
    if text == NO_HOOK or (_URL.fullmatch(text) and _has_host(text)):
        return text
    # It is not shown: whoever knows it can ping.
    raise InvalidScheduleError(
        f"{what} of {len(text)} characters: give an http or https URL, or none"
    )


def _has_host(url: str) -> bool:
    from urllib.parse import urlsplit  # late: hardly any schedule has a ping

    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def check_task_path(value: str, what: str) -> str:
    """The name of a task that can be imported."""
    if is_task_path(value):
        return value
    raise InvalidScheduleError(
        f"{what} {shorten(value)}: a task is package.module:object, like shop.jobs:send_mail"
    )


def _cron(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidScheduleError(f"{what} {shorten(value)}: give a cron expression as text")
    _check_cron(value)
    return value


@lru_cache(maxsize=4096)
def _check_cron(text: str) -> None:
    from sqlsched.cron import parse_cron  # late, as for triggers

    parse_cron(text)


def _cron_shape(value: object, what: str) -> str:
    if isinstance(value, str) and _CRON.fullmatch(value):
        return value
    raise InvalidScheduleError(f"{what} {shorten(value)}: a cron expression has five fields")


def _flag(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidScheduleError(f"{what} {shorten(value)}: give true or false")


def _moment(value: object, what: str) -> datetime:
    return checked_time(value, UTC, what)


def _at_least(least: int) -> Callable[[object, str], int]:
    def check(value: object, what: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MAX_COUNT:
            return value
        raise InvalidScheduleError(
            f"{what} {shorten(value)}: give a whole number from {least} to {_MAX_COUNT}"
        )

    return check


def _one_of(words: tuple[str, ...]) -> Callable[[object, str], str]:
    def check(value: object, what: str) -> str:
        if value in words:
            return str(value)
        raise InvalidScheduleError(f"{what} {shorten(value)}: give one of {', '.join(words)}")

    return check


def _catchup_window(value: object, what: str) -> int | str:
    if isinstance(value, str):
        return _one_of(CATCHUP_WORDS)(value, what)
    return duration_seconds(value, what)


Check = Callable[[Any, str], Any]
"""Returns the value in its one form, or raises InvalidScheduleError that names the field."""

CHECKS: dict[str, Check] = {
    "task_name": _task_name,
    "args": checked_array,
    "kwargs": checked_object,
    "labels": checked_object,
    "task_id": check_schedule_id,
    "schedule_id": check_schedule_id,
    "cron": _cron,
    "cron_offset": checked_cron_offset,
    "time": _moment,
    "interval": duration_seconds,
    "start": _moment,
    "end": _moment,
    "max_runs": _at_least(1),
    "jitter": duration_seconds,
    "catchup_window": _catchup_window,
    "coalesce": _one_of(COALESCE),
    "overlap": _one_of(OVERLAP),
    "timeout": duration_seconds,
    "retries": _at_least(0),
    "retry_delay": duration_seconds,
    "expires": duration_seconds,
    "on_success": _hook,
    "on_failure": _hook,
    "on_missed": _hook,
    "ping": _ping,
    "pause_on_failure": _at_least(1),
    "paused": _flag,
    "note": checked_text,
}

STORED_CHECKS = CHECKS | {"cron": _cron_shape}
"""The same for what was stored: whether a cron expression ever fires is not computed again."""


def check_field(name: str, value: Any) -> Any:
    """A field's value in its one form; InvalidScheduleError that names the field."""
    return None if value is None else CHECKS[name](value, name)

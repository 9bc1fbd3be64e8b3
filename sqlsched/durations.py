"""Durations as people write them: `90`, `90s`, `5m`, `1h30m`, `2d`. Whole seconds, at least one."""

import re
from datetime import timedelta

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten

MAX_SECONDS = 36_525 * 86_400
"""A hundred years: past that, a duration is a slip of the finger."""

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_TEXT = re.compile(r"(?:(\d{1,12})d)?(?:(\d{1,12})h)?(?:(\d{1,12})m)?(?:(\d{1,12})s?)?", re.ASCII)
_ACCEPTED = "a duration is whole seconds from 1s to 36525d, written 90, 90s, 5m, 1h30m or 2d"


def parse_duration(text: str, what: str = "duration") -> int:
    """Read a duration; seconds. Raises InvalidScheduleError that names `what`."""
    match = _TEXT.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise InvalidScheduleError(f"{what} {shorten(text)}: {_ACCEPTED}")
    seconds = sum(
        int(number) * unit
        for number, unit in zip(match.groups(), _UNITS.values(), strict=True)
        if number
    )
    return check_seconds(seconds, what, text)


def duration_seconds(value: object, what: str) -> int:
    """Read a duration given in Python: int seconds or a timedelta of whole seconds."""
    if isinstance(value, timedelta):
        if value.microseconds:
            raise InvalidScheduleError(f"{what} {value}: {_ACCEPTED}")
        return check_seconds(value.days * 86_400 + value.seconds, what, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return check_seconds(value, what, value)
    raise InvalidScheduleError(f"{what} {shorten(value)}: give int seconds or a timedelta")


def check_seconds(seconds: int, what: str, given: object) -> int:
    """Refuse what is not between a second and a hundred years."""
    if 1 <= seconds <= MAX_SECONDS:
        return seconds
    raise InvalidScheduleError(f"{what} {shorten(given)}: {_ACCEPTED}")


def format_duration(seconds: int) -> str:
    """Write seconds the way `parse_duration` reads them: 5400 -> 1h30m."""
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"

"""Time zones: a name or a fixed offset becomes a tzinfo, and a tzinfo a line of clock changes.

Named zones always come from the `tzdata` package, never from the system's files: one set of rules
for the command and the library on every machine, without touching `zoneinfo.TZPATH`, which
belongs to the host program.
"""

import re
from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cache, lru_cache
from typing import NamedTuple

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten

DAY = 86_400
"""Seconds."""
EPOCH = date(1970, 1, 1).toordinal() * DAY
"""1970-01-01 in the seconds of `Stretch`."""
LAST_DAY = date.max.toordinal()
"""The ordinal of 9999-12-31. Day 1 is 0001-01-01, as in `date.toordinal`."""

_LONGEST_NAME = 64
_ACCEPTED = (
    "give an IANA zone like Europe/Berlin or a fixed offset east of UTC below 24 h, "
    "like +02:00, -PT90M or 7200"
)
_CLOCK = re.compile(r"([+-])([01]\d|2[0-3])(?:(:?)([0-5]\d)(?:\3([0-5]\d))?)?", re.ASCII)
_ISO_8601 = re.compile(
    r"([+-]?)PT(?=\d)(?:(\d{1,5})H)?(?:(\d{1,5})M)?(?:(\d{1,5})S)?", re.ASCII | re.IGNORECASE
)
_SECONDS = re.compile(r"([+-]?)(0|\d{3,5})", re.ASCII)
_TWO_READINGS = re.compile(r"[+-](\d{3}|(1[5-9]|2[0-3])[0-5]\d)", re.ASCII)


def checked_cron_offset(value: object, what: str) -> str | timedelta:
    """Read a zone: an IANA name, exactly as in tzdata, or a fixed offset east of UTC.

    Fixed offsets are whole seconds, less than 24 hours either way: a timedelta, `+02:00`, `-0530`,
    `+02`, with seconds `+00:00:20`; ISO 8601 `-PT90M`; plain seconds `7200`. They are returned as
    timedelta, names as they are. Raises InvalidScheduleError that names `what`.
    """
    if isinstance(value, timedelta):
        return _checked_offset(value, value, what)
    if not isinstance(value, str):
        raise InvalidScheduleError(f"{what} {shorten(value)}: {_ACCEPTED}")
    if value in _zone_names():
        return str(value)
    if _TWO_READINGS.fullmatch(value):
        raise InvalidScheduleError(
            f"{what} {shorten(value)} may mean hours and minutes or seconds: "
            f"write it like -03:00 or -PT1800S"
        )
    seconds = _fixed_seconds(value)
    if seconds is None:
        raise InvalidScheduleError(f"{what} {shorten(value)}: {_ACCEPTED}{_closest(value)}")
    return _checked_offset(timedelta(seconds=seconds), value, what)


def format_cron_offset(value: str | timedelta) -> str:
    """Write a zone the way `checked_cron_offset` reads it: `Europe/Berlin`, `-01:30`."""
    if isinstance(value, str):
        return value
    sign = "-" if value < timedelta(0) else "+"
    minutes, seconds = divmod(abs(value) // timedelta(seconds=1), 60)
    return f"{sign}{minutes // 60:02}:{minutes % 60:02}" + (f":{seconds:02}" if seconds else "")


def read_cron_offset(text: str) -> str | timedelta:
    """Read what `format_cron_offset` wrote of a checked zone, without opening tzdata again."""
    seconds = _fixed_seconds(text)
    return text if seconds is None else timedelta(seconds=seconds)


@lru_cache(maxsize=1024)
def zone_info(cron_offset: str | timedelta | None) -> tzinfo:
    """The clock a schedule is read on; None is UTC. The same object for the same argument."""
    if cron_offset is None:
        return UTC
    zone = checked_cron_offset(cron_offset, "time zone")
    return _named_zone(zone) if isinstance(zone, str) else timezone(zone)


def tzdata_version() -> str:
    """The release of the IANA database in use, like `2026f`."""
    from importlib import import_module  # tzdata carries no types

    return str(import_module("tzdata").IANA_VERSION)


class Stretch(NamedTuple):
    """A stretch of time in which a clock keeps one offset.

    Seconds, UTC, counted so that a day begins at its ordinal times 86,400. `before` is the offset
    up to `start`: equal to `offset` where a stretch begins for no reason but the size of a block,
    smaller where the clock was put forward (a gap), larger where it was put back (a fold).
    """

    start: int
    end: int
    before: int
    offset: int


def stretch_at(zone: tzinfo, instant: int) -> Stretch:
    """The stretch that holds this second."""
    for stretch in _block(zone, instant // _BLOCK):
        if instant < stretch.end:
            return stretch
    raise AssertionError("a block reaches to its end")


_STEP = 4 * DAY
"""No two changes may lie within a step: in tzdata they are 6.9 days apart at the least."""
_BLOCK = 16 * _STEP
_START = datetime(1, 1, 1)  # noqa: DTZ001 - fromutc() wants the zone itself on it
_FOREVER = (LAST_DAY + 2) * DAY


@lru_cache(maxsize=8192)
def _block(zone: tzinfo, number: int) -> tuple[Stretch, ...]:
    """The stretches between two round points of time, found by looking every few days."""
    fixed = zone.utcoffset(None)
    if fixed is not None:
        offset = fixed // timedelta(seconds=1)
        return (Stretch(-_FOREVER, _FOREVER, offset, offset),)
    start, end = number * _BLOCK, (number + 1) * _BLOCK
    found = []
    before = offset = _offset(zone, start - 1)
    for last in range(start + _STEP - 1, end, _STEP):
        later = _offset(zone, last)
        if later != offset:
            change = _change(zone, last, later)
            if change > start:
                found.append(Stretch(start, change, before, offset))
            start, before, offset = change, offset, later
    return (*found, Stretch(start, end, before, offset))


def _change(zone: tzinfo, last: int, offset: int) -> int:
    """The first second within a step up to `last` at which the offset is `offset`."""
    seconds = range(last - _STEP + 1, last + 1)
    return seconds[bisect_left(seconds, True, key=lambda at: _offset(zone, at) == offset)]


def _offset(zone: tzinfo, instant: int) -> int:
    # A day short of the calendar's ends, for there a datetime has no local time in every zone.
    at = min(max(instant, 2 * DAY), (LAST_DAY - 1) * DAY)
    local = zone.fromutc(_START.replace(tzinfo=zone) + timedelta(-1, at))
    return (local.replace(tzinfo=None) - _START) // timedelta(seconds=1) + DAY - at


def _checked_offset(offset: timedelta, given: object, what: str) -> timedelta:
    if abs(offset) < timedelta(days=1) and not offset.microseconds:
        return offset
    raise InvalidScheduleError(f"{what} {shorten(given)}: {_ACCEPTED}, in whole seconds")


def _fixed_seconds(text: str) -> int | None:
    if match := _CLOCK.fullmatch(text):
        sign, hours, _, minutes, seconds = match.groups(default="0")
    elif match := _ISO_8601.fullmatch(text):
        sign, hours, minutes, seconds = match.groups(default="0")
    elif match := _SECONDS.fullmatch(text):
        sign, hours, minutes, seconds = match[1], "0", "0", match[2]
    else:
        return None
    size = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return -size if sign == "-" else size


@cache
def _zone_names() -> frozenset[str]:
    from importlib.resources import files

    return frozenset(files("tzdata").joinpath("zones").read_text().split())


def _named_zone(name: str) -> tzinfo:
    from importlib.resources import files
    from zoneinfo import ZoneInfo

    with files("tzdata.zoneinfo").joinpath(*name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _closest(text: str) -> str:
    """` (did you mean Europe/Berlin?)`, looking at whole names and at cities alone."""
    from difflib import get_close_matches

    if len(text) > _LONGEST_NAME:
        return ""
    # Not Etc/GMT+2: it lies west of Greenwich, and who writes GMT+2 means east.
    names = sorted(name for name in _zone_names() if not name.startswith("Etc/"))
    by_spelling = {name.rpartition("/")[2].lower(): name for name in names}
    by_spelling |= {name.lower(): name for name in names}
    close = get_close_matches(text.lower().replace(" ", "_"), by_spelling, n=1, cutoff=0.7)
    return f" (did you mean {by_spelling[close[0]]}?)" if close else ""

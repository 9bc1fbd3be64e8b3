"""Instants: inside the package a moment is an int, microseconds since 1970-01-01 UTC (`…_us`).

Zones and text exist only at the edge, and this is the edge.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 86_400 * SECOND_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST = datetime(9999, 12, 30, tzinfo=UTC)
_ACCEPTED = "a time is ISO 8601 from 1970 to 9999, like 2026-11-23T18:05 or 2026-11-23T18:05+01:00"


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The aware UTC datetime of an instant."""
    return _EPOCH + timedelta(microseconds=us)


def next_minute_us(us: int) -> int:
    """The first whole minute after this instant."""
    return (us // MINUTE_US + 1) * MINUTE_US


@lru_cache(maxsize=1024)
def format_us(us: int) -> str:
    """`2026-11-23T18:05:00+00:00`, with microseconds only when they are not zero.

    What lies beyond the calendar, as only a damaged database says, is shown as the number it is.
    """
    try:
        return from_us(us).isoformat()
    except OverflowError:
        return f"{us} us"


def parse_time(text: str, zone: tzinfo, what: str = "time") -> datetime:
    """Read an ISO 8601 time; without an offset it is on `zone`'s clock. Aware, UTC.

    As with cron: what a clock change skipped is the first instant after it, and of an hour that
    comes twice the first is meant.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidScheduleError(f"{what} {shorten(text)}: {_ACCEPTED}") from None
    return checked_time(moment, zone, what)


def checked_time(moment: object, zone: tzinfo, what: str) -> datetime:
    """Bring a datetime to UTC; a naive one is on `zone`'s clock."""
    if not isinstance(moment, datetime):
        raise InvalidScheduleError(f"{what} {shorten(moment)}: give a datetime")
    try:
        aware = moment if moment.utcoffset() is not None else moment.replace(tzinfo=zone)
        utc = aware.astimezone(UTC)
        if aware is not moment and utc.astimezone(zone).replace(tzinfo=None) != moment:
            utc = _end_of_gap(utc, zone)
        in_range = _EPOCH <= utc <= _LAST
    except (OverflowError, ValueError):
        in_range = False
    if not in_range:
        raise InvalidScheduleError(f"{what} {shorten(str(moment))}: {_ACCEPTED}")
    return utc


def _end_of_gap(moment: datetime, zone: tzinfo) -> datetime:
    """The clock change that lies just before an instant."""
    from sqlsched.timezones import EPOCH, stretch_at

    stretch = stretch_at(zone, to_us(moment) // SECOND_US + EPOCH)
    return from_us((stretch.start - EPOCH) * SECOND_US)

"""Cron expressions with the meaning of Debian's cron, in every time zone.

`parse_cron` checks an expression and expands its fields; `CronExpression` answers when it fires.
The walk is over naive wall time, and what the clock shows in a stretch of constant offset
(`timezones.Stretch`) maps it to UTC. All seconds are counted as in that class.
"""

from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

from sqlsched.bits import count_between, first_from, last_until, pack
from sqlsched.cron_fields import FIELDS, HOUR, MINUTE, MONTH, Days, days, values
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten
from sqlsched.timezones import DAY, LAST_DAY, Stretch, stretch_at

MAX_LENGTH = 256
"""Characters in an expression."""

_EPOCH = datetime(1, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_END = (LAST_DAY + 1) * DAY
_CYCLE = 400
"""Years, after which weekdays and leap days come again as they were."""
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class CronExpression:
    """A checked expression: a pure function of a time zone and an instant.

    A fixed job, whose minute and hour do not start with `*`, sees each minute of the calendar
    once: one that a clock change skipped fires at the first instant after the gap, one that comes
    twice in its first pass. A wildcard job goes by what the clock shows. The rule is that of
    Debian's cron(8), without its limit to changes of less than three hours.
    """

    __slots__ = ("_days", "_is_wildcard", "_times")

    def __init__(self, times: int, days: Days, is_wildcard: bool) -> None:
        self._times = times  # the minutes of a day, as in bits.py
        self._days = days
        self._is_wildcard = is_wildcard

    @property
    def is_wildcard(self) -> bool:
        """Whether the minute or the hour field starts with `*`, as written."""
        return self._is_wildcard

    def next_fire(self, after: datetime, zone: tzinfo) -> datetime | None:
        """The first firing strictly after an aware datetime, in UTC; None past year 9999."""
        instant = (after - _EPOCH) // _SECOND + DAY + 1
        while True:
            stretch = stretch_at(zone, instant)
            low = self._first_wall(stretch, instant)
            wall = self._match_from(low)
            if wall is None:
                return None
            end = stretch.end + stretch.offset
            if wall < end:
                return _to_datetime(max(stretch.start, wall - stretch.offset))
            instant = stretch.end
            # No match lies in [low, wall), and a clock is never put back by more than a day: what
            # it may show again is in there, so nothing fires before it comes near `wall`.
            if low + DAY <= end:
                instant = max(instant, wall - DAY)

    def previous_fire(self, before: datetime, zone: tzinfo) -> datetime | None:
        """The last firing strictly before an aware datetime, in UTC; None before year 1."""
        instant = -((_EPOCH - before) // _SECOND) + DAY - 1
        while True:
            stretch = stretch_at(zone, instant)
            high = instant + stretch.offset
            wall = self._match_until(high)
            if wall is None:
                return None
            start = self._first_wall(stretch, stretch.start)
            if wall >= start:
                return _to_datetime(max(stretch.start, wall - stretch.offset))
            instant = stretch.start - 1
            if high - DAY >= start:  # as in next_fire
                instant = min(instant, wall + DAY)

    def count(self, after: datetime, until: datetime, zone: tzinfo) -> int:
        """How many times it fires in (after, until]; the cost grows with years, not firings."""
        instant = (after - _EPOCH) // _SECOND + DAY + 1
        last = (until - _EPOCH) // _SECOND + DAY
        total = 0
        while instant <= last:
            stretch = stretch_at(zone, instant)
            total += self._count_within(stretch, instant, min(last, stretch.end - 1))
            instant = stretch.end
        return total

    def _first_wall(self, stretch: Stretch, instant: int) -> int:
        """The first second on the wall that may fire at `instant` or later in its stretch."""
        start = stretch.start + (stretch.offset if self._is_wildcard else stretch.before)
        return start if instant == stretch.start else max(start, instant + stretch.offset)

    def _count_within(self, stretch: Stretch, first: int, last: int) -> int:
        """Firings from one instant to another within a stretch, both included."""
        low = self._first_wall(stretch, first)
        rest = max(low, first + 1 + stretch.offset)
        at_first = self._count_matches(low, rest) > 0  # after a gap many minutes fire as one
        return at_first + self._count_matches(rest, last + 1 + stretch.offset)

    def _match_from(self, wall: int) -> int | None:
        """The first matching minute on the wall, at or after this second."""
        day, second = divmod(wall, DAY)
        minute = first_from(self._times, -(-second // 60))
        found = self._day_from(day + (minute < 0))
        if found is None:
            return None
        if found > day:
            minute = first_from(self._times, 0)
        return found * DAY + minute * 60

    def _match_until(self, wall: int) -> int | None:
        """The last matching minute on the wall, at or before this second."""
        day, second = divmod(wall, DAY)
        minute = last_until(self._times, second // 60)
        found = self._day_until(day - (minute < 0))
        if found is None:
            return None
        if found < day:
            minute = last_until(self._times, DAY // 60)
        return found * DAY + minute * 60

    def _count_matches(self, start: int, end: int) -> int:
        """The matching minutes on the wall in [start, end)."""
        start, end = max(start, DAY), min(end, _END)
        if start >= end:
            return 0
        first, skipped = self._split(start)
        last, taken = self._split(end)
        return self._count_days(first, last) * self._times.bit_count() + taken - skipped

    def _split(self, wall: int) -> tuple[int, int]:
        """The day of this second, and how many minutes match on that day before it."""
        day, second = divmod(wall, DAY)
        if not second or not self._count_days(day, day + 1):
            return day, 0
        return day, count_between(self._times, 0, -(-second // 60))

    def _count_days(self, first: int, last: int) -> int:
        """The matching days in [first, last)."""
        total = 0
        for year in range(date.fromordinal(first).year, MAXYEAR + 1):
            start = _january(year)
            if start >= last:
                break
            days = self._days[_shape(year % _CYCLE)]
            total += count_between(days, max(first - start, 0), min(last - start, 366))
        return total

    def _day_from(self, day: int) -> int | None:
        if day > LAST_DAY:
            return None
        day = max(day, 1)
        for year in range(date.fromordinal(day).year, MAXYEAR + 1):
            if days := self._days[_shape(year % _CYCLE)]:
                start = _january(year)
                found = first_from(days, max(day - start, 0))
                if found >= 0:
                    return start + found
        return None

    def _day_until(self, day: int) -> int | None:
        if day < 1:
            return None
        day = min(day, LAST_DAY)
        for year in range(date.fromordinal(day).year, MINYEAR - 1, -1):
            if days := self._days[_shape(year % _CYCLE)]:
                start = _january(year)
                found = last_until(days, min(day - start, 366))
                if found >= 0:
                    return start + found
        return None


def _january(year: int) -> int:
    """The ordinal of January 1st."""
    return date(year, 1, 1).toordinal()


@lru_cache(maxsize=_CYCLE)
def _shape(year: int) -> tuple[int, int]:
    """The shape of a year, of which the place in the cycle is given: see `cron_fields.Days`."""
    start = _january(year + _CYCLE)
    return start % 7, date(year + _CYCLE, 3, 1).toordinal() - start - 31  # day 7 was a Sunday


@lru_cache(maxsize=4096)
def parse_cron(text: str) -> CronExpression:
    """Read a cron expression: five fields, or `@daily` and its like.

    Raises InvalidScheduleError that names the field at fault and what it accepts; also for an
    expression that can never fire, like `0 0 31 2 *`.
    """
    try:
        return _parse(text)
    except InvalidScheduleError as error:
        raise InvalidScheduleError(f"cron {shorten(text)}: {error}") from None


def _parse(text: str) -> CronExpression:
    minute, hour, day, month, weekday = split_fields(text)
    times = _times(values(MINUTE, minute), values(HOUR, hour))
    matching = days(values(MONTH, month), day, weekday)
    if not matching.ever():
        raise InvalidScheduleError("it never fires: no month that it names has such a day")
    is_wildcard = minute.startswith("*") or hour.startswith("*")
    return CronExpression(times, matching, is_wildcard)


def split_fields(text: str) -> list[str]:
    """The five fields, in lower case; of a nickname, those that it stands for."""
    if len(text) > MAX_LENGTH or not text.isascii():
        raise InvalidScheduleError(f"give at most {MAX_LENGTH} characters of ASCII")
    lowered = text.replace("\t", " ").strip(" ").lower()
    if lowered == "@reboot":
        raise InvalidScheduleError("there is no boot to wait for; give a time, or @daily")
    if lowered.startswith("@") and lowered not in _ALIASES:
        raise InvalidScheduleError(f"of the words with @ there are {', '.join(_ALIASES)}")
    fields = [field for field in _ALIASES.get(lowered, lowered).split(" ") if field]
    if len(fields) in (6, 7):
        raise InvalidScheduleError(
            f"{len(fields)} fields; cron has five, without seconds and years: "
            "for intervals of seconds use --every, like --every 30s"
        )
    if len(fields) != len(FIELDS):
        names = " ".join(field.name for field in FIELDS)
        raise InvalidScheduleError(f"give five fields, {names}, or one of {', '.join(_ALIASES)}")
    return fields


@lru_cache(maxsize=256)
def _times(minutes: tuple[int, ...], hours: tuple[int, ...]) -> int:
    """The minutes of a day at which an expression fires, as in bits.py."""
    return pack(minutes) * pack(60 * hour for hour in hours)


def _to_datetime(instant: int) -> datetime | None:
    return _EPOCH + timedelta(-1, instant) if DAY <= instant < _END else None

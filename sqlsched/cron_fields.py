"""The fields of a cron expression: their grammar, and which values and days they stand for.

Text comes in lower case.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import NamedTuple

from sqlsched.bits import pack
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten

Special = Callable[[int, int], int]
"""A day of the month from the weekday of its 1st (0 is Sunday) and its length; a day beyond its
length does not exist."""


class Field(NamedTuple):
    """One of the five: its place, its range, and the names its numbers have."""

    place: int
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    more: str = ""

    @property
    def top(self) -> int:
        """Where `*` and `N/S` end: on days of the week Sunday counts as 0, not as 7 again."""
        return self.high - (self.low == 0 and self.high == 7)

    def error(self, item: str, problem: str = "") -> InvalidScheduleError:
        """What to raise about an item."""
        names = f" or {self.names[0].upper()}-{self.names[-1].upper()}" if self.names else ""
        return InvalidScheduleError(
            f"{self.name} {shorten(item)}{problem}; give {self.low}-{self.high}{names}, "
            f"*, A-B, */S, A-B/S, N/S{self.more} or a list of these"
        )


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

MINUTE = Field(0, "minute", 0, 59)
HOUR = Field(1, "hour", 0, 23)
DAY_OF_MONTH = Field(2, "day-of-month", 1, 31, more=", ?, L, LW, nW")
MONTH = Field(3, "month", 1, 12, _MONTHS)
DAY_OF_WEEK = Field(4, "day-of-week", 0, 7, _WEEKDAYS, more=", ?, D#1 to D#5, DL")
FIELDS = (MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)

_LENGTHS = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SIX_WEEKS = pack(range(0, 42, 7))

_WORD = r"(\d{1,4}|[a-z]{3})"
_PLAIN = re.compile(rf"(?:\*|{_WORD}(?:-{_WORD})?)(?:/(\d{{1,4}}))?", re.ASCII)
_NEAREST = re.compile(r"(\d{1,4})w", re.ASCII)
_NTH = re.compile(rf"{_WORD}#([1-5])", re.ASCII)
_LAST = re.compile(rf"{_WORD}l|l{_WORD}", re.ASCII)


class Days(dict[tuple[int, int], int]):
    """The days that the day and month fields stand for, by the shape of a year.

    A shape is the weekday of January 1st (0 is Sunday) and the length of February; there are 14.
    The days are counted from January 1st, which is 0, and packed as in bits.py.
    """

    __slots__ = ("_both", "_date_specials", "_dates", "_months", "_weekday_specials", "_weekdays")

    def __init__(self, months: tuple[int, ...], day_of_month: str, day_of_week: str) -> None:
        super().__init__()
        self._months = months
        dates, self._date_specials = _parse(DAY_OF_MONTH, day_of_month)
        weekdays, self._weekday_specials = _parse(DAY_OF_WEEK, day_of_week)
        self._dates = pack(dates) >> 1
        self._weekdays = pack(weekdays) * _SIX_WEEKS
        self._both = day_of_month[0] in "*?" or day_of_week[0] in "*?"

    def __missing__(self, shape: tuple[int, int]) -> int:
        weekday, february = shape
        start = days = 0
        for month in range(1, 13):
            length = february if month == 2 else _LENGTHS[month]
            if month in self._months:
                days |= self._month((weekday + start) % 7, length) << start
            start += length
        self[shape] = days
        return days

    def _month(self, first: int, length: int) -> int:
        """The days of a month, its 1st as 0, by the weekday of its 1st and its length."""
        dates = self._dates | pack(day(first, length) - 1 for day in self._date_specials)
        weekdays = self._weekdays >> first
        weekdays |= pack(day(first, length) - 1 for day in self._weekday_specials)
        found = dates & weekdays if self._both else dates | weekdays
        return found & ((1 << length) - 1)

    def ever(self) -> bool:
        """Whether some year has such a day."""
        lengths = {_LENGTHS[month] for month in self._months}
        if 2 in self._months:
            lengths.add(29)
        return any(self._month(first, length) for length in lengths for first in range(7))


@lru_cache(maxsize=1024)
def days(months: tuple[int, ...], day_of_month: str, day_of_week: str) -> Days:
    """The days of two fields; with `*` or `?` in front of either both must match, else one."""
    return Days(months, day_of_month, day_of_week)


@lru_cache(maxsize=1024)
def values(field: Field, text: str) -> tuple[int, ...]:
    """The values of a field without specials, ascending; raises InvalidScheduleError."""
    return tuple(sorted(set().union(*(_expand(field, item) for item in text.split(",")))))


def _parse(field: Field, text: str) -> tuple[set[int], list[Special]]:
    """The plain values and the specials of a day field."""
    if text == "?":
        return set(range(field.low, field.top + 1)), []
    plain: set[int] = set()
    specials = []
    for item in text.split(","):
        special = _special(field, item)
        if special:
            specials.append(special)
        else:
            plain.update(_expand(field, item))
    return plain, specials


def _special(field: Field, item: str) -> Special | None:
    if field is DAY_OF_WEEK:
        if match := _NTH.fullmatch(item):
            return partial(_nth_weekday, _number(field, match[1], item) % 7, int(match[2]))
        if match := _LAST.fullmatch(item):
            return partial(_last_weekday, _number(field, match[1] or match[2], item) % 7)
        return None
    if match := _NEAREST.fullmatch(item):
        return partial(_nearest_working_day, _number(field, match[1], item))
    return {"l": _last_day, "lw": _last_working_day}.get(item)


def _expand(field: Field, item: str) -> Iterable[int]:
    """The values of a plain item; 7 becomes Sunday's 0."""
    match = _PLAIN.fullmatch(item)
    if not match:
        raise field.error(item, _reason(item))
    first, last, step = match.groups()
    if step and not int(step):
        raise field.error(item, ": a step is at least 1")
    low = _number(field, first, item) if first else field.low
    high = _end(field, match, low)
    if low > high:
        problem = "the range runs backwards" if last else "7 and 0 are one day, so give 0/S"
        raise field.error(item, f": {problem}")
    numbers = range(low, high + 1, int(step or 1))
    return {number % 7 for number in numbers} if field is DAY_OF_WEEK else numbers


def _number(field: Field, word: str, item: str) -> int:
    if word in field.names:
        return field.low + field.names.index(word)
    if not word.isdigit():
        raise field.error(item, _reason(item))
    if not field.low <= int(word) <= field.high:
        raise field.error(item, f": {word} is out of range")
    return int(word)


def _end(field: Field, match: re.Match[str], low: int) -> int:
    """Where an item ends; Sunday ends a week that begins on another day."""
    first, last, step = match.groups()
    if last:
        return 7 if last == "sun" and low else _number(field, last, match[0])
    return low if first and not step else field.top


def _reason(item: str) -> str:
    if item[:1] == "h":
        return ": H (a hashed value) is not known here; give a number"
    if item[:1] == "r":
        return ": R (a random value) is not known here; give a number"
    if "~" in item:
        return ": ~ (a random value) is not known here; give a number, and --jitter"
    return ""


def _last_day(first: int, length: int) -> int:  # noqa: ARG001 - a Special
    return length


def _last_working_day(first: int, length: int) -> int:
    return _nearest_working_day(length, first, length)


def _nearest_working_day(day: int, first: int, length: int) -> int:
    """Monday to Friday, without leaving the month."""
    weekday = (first + day - 1) % 7
    if day > length:
        return day
    if weekday == 6:
        return day - 1 if day > 1 else 3
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day


def _nth_weekday(weekday: int, nth: int, first: int, length: int) -> int:  # noqa: ARG001 - a Special
    return 1 + (weekday - first) % 7 + 7 * (nth - 1)


def _last_weekday(weekday: int, first: int, length: int) -> int:
    return length - (first + length - 1 - weekday) % 7

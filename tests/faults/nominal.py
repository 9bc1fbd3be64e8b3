"""The nominal instants of a schedule, listed without the program's planner and triggers.

Cron expressions are read by the plain evaluator of `tests/test_cron_against_evaluator.py`, minute
by minute; intervals are arithmetic. All times are microseconds since the epoch.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Protocol

from sqlsched.timezones import zone_info
from tests.test_cron_against_evaluator import MINUTE, Wall, firings, walk

SECOND = 1_000_000
DAY = 86_400 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
_CHUNK = 16 * DAY
_STAGE = timedelta(hours=26)
"""What an evaluation needs to have seen before: the clock change that it may be in the midst of."""


def us_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


class Nominal(Protocol):
    """What fires when."""

    def between(self, after_us: int, until_us: int) -> Sequence[int]:
        """The instants after one and up to another, included, in order."""


class Every:
    """An interval: so many seconds, on the grid of one instant."""

    def __init__(self, seconds: int, anchor_us: int) -> None:
        self.step = seconds * SECOND
        self.anchor_us = anchor_us

    def between(self, after_us: int, until_us: int) -> Sequence[int]:
        first = after_us - (after_us - self.anchor_us) % self.step + self.step
        return range(first, until_us + 1, self.step)


class At:
    """One time."""

    def __init__(self, us: int) -> None:
        self.us = us

    def between(self, after_us: int, until_us: int) -> Sequence[int]:
        return [self.us] if after_us < self.us <= until_us else []


class Within:
    """Another's instants, between two bounds, both included."""

    def __init__(self, nominal: Nominal, start_us: int, end_us: int) -> None:
        self.nominal = nominal
        self.start_us = start_us
        self.end_us = end_us

    def between(self, after_us: int, until_us: int) -> Sequence[int]:
        return self.nominal.between(max(after_us, self.start_us - 1), min(until_us, self.end_us))


class Cron:
    """An expression on the clock of a zone."""

    def __init__(self, expression: str, zone: str) -> None:
        self.expression = expression
        self.zone = zone

    def between(self, after_us: int, until_us: int) -> Sequence[int]:
        chunks = range(after_us // _CHUNK, until_us // _CHUNK + 1)
        found = [us for chunk in chunks for us in _chunk(self.expression, self.zone, chunk)]
        return found[bisect_right(found, after_us) : bisect_right(found, until_us)]


@cache
def _chunk(expression: str, zone: str, number: int) -> list[int]:
    start = moment_of(number * _CHUNK)
    found = firings(expression, _walls(zone, number))
    return [us_of(moment) for moment in found if moment >= start]


@lru_cache(maxsize=2)  # some megabytes each
def _walls(zone: str, number: int) -> list[Wall]:
    """The evaluator's minutes. An hour that begins and ends with one offset is not looked into."""
    tz = zone_info(zone)
    hour, end = moment_of(number * _CHUNK) - _STAGE, moment_of((number + 1) * _CHUNK)
    found: list[Wall] = []
    before = hour.astimezone(tz).utcoffset()
    while hour < end:
        after = (hour + HOUR).astimezone(tz).utcoffset()
        if before is not None and before == after:
            naive = hour.replace(tzinfo=None) + before
            found += [(hour + n * MINUTE, naive + n * MINUTE, before) for n in range(60)]
        else:
            found += walk(tz, hour, hour + HOUR)
        hour, before = hour + HOUR, after
    return found

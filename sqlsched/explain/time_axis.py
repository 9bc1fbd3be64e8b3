"""Where an axis of time has its marks: at round times on the clock of a zone."""

from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo

from sqlsched.instants import from_us, to_us

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 20, 30)),
    *(_HOUR * n for n in (1, 2, 3, 4, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 28, 91, 182, 365, 730, 1825, 3650, 36_500, 365_000)),
)
"""Seconds from one mark to the next."""


def ticks(from_us_: int, to_us_: int, most: int, zone: tzinfo) -> Iterator[tuple[int, str]]:
    """At most about `most` round instants of a span, with what the clock shows then."""
    seconds = (to_us_ - from_us_) / 1e6
    step = next((s for s in _STEPS if s * max(most, 1) >= seconds), _STEPS[-1])
    shown = "%H:%M:%S" if step < _MINUTE else "%H:%M" if step < _DAY else "%Y-%m-%d"
    wall = from_us(from_us_).astimezone(zone).replace(tzinfo=None)
    epoch = datetime(1, 1, 1)  # noqa: DTZ001 - it stands for what a clock on the wall shows
    behind = (wall - epoch) % timedelta(seconds=step)
    wall -= behind
    last = from_us_ - 1
    for _ in range(2 * max(most, 1) + 2):
        us = to_us(wall.replace(tzinfo=zone))
        if us >= to_us_:
            return
        if us > last:  # not twice what a clock change has skipped
            yield us, from_us(us).astimezone(zone).strftime(shown)
            last = us
        wall += timedelta(seconds=step)

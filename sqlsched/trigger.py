"""When a schedule fires, nominally: pure arithmetic over instants, without policies or a clock."""

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache

from sqlsched.cron import parse_cron
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import SECOND_US, format_us, from_us, to_us
from sqlsched.timezones import zone_info

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Trigger:
    """The nominal firings of a schedule: cron, interval or one time, within inclusive bounds.

    `anchor_us` is where an interval without `start` counts from: its first firing is one
    interval later. Equal triggers answer alike, whatever schedule they belong to.
    """

    cron: str | None
    cron_offset: str | timedelta | None
    time_us: int | None
    interval_s: int | None
    start_us: int | None
    end_us: int | None
    anchor_us: int

    @property
    def recurring(self) -> bool:
        """False for a one-shot."""
        return self.time_us is None

    def first_us(self, created_us: int) -> int | None:
        """The first firing of a schedule made at `created_us`: a one-shot's may have passed."""
        return self.time_us if self.time_us is not None else self.next_us(created_us)

    def next_us(self, after_us: int) -> int | None:
        """The first firing strictly after an instant; None if there is none."""
        if self.start_us is not None:
            after_us = max(after_us, self.start_us - 1)
        found = _next(self, after_us)
        return (
            found if found is not None and (self.end_us is None or found <= self.end_us) else None
        )

    def previous_us(self, before_us: int) -> int | None:
        """The last firing strictly before an instant; None if there is none."""
        if self.end_us is not None:
            before_us = min(before_us, self.end_us + 1)
        found = self._previous(before_us)
        return found if found is None or self.start_us is None or found >= self.start_us else None

    def counted_from(self, us: int) -> "Trigger":
        """The same, but its interval may begin before `us`: where the clock was put back to before
        its creation, it goes on in the same steps from there."""
        if self.interval_s is None or self.start_us is not None or self.anchor_us <= us:
            return self
        step = self.interval_s * SECOND_US
        return replace(self, anchor_us=us - (us - self.anchor_us) % step)

    def count(self, first_us: int, last_us: int) -> int:
        """How many firings there are from one firing to another, both included."""
        if first_us >= last_us:
            return int(first_us == last_us)
        if self.interval_s is not None:
            return (last_us - first_us) // (self.interval_s * SECOND_US) + 1
        if self.cron is None:
            return 1
        zone = zone_info(self.cron_offset)
        return parse_cron(self.cron).count(from_us(first_us) - _TICK, from_us(last_us), zone)

    def _previous(self, before_us: int) -> int | None:
        if self.cron is not None:
            found = parse_cron(self.cron).previous_fire(
                from_us(before_us), zone_info(self.cron_offset)
            )
            return to_us(found) if found else None
        if self.interval_s is None:
            return self.time_us if self.time_us is not None and self.time_us < before_us else None
        first, step = self._grid(self.interval_s)
        return first + (before_us - 1 - first) // step * step if before_us > first else None

    def _grid(self, interval_s: int) -> tuple[int, int]:
        """The first firing of an interval and its step."""
        step = interval_s * SECOND_US
        return (self.anchor_us + step if self.start_us is None else self.start_us), step


# Schedules that share a trigger are due together: one computation serves them all.
@lru_cache(maxsize=4096)
def _next(trigger: Trigger, after_us: int) -> int | None:
    if trigger.cron is not None:
        zone = zone_info(trigger.cron_offset)
        found = parse_cron(trigger.cron).next_fire(from_us(after_us), zone)
        return to_us(found) if found else None
    if trigger.interval_s is None:
        return (
            trigger.time_us if trigger.time_us is not None and trigger.time_us > after_us else None
        )
    first, step = trigger._grid(trigger.interval_s)
    return first if after_us < first else first + ((after_us - first) // step + 1) * step


def check_bounds(trigger: Trigger) -> None:
    """Refuse bounds that exclude every firing; raises InvalidScheduleError."""
    start_us, end_us = trigger.start_us, trigger.end_us
    if start_us is None and end_us is None:
        return
    if start_us is not None and end_us is not None and end_us < start_us:
        raise InvalidScheduleError(
            f"end {format_us(end_us)} lies before start {format_us(start_us)}; give a later end"
        )
    # Without a start, an interval counts from its creation, which only the store knows.
    found = trigger.next_us(-1) if trigger.recurring else trigger.previous_us(2**62)
    if found is not None:  # 1970 itself is the instant 0
        return
    between = " and ".join(
        f"{name} {format_us(us)}"
        for name, us in (("start", start_us), ("end", end_us))
        if us is not None
    )
    raise InvalidScheduleError(f"the bounds {between} exclude every firing; widen them")

"""Times, durations and triggers in the words of a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo

from sqlsched.durations import format_duration
from sqlsched.instants import SECOND_US, from_us, to_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.timezones import format_cron_offset


@dataclass(frozen=True, slots=True)
class Words:
    """Speaks of instants on the clock of a zone."""

    zone: tzinfo = UTC

    def at(self, us: int) -> str:
        """`2026-11-23T18:05:00+00:00`, to the millisecond where that tells more."""
        precision = "milliseconds" if us % SECOND_US >= SECOND_US // 1000 else "seconds"
        return from_us(us).astimezone(self.zone).isoformat(timespec=precision)

    def trigger(self, schedule: ScheduledTask) -> str:
        """`30 2 * * * in Europe/Berlin`, `every 1m30s`, `once, at …`."""
        if schedule.cron is not None:
            offset = schedule.cron_offset
            return f"{schedule.cron} in {format_cron_offset(offset) if offset else 'UTC'}"
        if schedule.time is not None:
            return f"once, at {self.at(to_us(schedule.time))}"
        assert isinstance(schedule.interval, int)
        return f"every {format_duration(schedule.interval)}"


def span(us: int) -> str:
    """How long something took: `3 ms`, `1.2 s`, `2m5s`."""
    if us < SECOND_US:
        return f"{max(0, us) // 1000} ms"
    if us < 60 * SECOND_US:
        return f"{us / SECOND_US:.1f} s"
    return format_duration(us // SECOND_US)


def pids(numbers: Sequence[int]) -> str:
    """`pid 3`, `pids 3 and 4`, `pids 3, 4 and 5`."""
    names = [str(number) for number in numbers]
    if len(names) == 1:
        return f"pid {names[0]}"
    return f"pids {', '.join(names[:-1])} and {names[-1]}"


def sentence(text: str) -> str:
    """The same with its first letter large."""
    return text[:1].upper() + text[1:]

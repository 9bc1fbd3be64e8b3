"""What clock changes do to a cron job's firings, in words."""

from dataclasses import replace
from datetime import timedelta

from sqlsched.explain.evidence import Asked
from sqlsched.explain.words import Words
from sqlsched.instants import SECOND_US, from_us
from sqlsched.timezones import EPOCH, Stretch, format_cron_offset, stretch_at, zone_info
from sqlsched.trigger import Trigger


def skipped(trigger: Trigger, scheduled_us: int, words: Words) -> str | None:
    """Why a firing comes at the first instant after a clock change; None if it does not."""
    stretch = _stretch(trigger, scheduled_us)
    if stretch is None or not _is_gap_at(stretch, scheduled_us):
        return None
    if _with_offset(trigger, stretch.offset).next_us(scheduled_us - 1) == scheduled_us:
        return None  # the clock showed that minute, too
    return (
        f"the clock of {_zone(trigger)} was put forward at {words.at(scheduled_us)}, from "
        f"{_wall(stretch.start, stretch.before)} to {_wall(stretch.start, stretch.offset)}, over "
        "its minute, and a job at a fixed time then fires at the first instant after"
    )


def stands_for(trigger: Trigger, scheduled_us: int, asked: Asked) -> bool:
    """Whether a firing just after a clock change is that of a moment that the clock skipped."""
    stretch = _stretch(trigger, scheduled_us)
    if stretch is None or not _is_gap_at(stretch, scheduled_us):
        return False
    by_old_clock = _with_offset(trigger, stretch.before).next_us(asked.at_us - 1)
    gap_us = (stretch.offset - stretch.before) * SECOND_US
    return by_old_clock is not None and by_old_clock < min(asked.end_us, scheduled_us + gap_us)


def second_pass(trigger: Trigger, asked: Asked, words: Words) -> str | None:
    """Why nothing fires at a moment that the clock shows for the second time; None otherwise."""
    stretch = _stretch(trigger, asked.at_us)
    if stretch is None or stretch.before <= stretch.offset:
        return None
    by_this_clock = _with_offset(trigger, stretch.offset).next_us(asked.at_us - 1)
    first_us = (by_this_clock or 0) - (stretch.before - stretch.offset) * SECOND_US
    if by_this_clock is None or by_this_clock >= asked.end_us:
        return None
    if trigger.next_us(first_us - 1) != first_us:
        return None
    instant = by_this_clock // SECOND_US + EPOCH
    return (
        f"the clock of {_zone(trigger)} showed {_wall(instant, stretch.offset)} twice that day, "
        f"and a job at a fixed time fires the first time only, which was at {words.at(first_us)}"
    )


def _stretch(trigger: Trigger, us: int) -> Stretch | None:
    """The stretch of constant offset that an instant lies in, of a cron's clock."""
    if trigger.cron is None:
        return None
    return stretch_at(zone_info(trigger.cron_offset), us // SECOND_US + EPOCH)


def _is_gap_at(stretch: Stretch, us: int) -> bool:
    """Whether the clock was put forward at just this instant."""
    return stretch.before < stretch.offset and (stretch.start - EPOCH) * SECOND_US == us


def _with_offset(trigger: Trigger, offset: int) -> Trigger:
    """The same on a clock that is never set."""
    return replace(trigger, cron_offset=timedelta(seconds=offset), start_us=None, end_us=None)


def _wall(instant: int, offset: int) -> str:
    """What a clock shows: `02:30`."""
    return f"{from_us((instant - EPOCH + offset) * SECOND_US):%H:%M}"


def _zone(trigger: Trigger) -> str:
    return format_cron_offset(trigger.cron_offset) if trigger.cron_offset else "UTC"

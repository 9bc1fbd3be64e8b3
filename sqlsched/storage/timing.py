"""What of a schedule's row decides when it fires."""

from functools import lru_cache
from typing import Any

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.planner import Timing
from sqlsched.timezones import checked_cron_offset
from sqlsched.trigger import Trigger

TIMING = """cron, cron_offset, time_us, interval_s, start_us, end_us,
    CASE WHEN interval_s IS NULL OR start_us IS NOT NULL THEN 0 ELSE anchor_us END,
    jitter_s, catchup_window, coalesce, max_runs"""


@lru_cache(maxsize=4096)
def timing_of_row(
    cron: str | None,
    cron_offset: str | None,
    time_us: int | None,
    interval_s: int | None,
    start_us: int | None,
    end_us: int | None,
    anchor_us: int,
    *policies: Any,
) -> Timing:
    """What these columns say; one of DAMAGED if it makes no sense."""
    if interval_s is not None and interval_s < 1:
        raise InvalidScheduleError(f"interval {interval_s}: at least a second")
    offset = None
    if cron is not None and cron_offset is not None:
        offset = checked_cron_offset(cron_offset, "cron_offset")
    return Timing(
        Trigger(cron, offset, time_us, interval_s, start_us, end_us, anchor_us), *policies
    )

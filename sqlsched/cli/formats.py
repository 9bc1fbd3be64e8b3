"""How schedules and runs look, as JSON and to people."""

from typing import Any

from sqlsched.cli.invocation import clipped
from sqlsched.clock import now_us
from sqlsched.durations import format_duration
from sqlsched.instants import SECOND_US, format_us, to_us
from sqlsched.scheduled_task import ScheduledTask, schedule_to_json
from sqlsched.storage.runs import RunRow
from sqlsched.storage.schedules import StoredSchedule

_LIST_FIELDS = (
    *("task_name", "args", "kwargs", "labels", "cron", "cron_offset", "time", "interval"),
    "paused",
)
_POLICIES = (
    *("start", "end", "max_runs", "jitter", "catchup_window", "coalesce", "overlap", "timeout"),
    *("retries", "retry_delay", "expires", "on_success", "on_failure", "on_missed", "ping"),
    "pause_on_failure",
)


def iso(us: int | None) -> str | None:
    """ISO 8601, UTC; None stays None."""
    return None if us is None else format_us(us)


def short(us: int | None) -> str | None:
    """ISO 8601 for a table: to the second, or to the millisecond where that tells more."""
    if us is None:
        return None
    return format_us(us // 1000 * 1000).replace("000+", "+")


def in_words(us: int) -> str:
    """How far off an instant is: "in 5m", "12s ago"."""
    seconds = (us - now_us()) // SECOND_US
    if -1 <= seconds <= 0:
        return "now"
    return f"in {format_duration(seconds)}" if seconds > 0 else f"{format_duration(-seconds)} ago"


def schedule_json(stored: StoredSchedule) -> dict[str, Any]:
    """What `list --json` says of a schedule."""
    plain = schedule_to_json(stored.schedule)
    return {
        "id": stored.schedule.schedule_id,
        **{name: plain[name] for name in _LIST_FIELDS},
        "next_fire_time": iso(stored.next_us),
        "last_fire_time": iso(stored.last_us),
        "last_status": stored.last_status,
        "note": plain["note"],
    }


def schedule_details_json(stored: StoredSchedule, next_times: list[str]) -> dict[str, Any]:
    """What `show --json` says of a schedule: everything."""
    plain = schedule_to_json(stored.schedule)
    return {
        **schedule_json(stored),
        **{name: plain[name] for name in _POLICIES},
        "task_id": plain["task_id"],
        "source": stored.source or None,
        "created_at": iso(stored.created_us),
        "paused_since": iso(stored.paused_us),
        "done": stored.done,
        "next_fire_times": next_times,
    }


def when(schedule: ScheduledTask) -> str:
    """The trigger in a few words."""
    if schedule.cron is not None:
        zone = schedule_to_json(schedule)["cron_offset"]
        return f"{schedule.cron} ({zone})" if zone else schedule.cron
    if schedule.time is not None:
        return f"at {short(to_us(schedule.time))}"
    assert isinstance(schedule.interval, int)
    return f"every {format_duration(schedule.interval)}"


def what(schedule: ScheduledTask) -> str:
    """The task in a few words: a command reads better as itself."""
    if schedule.task_name.startswith("sqlsched:"):
        return clipped(" ".join(map(str, schedule.args)))
    return schedule.task_name


def took(run: RunRow) -> str:
    """How long a run has taken."""
    if run.started_us is None or run.finished_us is None:
        return ""
    return f"{(run.finished_us - run.started_us) / SECOND_US:.3f}s"

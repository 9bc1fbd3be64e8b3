"""`ScheduledTask`, what to run and when, and `TaskMessage`, what a broker receives for one firing.

Both are frozen and checked once, at construction; whoever holds one need not check again.
"""

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.field_checks import CHECKS, STORED_CHECKS, Check
from sqlsched.instants import to_us
from sqlsched.output import OutputBuffer
from sqlsched.timezones import format_cron_offset

if TYPE_CHECKING:
    from sqlsched.planner import Timing
    from sqlsched.trigger import Trigger

SHELL_TASK = "sqlsched:shell"
"""Runs its one argument with `/bin/sh -c`."""
EXEC_TASK = "sqlsched:exec"
"""Runs its arguments as a program and its arguments, without a shell."""
COMMANDS = frozenset({SHELL_TASK, EXEC_TASK})


def new_schedule_id() -> str:
    """A fresh id: 12 hexadecimal digits, 48 random bits."""
    return os.urandom(6).hex()


@dataclass(frozen=True, kw_only=True)
class ScheduledTask:
    """A task, its trigger (exactly one of cron, time and interval), and its policies.

    Durations are given as int seconds or timedelta and held as int seconds; times are held in
    UTC; `cron_offset` is a zone name or a fixed offset east of UTC. None means the default.
    """

    task_name: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    task_id: str | None = None
    schedule_id: str = field(default_factory=new_schedule_id)
    cron: str | None = None
    cron_offset: str | timedelta | None = None
    time: datetime | None = None
    interval: int | timedelta | None = None
    start: datetime | None = None
    end: datetime | None = None
    max_runs: int | None = None
    jitter: int | timedelta | None = None
    catchup_window: int | timedelta | str | None = None
    coalesce: str | None = None
    overlap: str | None = None
    timeout: int | timedelta | None = None
    retries: int | None = None
    retry_delay: int | timedelta | None = None
    expires: int | timedelta | None = None
    on_success: str | None = None
    on_failure: str | None = None
    on_missed: str | None = None
    ping: str | None = None
    pause_on_failure: int | None = None
    paused: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        self._check(CHECKS, self.__dict__)
        self._check_bounds()

    def _check_bounds(self) -> None:
        if self.start is not None or self.end is not None:
            from sqlsched.trigger import check_bounds

            check_bounds(self.trigger(0))

    @classmethod
    def from_fields(cls, given: dict[str, Any]) -> "ScheduledTask":
        """The same as `ScheduledTask(**given)`, of names that are fields; quicker for a million."""
        made = object.__new__(cls)
        made.__dict__.update(_UNSET)
        made._check(CHECKS, given)
        made._check_bounds()
        return made

    @classmethod
    def from_stored(cls, **values: Any) -> "ScheduledTask":
        """Make one from every field of one that was checked and stored.

        Its values are checked again, since others can write to the store; that its firings can
        be computed is not: to list schedules need not cost the import of what expands them.
        """
        made = object.__new__(cls)
        made.__dict__.update(values)
        made._check(STORED_CHECKS, values)
        return made

    def _check(self, checks: dict[str, Check], given: dict[str, Any]) -> None:
        values = self.__dict__  # written to directly, as this object is frozen
        for name, value in given.items():
            if value is not None:
                values[name] = checks[name](value, name)
        for name in _NEEDED:
            if values[name] is None:
                checks[name](None, name)
        for name, make in _MADE.items():
            if values[name] is None:
                values[name] = make()
        if self.task_name in COMMANDS:
            check_command(self.task_name, self.args, self.kwargs)
        if (self.cron is None) + (self.time is None) + (self.interval is None) != 2:
            named = [name for name in ("cron", "time", "interval") if values[name] is not None]
            found = " and ".join(named) or "none of them"
            raise InvalidScheduleError(
                f"a schedule has exactly one of cron, time and interval; "
                f"{self.task_name!r} has {found}"
            )

    def trigger(self, anchor_us: int) -> "Trigger":
        """Its nominal firings, if it was made, or last changed, at `anchor_us`."""
        assert not isinstance(self.interval, timedelta)  # normalised at construction
        return _trigger(
            self.cron,
            self.cron_offset if self.cron else None,
            _us(self.time),
            self.interval,
            _us(self.start),
            _us(self.end),
            anchor_us if self.interval and not self.start else 0,
        )

    def timing(self, anchor_us: int) -> "Timing":
        """What decides when its firings are dispatched, for an anchor as in `trigger`."""
        from sqlsched.planner import Timing

        jitter, window = self.jitter, self.catchup_window
        assert not isinstance(jitter, timedelta)
        assert not isinstance(window, timedelta)  # normalised at construction
        return Timing(self.trigger(anchor_us), jitter, window, self.coalesce, self.max_runs)

    def content(self) -> dict[str, Any]:
        """Everything that makes this schedule what it is, as plain JSON: all but the id and state.

        Two schedules are the same content when these are equal.
        """
        return {
            name: value
            for name, value in schedule_to_json(self).items()
            if name not in {"schedule_id", "paused"}
        }


@dataclass(frozen=True, kw_only=True)
class TaskMessage:
    """One run, as a broker gets it.

    `task_id` is derived from the schedule and the nominal time, so that the same firing always
    has the same one. `labels` are the schedule's, with `schedule_id` and `scheduled_for` (ISO
    8601). `timeout` and `expires` are for queues that know them: where the broker runs tasks
    itself, the engine keeps the time. Its repr, which comes into logs, has no arguments in it.
    """

    task_id: str
    task_name: str
    args: list[Any] = field(default_factory=list, repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    labels: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    timeout: int | None = None
    expires: datetime | None = None
    output: OutputBuffer | None = field(default=None, compare=False, repr=False)


def derive_task_id(schedule_id: str, scheduled_us: int, manual_key: int = 0) -> str:
    """The task id of a firing: 128 bits of SHA-256 over its identity, in hexadecimal."""
    import hashlib  # late: it brings OpenSSL, and only a run needs it

    identity = f"{schedule_id}@{scheduled_us}" + (f"#{manual_key}" if manual_key else "")
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def schedule_to_json(schedule: ScheduledTask) -> dict[str, Any]:
    """Every field as plain JSON: times in ISO 8601, durations in seconds, offsets as text."""
    result = {name: getattr(schedule, name) for name in FIELD_NAMES}
    for name in ("time", "start", "end"):
        if result[name] is not None:
            result[name] = result[name].isoformat()
    if result["cron_offset"] is not None:
        result["cron_offset"] = format_cron_offset(result["cron_offset"])
    return result


@lru_cache(maxsize=4096)
def _trigger(*values: Any) -> "Trigger":
    """One object for all equal triggers."""
    # Imported late: most commands show schedules and never compute a firing.
    from sqlsched.trigger import Trigger

    return Trigger(*values)


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


def check_command(name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """What /bin/sh and execve take: one line, or a program and its arguments."""
    is_text = all(isinstance(arg, str) and "\0" not in arg for arg in args)
    fits = len(args) == 1 if name == SHELL_TASK else len(args) > 0
    if not (is_text and fits and args[0]) or kwargs:
        accepted = "one line" if name == SHELL_TASK else "a program and its arguments"
        raise InvalidScheduleError(f"{name}: give it {accepted} as args, all text, and no kwargs")


FIELD_NAMES = tuple(f.name for f in fields(ScheduledTask))
_MADE: dict[str, Callable[[], Any]] = {
    f.name: f.default_factory for f in fields(ScheduledTask) if f.default_factory is not MISSING
}
"""Fields that None makes anew."""
_NEEDED = ("task_name", "paused")
"""Fields that are never None."""
_UNSET: dict[str, Any] = dict.fromkeys(FIELD_NAMES) | {"paused": False}

"""`ScheduledTask`, what to run and when, and `TaskMessage`, what a broker receives for one firing.

Both are frozen and checked once, at construction; whoever holds one need not check again.
"""

import os
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlsched.durations import duration_seconds
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import checked_time, to_us
from sqlsched.output import OutputBuffer
from sqlsched.serialization import checked_array, checked_object, checked_text, shorten
from sqlsched.timezones import checked_cron_offset, format_cron_offset

if TYPE_CHECKING:
    from sqlsched.planner import Timing
    from sqlsched.trigger import Trigger

SHELL_TASK = "sqlsched:shell"
"""Runs its one argument with `/bin/sh -c`."""
EXEC_TASK = "sqlsched:exec"
"""Runs its arguments as a program and its arguments, without a shell."""
_COMMANDS = frozenset({SHELL_TASK, EXEC_TASK})

COALESCE = ("latest", "earliest", "all")
OVERLAP = ("allow", "skip", "buffer-one", "buffer-all", "cancel-other")
CATCHUP_WORDS = ("none", "unlimited")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PART = r"[^\W\d]\w*"
_TASK_PATH = re.compile(rf"{_PART}(\.{_PART})*:{_PART}(\.{_PART})*")
_TASK_NAME = re.compile(r"[\w<>-]+([.:/][\w<>-]+)*")
_CRON = re.compile(r"\s*(@[A-Za-z]+|([\w*?,/#-]+[ \t]+){4}[\w*?,/#-]+)\s*", re.ASCII)
_MAX_TASK_NAME = 255
_MAX_COUNT = 2**31 - 1


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
    paused: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        self._check(_CHECKS, self.__dict__)
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
        made._check(_CHECKS, given)
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
        made._check(_STORED_CHECKS, values)
        return made

    def _check(self, checks: "dict[str, Check]", given: dict[str, Any]) -> None:
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
        if self.task_name in _COMMANDS:
            _check_command(self)
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
    itself, the engine keeps the time.
    """

    task_id: str
    task_name: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
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


def check_schedule_id(value: object, what: str = "schedule_id") -> str:
    """Letters, digits, `.`, `_` and `-`, up to 64 of them."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise InvalidScheduleError(
        f"{what} {shorten(value)}: an id is 1 to 64 letters, digits, dots, underscores or hyphens"
    )


def _task_name(value: object, what: str) -> str:
    if isinstance(value, str) and _is_task_name(value):
        return value
    raise InvalidScheduleError(
        f"{what} {shorten(value)}: a task is package.module:object, like shop.jobs:send_mail, or "
        "the name that it is registered by"
    )


@lru_cache(maxsize=4096)
def _is_task_name(text: str) -> bool:
    return len(text) <= _MAX_TASK_NAME and _TASK_NAME.fullmatch(text) is not None


def check_task_path(value: str, what: str) -> str:
    """The name of a task that can be imported."""
    if len(value) <= _MAX_TASK_NAME and _TASK_PATH.fullmatch(value):
        return value
    raise InvalidScheduleError(
        f"{what} {shorten(value)}: a task is package.module:object, like shop.jobs:send_mail"
    )


def _check_command(schedule: ScheduledTask) -> None:
    """What /bin/sh and execve take: one line, or a program and its arguments."""
    name, args = schedule.task_name, schedule.args
    is_text = all(isinstance(arg, str) and "\0" not in arg for arg in args)
    fits = len(args) == 1 if name == SHELL_TASK else len(args) > 0
    if not (is_text and fits and args[0]) or schedule.kwargs:
        accepted = "one line" if name == SHELL_TASK else "a program and its arguments"
        raise InvalidScheduleError(
            f"{name} with args {shorten(args)}: give it {accepted}, as text, and no kwargs"
        )


def _cron(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidScheduleError(f"{what} {shorten(value)}: give a cron expression as text")
    _check_cron(value)
    return value


@lru_cache(maxsize=4096)
def _check_cron(text: str) -> None:
    from sqlsched.cron import parse_cron  # late, as for triggers

    parse_cron(text)


def _cron_shape(value: object, what: str) -> str:
    if isinstance(value, str) and _CRON.fullmatch(value):
        return value
    raise InvalidScheduleError(f"{what} {shorten(value)}: a cron expression has five fields")


def _flag(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidScheduleError(f"{what} {shorten(value)}: give true or false")


def _moment(value: object, what: str) -> datetime:
    return checked_time(value, UTC, what)


def _at_least(least: int) -> Callable[[object, str], int]:
    def check(value: object, what: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MAX_COUNT:
            return value
        raise InvalidScheduleError(
            f"{what} {shorten(value)}: give a whole number from {least} to {_MAX_COUNT}"
        )

    return check


def _one_of(words: tuple[str, ...]) -> Callable[[object, str], str]:
    def check(value: object, what: str) -> str:
        if value in words:
            return str(value)
        raise InvalidScheduleError(f"{what} {shorten(value)}: give one of {', '.join(words)}")

    return check


def _catchup_window(value: object, what: str) -> int | str:
    if isinstance(value, str):
        return _one_of(CATCHUP_WORDS)(value, what)
    return duration_seconds(value, what)


Check = Callable[[Any, str], Any]
"""Returns the value in its one form, or raises InvalidScheduleError that names the field."""

_CHECKS: dict[str, Check] = {
    "task_name": _task_name,
    "args": checked_array,
    "kwargs": checked_object,
    "labels": checked_object,
    "task_id": check_schedule_id,
    "schedule_id": check_schedule_id,
    "cron": _cron,
    "cron_offset": checked_cron_offset,
    "time": _moment,
    "interval": duration_seconds,
    "start": _moment,
    "end": _moment,
    "max_runs": _at_least(1),
    "jitter": duration_seconds,
    "catchup_window": _catchup_window,
    "coalesce": _one_of(COALESCE),
    "overlap": _one_of(OVERLAP),
    "timeout": duration_seconds,
    "retries": _at_least(0),
    "retry_delay": duration_seconds,
    "expires": duration_seconds,
    "paused": _flag,
    "note": checked_text,
}

_STORED_CHECKS = _CHECKS | {"cron": _cron_shape}

FIELD_NAMES = tuple(f.name for f in fields(ScheduledTask))
_MADE: dict[str, Callable[[], Any]] = {
    f.name: f.default_factory for f in fields(ScheduledTask) if f.default_factory is not MISSING
}
"""Fields that None makes anew."""
_NEEDED = ("task_name", "paused")
"""Fields that are never None."""
_UNSET: dict[str, Any] = dict.fromkeys(FIELD_NAMES) | {"paused": False}

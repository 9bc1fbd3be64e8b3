"""Schedules, written as a crontab; and what cannot be said in one."""

import re
from collections.abc import Callable, Iterable, Iterator
from shlex import join

from sqlsched.cli.crontab.reading import EXPORTED, ID
from sqlsched.cli.crontab.words import (
    LONGEST_COMMAND,
    escape_command,
    read_variable,
    write_zone,
)
from sqlsched.cron_fields import FIELDS, Field
from sqlsched.durations import format_duration
from sqlsched.instants import format_us, to_us
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, ScheduledTask

_HEADER = f"""\
{EXPORTED}
# cron starts them in the home directory, and without regard to what still runs.
# Debian's cron ignores CRON_TZ: it reads all fields on the clock of its machine."""

_BOUNDS = ("start", "end", "max_runs")
"""A schedule that has one must not run at other times, so it is left out."""
_POLICIES = (
    *("labels", "task_id", "jitter", "catchup_window", "coalesce", "overlap", "timeout"),
    *("retries", "retry_delay", "expires"),
)
"""What is lost, while the schedule itself can be said."""

_ITEM = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?", re.ASCII)

_UNREAD = "cron does not read such a command"

Warn = Callable[[str, str], None]
"""Told of a schedule's id, or of a clock, and of what cannot be said of it."""


class _UnsayableError(Exception):
    """Why there is no such entry in a crontab."""


def write(
    schedules: Iterable[ScheduledTask], warn: Warn, machine_zone: str | None
) -> Iterator[str]:
    """The lines of a crontab. What is left out or lost is told to `warn`, and stands at the end;
    so are clocks that are not this machine's, if that is known."""
    blocks: dict[str, list[str]] = {}
    problems: list[str] = []

    def tell(schedule: ScheduledTask, problem: str) -> None:
        warn(schedule.schedule_id, problem)
        problems.append(f"# {schedule.schedule_id}: {problem}")

    for schedule in schedules:
        try:
            entry = _entry(schedule)
        except _UnsayableError as error:
            tell(schedule, f"left out: {error}")
            continue
        blocks.setdefault(write_zone(schedule.cron_offset), []).extend(entry)
        if lost := _lost(schedule):
            tell(schedule, f"without {lost}")
    for zone in blocks.keys() - {machine_zone}:
        warn(f"CRON_TZ={zone}", "Debian's cron ignores it, and goes by this machine's clock")
    yield _HEADER
    for zone, lines in blocks.items():
        yield f"\nCRON_TZ={zone}"
        yield from lines
    if problems:
        yield "\n# Not said here, as cron cannot:"
        yield from problems


def _entry(schedule: ScheduledTask) -> Iterator[str]:
    when, command = _when(schedule), escape_command(_command(schedule))
    if len(command.encode()) > LONGEST_COMMAND:
        raise _UnsayableError(f"a command has at most {LONGEST_COMMAND} bytes")
    if read_variable(f"{when} {command}"):  # of the name @daily
        raise _UnsayableError(_UNREAD)
    note = schedule.note.split("\n") if schedule.note else []
    comments = [f"# {line}" if line else "#" for line in note]
    return iter(["", *comments, ID + schedule.schedule_id, f"{when} {command}"])


def _when(schedule: ScheduledTask) -> str:
    if schedule.paused:
        raise _UnsayableError("it is paused")
    for name in _BOUNDS:
        if getattr(schedule, name) is not None:
            raise _UnsayableError(f"cron knows no {name}")
    if schedule.time is not None:
        raise _UnsayableError(f"once, at {format_us(to_us(schedule.time))}; cron only repeats")
    if schedule.cron is None:
        assert isinstance(schedule.interval, int)
        raise _UnsayableError(
            f"every {format_duration(schedule.interval)}, counted from its making; "
            "cron goes by the clock"
        )
    fields = schedule.cron.split()
    if len(fields) == 1:
        return fields[0].lower()
    return " ".join(_field(field, text) for field, text in zip(FIELDS, fields, strict=True))


def _field(field: Field, text: str) -> str:
    return ",".join(_item(field, item) for item in text.split(","))


def _item(field: Field, item: str) -> str:
    """The same item as Debian's cron has it: no `?`, no `N/S`, no range that ends on `SUN`."""
    if item == "?":
        return "*"
    found = _ITEM.fullmatch(item)
    first, last, step = found.groups() if found else ("", None, None)
    if not (first.isdigit() or first == "*" or first.lower() in field.names):
        raise _UnsayableError(f"cron knows no {item}")
    if last and last.lower() == "sun" and first.lower() not in {"0", "sun"}:
        last = "7"
    if step and not last and first != "*":
        last = str(field.top)
    return first + (f"-{last}" if last else "") + (f"/{step}" if step else "")


def _command(schedule: ScheduledTask) -> str:
    if schedule.task_name == SHELL_TASK:
        command: str = schedule.args[0].lstrip(" \t")
    elif schedule.task_name == EXEC_TASK:
        command = join(schedule.args)
    else:
        raise _UnsayableError(f"{schedule.task_name} is Python; cron runs commands")
    if "\n" in command:
        raise _UnsayableError("a command is one line")
    if not command or command.startswith("*") or command.endswith("\r"):
        raise _UnsayableError(_UNREAD)
    return command


def _lost(schedule: ScheduledTask) -> str:
    lost = [name.replace("_", " ") for name in _POLICIES if getattr(schedule, name)]
    return ", ".join(lost)

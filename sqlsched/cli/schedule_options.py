"""The options that make a schedule, written once: `add` makes one of them, `edit` changes one."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, TypeVar

import click

from sqlsched.cli.completion import words
from sqlsched.clock import now_us
from sqlsched.durations import parse_duration
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.field_checks import CATCHUP_WORDS, COALESCE, OVERLAP, check_task_path
from sqlsched.instants import from_us, parse_time
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK
from sqlsched.serialization import loads, shorten
from sqlsched.timezones import checked_cron_offset, zone_info

F = TypeVar("F", bound=Callable[..., Any])
Reader = Callable[[str, str, tzinfo], Any]
"""Reads an option's text; is told the option's name and the zone that naive times are in."""

TRIGGERS = ("cron", "time", "interval")
RESET = "default"
"""What `edit` takes to put an option back."""


def _as_is(text: str, _flag: str, _zone: tzinfo) -> str:
    return text


def _time(text: str, flag: str, zone: tzinfo) -> datetime:
    return parse_time(text, zone, flag)


def _time_from_now(text: str, flag: str, _zone: tzinfo) -> datetime:
    return from_us(now_us()) + timedelta(seconds=parse_duration(text, flag))


def _duration(text: str, flag: str, _zone: tzinfo) -> int:
    return parse_duration(text, flag)


def read_window(text: str, flag: str) -> int | str:
    """Read a catch-up window: seconds, or one of its words."""
    if text in CATCHUP_WORDS:
        return text
    try:
        return parse_duration(text, flag)
    except InvalidScheduleError as error:
        raise InvalidScheduleError(f"{error}; or give {' or '.join(CATCHUP_WORDS)}") from None


def _window(text: str, flag: str, _zone: tzinfo) -> int | str:
    return read_window(text, flag)


def _offset(text: str, flag: str, _zone: tzinfo) -> str | timedelta:
    return checked_cron_offset(text, flag)


def _json(text: str, flag: str, _zone: tzinfo) -> Any:
    value = loads(text, f"{flag} {shorten(text)}")
    if value is None:  # to a schedule that would be the default
        raise InvalidScheduleError(f"{flag} null: leave the option out instead")
    return value


def _number(text: str, flag: str, _zone: tzinfo) -> int:
    if text.isascii() and text.isdigit() and len(text) < 11:
        return int(text)
    raise InvalidScheduleError(f"{flag} {shorten(text)}: give a whole number, 0 or more")


class ScheduleCommand(click.Command):
    """A command that takes `-- COMMAND ARG…`, and takes it as it is: click would drop the `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split it off, then parse the rest."""
        if "--" in args:
            at = args.index("--")
            ctx.obj.command, args = args[at + 1 :], args[:at]
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class Option:
    """One option: its flags, the field of ScheduledTask it sets, and how its text is read."""

    flags: tuple[str, ...]
    field: str
    read: Reader
    metavar: str
    help: str

    @property
    def parameter(self) -> str:
        """What click calls its value."""
        return "option_" + self.flags[0].strip("-").replace("-", "_")

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it takes as they are."""
        return tuple(word for word in self.metavar.split("|") if word.islower())


OPTIONS = (
    Option(("--cron",), "cron", _as_is, "EXPR", "Five cron fields, or @daily, @hourly, …"),
    Option(("--at",), "time", _time, "TIME", "Once, at a time (ISO 8601)."),
    Option(("--in",), "time", _time_from_now, "DURATION", "Once, this long from now."),
    Option(("--every",), "interval", _duration, "DURATION", "Again and again: 90s, 5m, 1h30m."),
    Option(
        ("--tz", "--cron-offset"),
        *("cron_offset", _offset, "ZONE"),
        "Its clock: Europe/Berlin, +02:00, …",
    ),
    Option(("--id",), "schedule_id", _as_is, "ID", "An id of your own."),
    Option(("--args",), "args", _json, "JSON", "The task's arguments, an array."),
    Option(("--kwargs",), "kwargs", _json, "JSON", "The task's keyword arguments, an object."),
    Option(("--start",), "start", _time, "TIME", "No firing before; an interval's first."),
    Option(("--end",), "end", _time, "TIME", "No firing after."),
    Option(("--max-runs",), "max_runs", _number, "N", "End after N firings that ran."),
    Option(("--jitter",), "jitter", _duration, "DURATION", "Delay by a random part of this."),
    Option(
        ("--catchup-window",),
        *("catchup_window", _window, "DURATION|none|unlimited"),
        "May run this late. Default 60s; --at: any.",
    ),
    Option(
        ("--coalesce",),
        *("coalesce", _as_is, "|".join(COALESCE)),
        "Which missed firings run. Default latest.",
    ),
    Option(
        ("--overlap",),
        *("overlap", _as_is, "|".join(OVERLAP)),
        "If one still runs. Default skip.",
    ),
    Option(("--timeout",), "timeout", _duration, "DURATION", "Stop an attempt after this."),
    Option(("--retries",), "retries", _number, "N", "Try a failed run again, N times."),
    Option(
        ("--retry-delay",),
        *("retry_delay", _duration, "DURATION"),
        "Before a retry, then doubled. Default 10s.",
    ),
    Option(("--expires",), "expires", _duration, "DURATION", "Drop a run that starts this late."),
    Option(
        ("--on-failure",), "on_failure", _as_is, "HOOK", "Run this when it has failed for good."
    ),
    Option(("--on-success",), "on_success", _as_is, "HOOK", "Run this when it has succeeded."),
    Option(("--on-missed",), "on_missed", _as_is, "HOOK", "Run this when firings were missed."),
    Option(("--ping",), "ping", _as_is, "URL", "Tell healthchecks.io of start and end."),
    Option(
        ("--pause-on-failure",),
        *("pause_on_failure", _number, "N"),
        "Pause after N failures in a row.",
    ),
    Option(("--note",), "note", _as_is, "TEXT", "A note for people."),
)


def schedule_options(command: F) -> F:
    """Give a command every option that makes a schedule; their texts arrive as `**texts`."""
    command = click.option("--paused", is_flag=True, help="Do not fire until `resume`.")(command)
    command = click.option(
        "--label", "labels", metavar="K=V", multiple=True, help="A label; may be repeated."
    )(command)
    command = click.option(
        "--shell", metavar="LINE", help="Run a line with /bin/sh, instead of a task."
    )(command)
    for option in reversed(OPTIONS):
        command = click.option(
            *(*option.flags, option.parameter),
            metavar=option.metavar,
            shell_complete=words(option.words),
            help=option.help,
        )(command)
    return command


def read_options(
    texts: dict[str, Any], labels: tuple[str, ...], *, resettable: bool = False
) -> dict[str, Any]:
    """The fields of ScheduledTask that were given, read; None where `edit` puts one back."""
    zone = _zone_of(texts)
    given = [option for option in OPTIONS if texts[option.parameter] is not None]
    triggers = [option.flags[0] for option in given if option.field in TRIGGERS]
    if len(triggers) > 1:
        raise click.UsageError(f"{' and '.join(triggers)} exclude each other: give one")
    fields = {}
    for option in given:
        text = texts[option.parameter]
        reset = resettable and text == RESET
        fields[option.field] = None if reset else option.read(text, option.flags[0], zone)
    if labels:
        fields["labels"] = {} if resettable and labels == (RESET,) else read_labels(labels)
    return fields


def _zone_of(texts: dict[str, Any]) -> tzinfo:
    text = texts["option_tz"]
    offset = checked_cron_offset(text, "--tz") if text not in {None, RESET} else None
    return zone_info(offset)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if key and equals:
        return key, value
    raise InvalidScheduleError(f"--label {shorten(text)}: give KEY=VALUE")


def read_labels(texts: tuple[str, ...]) -> dict[str, str]:
    """Labels to select by."""
    return dict(_label(text) for text in texts)


def read_task(
    task: str | None, shell: str | None, command: list[str] | None, fields: dict[str, Any]
) -> dict[str, Any]:
    """What is to run: a task, a shell line or a command. Empty if none was given."""
    given = [word for word, value in _forms(task, shell, command) if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other: give one")
    if task is not None:
        return {"task_name": check_task_path(task, "TASK")}
    if shell is None and command is None:
        return {}
    if "args" in fields or "kwargs" in fields:
        raise click.UsageError("--args and --kwargs are for Python tasks, not for commands")
    if command is not None:
        if not command or not command[0]:
            raise click.UsageError("nothing stands after `--`: give a command and its arguments")
        return {"task_name": EXEC_TASK, "args": command, "kwargs": {}}
    if not shell or not shell.strip():
        raise click.UsageError("--shell '': give a line for /bin/sh")
    return {"task_name": SHELL_TASK, "args": [shell], "kwargs": {}}


def _forms(
    task: str | None, shell: str | None, command: list[str] | None
) -> tuple[tuple[str, object], ...]:
    return ("TASK", task), ("--shell", shell), ("-- COMMAND", command)

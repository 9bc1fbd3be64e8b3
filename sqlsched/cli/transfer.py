"""Moving schedules: import, export."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import BinaryIO, TypeVar

import click

from sqlsched.cli.invocation import Invocation, say
from sqlsched.cli.json_lines import LONGEST_LINE, from_line, to_line
from sqlsched.cli.schedule_file import to_toml
from sqlsched.clock import now_us
from sqlsched.exceptions import InvalidScheduleError, SqlschedError
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import additions, schedules
from sqlsched.storage.additions import Adding, Count

F = TypeVar("F", bound=Callable[..., None])
Record = tuple[int, ScheduledTask | SqlschedError]
"""The number of a line, and the schedule in it or what is wrong with it."""


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "toml", "crontab"]),
    default="jsonl",
    help="JSON lines, one schedule each (default), TOML, or a crontab.",
)
@click.pass_obj
def export(invocation: Invocation, form: str) -> None:
    """Print the schedules as JSON lines, which `import` takes; or TOML, for `sync`; or a crontab.

    Those that are done are left out, and so are copies of another source's. What cannot be said
    in cron is named on stderr, and in comments at the end of the crontab.

    \b
    Example: sqlsched export > schedules.jsonl
             sqlsched export --format toml > schedules.toml
             sqlsched export --format crontab | crontab -
    """
    bad: list[str] = []

    def warn(schedule_id: str, error: Exception) -> None:
        bad.append(schedule_id)
        say(f"Error: schedule {schedule_id} cannot be read: {error}")

    with invocation.reading() as database:
        found = schedules.stored(database, schedules.Selection(source=""), on_bad=warn)
        sys.stdout.writelines(_WRITERS[form](stored.schedule for stored in found))
    if bad:
        raise click.exceptions.Exit(1)


def _to_lines(found: Iterable[ScheduledTask]) -> Iterator[str]:
    return (to_line(schedule) + "\n" for schedule in found)


def _to_crontab(found: Iterable[ScheduledTask]) -> Iterator[str]:
    from sqlsched.cli.crontab import machine, writing

    def warn(what: str, problem: str) -> None:
        say(f"Warning: {what}: {problem}")

    return (line + "\n" for line in writing.write(found, warn, machine.zone_text()))


_WRITERS = {"jsonl": _to_lines, "toml": to_toml, "crontab": _to_crontab}


@click.command(name="import")
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE|-]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "crontab"]),
    default="jsonl",
    help="JSON lines, one schedule each (default), or a crontab.",
)
@click.option("--keep-going", is_flag=True, help="Import the good lines, and name the bad ones.")
@click.option("--replace", "replace_other", is_flag=True, help="Change schedules that are there.")
@click.option(
    "--system/--user",
    default=None,
    help="Whether a crontab's entries name a user; those below /etc/cron.d do.",
)
@click.option("--tz", "zone", metavar="ZONE", help="A crontab's clock. Default this machine's.")
@click.pass_obj
def import_(
    invocation: Invocation,
    file: BinaryIO,
    form: str,
    keep_going: bool,
    replace_other: bool,
    system: bool | None,
    zone: str | None,
) -> None:
    """Import schedules from JSON lines or a crontab: all or, if one is wrong, none.

    A crontab's commands keep its variables, and its comments become notes.

    \b
    Example: sqlsched import --replace schedules.jsonl
             crontab -l | sqlsched import --format crontab
    """
    if form == "jsonl" and (system is not None or zone is not None):
        raise click.UsageError("--system, --user and --tz go with --format crontab")
    read = _from_json if form == "jsonl" else _crontab_reader(file.name, system, zone)
    with _all_there(file) as file, _progress(file) as advance:
        batches = _batches(file, read, keep_going)
        first = list(islice(batches, 1))
        if not (keep_going or invocation.path.exists()):
            for batch in first:
                batch.report(keep_going)  # before a database is made for it
        with (
            invocation.writing(create=True) as database,
            additions.adding(database, now_us(), replace_other=replace_other) as adding,
        ):
            count, bad = _store(adding, chain(first, batches), keep_going, advance)
    say(_summary(count, bad))
    if bad:
        raise click.exceptions.Exit(1)


@dataclass(slots=True)
class _Batch:
    """Some lines: the schedules in them, with the number of each line, and what is wrong."""

    numbers: list[int] = field(default_factory=list)
    schedules: list[ScheduledTask] = field(default_factory=list)
    bad: dict[int, SqlschedError] = field(default_factory=dict)
    end: int = 0
    """How far into the file they reach, bytes."""

    def refuse(self, place: int, error: SqlschedError) -> None:
        """Note that a schedule cannot be stored."""
        self.bad[self.numbers[place]] = error

    def report(self, keep_going: bool) -> int:
        """Tell of the bad lines, or raise the first; how many there are."""
        for number, error in sorted(self.bad.items()):
            message = f"line {number}: {error}"
            if not keep_going:
                raise type(error)(message) from error
            say(f"Error: {message}")
        return len(self.bad)


def _store(
    adding: Adding, batches: Iterator[_Batch], keep_going: bool, advance: Callable[[int], None]
) -> tuple[Count, int]:
    """Store the good lines; how many they were, and how many were bad."""
    count, bad = Count(), 0
    for batch in batches:
        count += adding.store(batch.schedules, batch.refuse)
        bad += batch.report(keep_going)
        advance(batch.end)
    return count, bad


Lines = Iterator[tuple[int, bytes]]


def _from_json(lines: Lines) -> Iterator[Record]:
    for number, line in lines:
        if not line.isspace():
            try:
                yield number, from_line(line)
            except InvalidScheduleError as error:
                yield number, error


def _crontab_reader(
    file: str, system: bool | None, zone: str | None
) -> Callable[[Lines], Iterator[Record]]:
    from sqlsched.cli.crontab import machine, reading

    rules = machine.rules(file, system, zone)
    if zone is None and rules.zone is not None:
        say(f"entries without CRON_TZ are on this machine's clock, {rules.zone}")
    return partial(reading.read, rules=rules)


def _batches(
    file: BinaryIO, read: Callable[[Lines], Iterator[Record]], keep_going: bool
) -> Iterator[_Batch]:
    """What is in the lines of a file, a chunk at a time."""
    records = read(_lines(file))
    while True:
        batch = _Batch()
        for number, found in islice(records, additions.CHUNK):
            if isinstance(found, SqlschedError):
                batch.bad[number] = found
                if not keep_going:
                    break
            else:
                batch.numbers.append(number)
                batch.schedules.append(found)
        if not (batch.numbers or batch.bad):
            return
        batch.end = file.tell()
        yield batch


def _lines(file: BinaryIO) -> Lines:
    """Each line with its number. Of one that is too long comes the beginning, a byte too much."""
    lines = iter(partial(file.readline, LONGEST_LINE + 1), b"")
    for number, line in enumerate(lines, 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
        yield number, line


@contextmanager
def _all_there(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file; what comes through a pipe is awaited first, as nobody else can write meanwhile."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


@contextmanager
def _progress(file: BinaryIO) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, to be told how far into the file the work is, bytes."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(start)
    with click.progressbar(length=end - start, label="importing", file=sys.stderr) as bar:
        yield lambda at: bar.update(at - start - bar.pos)


def _summary(count: Count, bad: int) -> str:
    there = ((count.changed, "changed"), (count.unchanged, "unchanged"))
    parts = ", ".join(f"{number} {what}" for number, what in there if number)
    text = f"imported {_number(count.total, 'schedule')}" + (f" ({parts})" if parts else "")
    return f"{text}; {_number(bad, 'bad line')} left out" if bad else text


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

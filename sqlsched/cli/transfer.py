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


def _format_option(command: F) -> F:
    return click.option(
        "--format",
        "_form",
        type=click.Choice(["jsonl"]),
        default="jsonl",
        help="How: JSON lines, one schedule each.",
    )(command)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "toml"]),
    default="jsonl",
    help="How: JSON lines, for `import`; or TOML, for `sync`.",
)
@click.pass_obj
def export(invocation: Invocation, form: str) -> None:
    """Print the schedules as JSON lines, which `import` takes, or as TOML, which `sync` takes.

    Those that are done are left out, and so are copies of another source's.

    \b
    Example: sqlsched export > schedules.jsonl
             sqlsched export --format toml > schedules.toml
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


_WRITERS = {"jsonl": _to_lines, "toml": to_toml}


@click.command(name="import")
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE|-]")
@_format_option
@click.option("--keep-going", is_flag=True, help="Import the good lines, and name the bad ones.")
@click.option("--replace", "replace_other", is_flag=True, help="Change schedules that are there.")
@click.pass_obj
def import_(
    invocation: Invocation, file: BinaryIO, _form: str, keep_going: bool, replace_other: bool
) -> None:
    """Import schedules from JSON lines, as `export` prints them: all or, if one is wrong, none.

    \b
    Example: sqlsched import --replace schedules.jsonl
    """
    with _all_there(file) as file, _progress(file) as advance:
        batches = _batches(file, keep_going)
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


def _batches(file: BinaryIO, keep_going: bool) -> Iterator[_Batch]:
    """The lines of a file, read, without the blank ones."""
    lines = _lines(file)
    while True:
        batch = _Batch()
        for number, line in islice(lines, additions.CHUNK):
            try:
                schedule = from_line(line)
            except InvalidScheduleError as error:
                batch.bad[number] = error
                if not keep_going:
                    break
            else:
                batch.numbers.append(number)
                batch.schedules.append(schedule)
        if not (batch.numbers or batch.bad):
            return
        batch.end = file.tell()
        yield batch


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line with its number. Of one that is too long comes the beginning, a byte too much."""
    lines = iter(partial(file.readline, LONGEST_LINE + 1), b"")
    for number, line in enumerate(lines, 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
        if not line.isspace():
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

"""Schedules as code: sync."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from sqlsched.cli.invocation import Invocation, json_option, print_json, say
from sqlsched.cli.schedule_file import Problem, ScheduleFile, read_file
from sqlsched.clock import now_us
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.storage import sync as storage
from sqlsched.storage.connection import Database
from sqlsched.storage.sync import Synced

SHOWN = 20
"""How many ids of a kind are listed for people; `--json` has all."""
DONE = ("added", "changed", "removed")


@click.command()
@click.argument("file", type=click.File("rb"), metavar="FILE|-")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--prune", is_flag=True, help="Remove what an earlier sync made and FILE has not.")
@json_option
@click.pass_obj
def sync(invocation: Invocation, file: BinaryIO, dry_run: bool, prune: bool, as_json: bool) -> None:
    """Make the schedules what a TOML file says: all of it or, if something is wrong, nothing.

    Each has a table [schedules.ID] with the names that `export` uses; `export --format toml`
    writes such a file. Schedules that were made by other means stay. Files that share a database
    have a line group = "NAME" each, and --prune removes only what is of their group.

    \b
    Example: sqlsched sync schedules.toml --dry-run
             sqlsched sync schedules.toml --prune
    """
    found = read_file(file)
    check(file, found)
    if dry_run or not invocation.path.exists():  # before a database is made for it
        with _at_hand(invocation) as database:
            synced = storage.preview(
                database, found.schedules, now_us(), group=found.group, prune=prune
            ).synced
        check_stored(file, found, synced)
    if not dry_run:
        with invocation.writing(create=True) as database:
            synced = storage.sync(
                database, found.schedules, now_us(), group=found.group, prune=prune
            )
        check_stored(file, found, synced)
    if as_json:
        print_json(lists(synced))
    else:
        show_lists(synced)
    say_counts(synced, "would be: " if dry_run else "")


def check(file: BinaryIO, found: ScheduleFile) -> None:
    """Tell of all that is wrong with a file, each in a line, and end."""
    if not found.problems:
        return
    for problem in found.problems:
        say(f"Error: {file.name}{_place(problem)}: {problem.error}")
    invalid = any(isinstance(p.error, InvalidScheduleError) for p in found.problems)
    raise click.exceptions.Exit(2 if invalid else 1)


def check_stored(file: BinaryIO, found: ScheduleFile, synced: Synced) -> None:
    """The same of what the database refused."""
    if synced.refused:
        found.refuse(synced.refused)
        check(file, found)


def lists(synced: Synced) -> dict[str, list[str]]:
    """What `--json` says was done."""
    return {name: getattr(synced, name) for name in ("added", "changed", "unchanged", "removed")}


def show_lists(synced: Synced) -> None:
    """Print what was done to which schedule."""
    for name in DONE:
        ids = getattr(synced, name)
        for schedule_id in ids[:SHOWN]:
            click.echo(f"{name:<8} {schedule_id}")
        if len(ids) > SHOWN:
            click.echo(f"{name:<8} … and {len(ids) - SHOWN} more")


def _place(problem: Problem) -> str:
    return "" if problem.line is None else f", line {problem.line}"


def say_counts(synced: Synced, opening: str) -> None:
    """Sum up what was done, or would be; and name what an earlier file had."""
    if synced.left:
        shown = ", ".join(synced.left[:5]) + (", …" if len(synced.left) > 5 else "")
        say(f"not in the file any more: {shown}; --prune removes them")
    say(opening + ", ".join(f"{len(ids)} {name}" for name, ids in lists(synced).items()))


@contextmanager
def _at_hand(invocation: Invocation) -> Iterator[Database]:
    """The database to try something on; where there is none, an empty one for the moment."""
    if invocation.path.exists():
        with invocation.writing() as database:
            yield database
        return
    with tempfile.TemporaryDirectory(prefix="sqlsched-") as directory:
        nowhere = Invocation()
        nowhere.db = Path(directory) / "empty.db"
        with nowhere.writing(create=True) as database:
            yield database

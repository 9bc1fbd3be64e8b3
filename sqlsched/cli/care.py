"""Taking care of a database: backup, restore."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sqlsched.cli.formats import in_words, iso
from sqlsched.cli.invocation import Invocation, say
from sqlsched.clock import now_us
from sqlsched.storage import backups, files

_SHOWN_PAGES = 8000
"""A copy this large, 32 MB, takes long enough for a progress bar."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def backup(invocation: Invocation, file: Path) -> None:
    """Copy the database to a FILE, while it is in use.

    An earlier backup is replaced. FILE is whole at any moment, and readable for you alone.

    \b
    Example: sqlsched backup /backups/sqlsched.db
    """
    with invocation.reading() as database, _progress("backing up") as progress:
        count = backups.back_up(database, file, now_us(), progress)
    say(f"backed up {_number(count, 'schedule')} to {file}, {files.size_text(files.size(file))}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--catch-up", is_flag=True, help="Run what came due meanwhile, as after an outage.")
@click.pass_obj
def restore(invocation: Invocation, file: Path, catch_up: bool) -> None:
    """Put a backup in the place of the database.

    No `run` may be serving it; it is kept, under another name. What came due since the backup may
    have run, which nobody knows any more: it is recorded as missed, and does not run again.

    \b
    Example: sqlsched restore /backups/sqlsched.db
    """
    with _progress("restoring") as progress:
        done = backups.restore(
            invocation.path, file, now_us(), catch_up=catch_up, progress=progress
        )
    since_us = done.lost.since_us
    when = "" if since_us is None else f", as of {iso(since_us)} ({in_words(since_us)})"
    say(f"restored {_number(done.schedules, 'schedule')} from {file}{when}")
    if done.lost.missed or done.lost.abandoned:
        missed, abandoned = _number(done.lost.missed, "firing"), _number(done.lost.abandoned, "run")
        say(f"on record as restored: {missed} missed, {abandoned} abandoned")
    if done.replaced is not None:
        say(f"the database that was there is kept as {done.replaced}")


@contextmanager
def _progress(label: str) -> Iterator[backups.Progress | None]:
    """A bar on a terminal, if there is much to copy."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = click.progressbar(length=1, label=label, file=sys.stderr)

    def advance(copied: int, total: int) -> None:
        if total >= _SHOWN_PAGES:
            bar.length = total
            bar.update(copied - bar.pos)

    yield advance
    if bar.pos:
        bar.render_finish()


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

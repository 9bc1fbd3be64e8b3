"""Taking care of a database: doctor, backup, restore."""

import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sqlsched.cli.formats import in_words, iso
from sqlsched.cli.invocation import (
    Invocation,
    clipped,
    json_option,
    print_json,
    print_table,
    say,
)
from sqlsched.clock import now_us
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten
from sqlsched.storage import backups, files

if TYPE_CHECKING:
    from sqlsched.doctor import Check

_SHOWN_PAGES = 8000
"""A copy this large, 32 MB, takes long enough for a progress bar."""
_LONGEST_DETAIL = 1000
"""Characters; `--json` has all of them."""
_MARGIN = 20
"""What stands before the details in a table of checks, columns."""
_LEAST_WIDTH = 30


@click.command()
@json_option
@click.option(
    "--app-dir",
    type=click.Path(path_type=Path),
    default=".",
    help="Where tasks are imported from. Default .",
)
@click.pass_obj
def doctor(invocation: Invocation, as_json: bool, app_dir: Path) -> None:
    """Say whether the database is healthy; exit 0 or 1.

    It changes nothing. Tasks are imported, once each and in a process of their own, to see whether
    they can be.

    \b
    Example: sqlsched doctor --app-dir /srv/shop
    """
    if not app_dir.is_dir():
        raise InvalidScheduleError(f"--app-dir {shorten(str(app_dir))}: there is no such directory")
    from sqlsched.doctor import examine  # late: backup does without

    checks = list(examine(invocation.path, app_dir.resolve(), now_us()))
    ok = all(check.ok for check in checks)
    if as_json:
        found = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]
        print_json({"ok": ok, "checks": found})
    else:
        print_table(map(_row, checks), ())
        say("healthy" if ok else "not healthy")
    if not ok:
        raise click.exceptions.Exit(1)


def _row(check: "Check") -> tuple[str, str, str]:
    """A check as a row that fits the terminal, if there is one."""
    text = clipped(check.detail, _LONGEST_DETAIL)
    if sys.stdout.isatty():
        width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns - _MARGIN)
        text = "\n".join(textwrap.wrap(text, width))
    return "ok" if check.ok else "FAIL", check.name, text


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def backup(invocation: Invocation, file: Path) -> None:
    """Copy the database to a FILE, while it is in use.

    An earlier backup is replaced. FILE is whole at any moment, and readable for you alone.

    \b
    Example: sqlsched backup /backups/sqlsched.db
    """
    with _tidy_end(), invocation.reading() as database, _progress("backing up") as progress:
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
    with _tidy_end(), _progress("restoring") as progress:
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
def _tidy_end() -> Iterator[None]:
    """SIGTERM leaves no half of a copy behind, as Ctrl-C leaves none."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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

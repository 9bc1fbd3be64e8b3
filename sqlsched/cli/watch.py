"""`sqlsched watch`: what goes on, live."""

import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from sqlsched.cli.invocation import Invocation, has_colour, is_dumb
from sqlsched.clock import now_us, wait_for_input
from sqlsched.durations import parse_duration
from sqlsched.explain.dashboard import Screen, Snapshot, frame, update
from sqlsched.instants import SECOND_US
from sqlsched.storage import watching
from sqlsched.storage.connection import Database, check_files, data_version

_ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, without a cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"


@click.command()
@click.option(
    "--interval",
    metavar="DURATION",
    default="1s",
    help="How often to see whether anything changed. Default 1s.",
)
@click.option(
    *("-n", "rows"),
    type=click.IntRange(1, 1000),
    default=10,
    metavar="ROWS",
    help="Rows of each kind at most. Default 10.",
)
@click.pass_obj
def watch(invocation: Invocation, interval: str, rows: int) -> None:
    """Show who is running, what runs, what ended and what is next, live.

    Ctrl-C or q ends it. What is no terminal gets one frame.

    \b
    Example: sqlsched watch --interval 5s -n 20
    """
    interval_us = parse_duration(interval, "--interval") * SECOND_US
    with invocation.reading() as database:
        if not sys.stdout.isatty() or is_dumb():
            width = shutil.get_terminal_size((100, 24)).columns
            screen = Screen(width, None, invocation.has_unicode)
            for line in frame(watching.snapshot(database, rows), now_us(), rows, screen):
                click.echo(line)
            return
        with suppress(KeyboardInterrupt), _other_screen():
            _show(database, interval_us, rows, invocation.has_unicode)


def _show(database: Database, interval_us: int, rows: int, has_unicode: bool) -> None:
    """Draw a frame each second, for its clocks; read the ledger only when it has changed."""
    looking = _Looking(database, interval_us, rows)
    while True:
        size = shutil.get_terminal_size()
        screen = Screen(size.columns, size.lines, has_unicode, has_colour())
        now = now_us()
        _write(update(frame(looking.look(now), now, rows, screen)))
        # A little after the whole second, so that each second is shown, and no later.
        if "q" in wait_for_input(1.01 - now % SECOND_US / SECOND_US, sys.stdin).lower():
            return


class _Looking:
    """The latest snapshot, as old as it may be."""

    def __init__(self, database: Database, interval_us: int, rows: int) -> None:
        self._database = database
        self._interval_us = interval_us
        self._rows = rows
        self._looked_us = 0
        self._version: object = None
        self._snapshot: Snapshot | None = None

    def look(self, now_us_: int) -> Snapshot:
        """What is known at this time."""
        if self._snapshot is not None and 0 <= now_us_ - self._looked_us < self._interval_us:
            return self._snapshot
        check_files(self._database)
        version = data_version(self._database)
        if self._snapshot is None or version != self._version or self._snapshot.serving:
            seen = [run.run_id for run in self._snapshot.going] if self._snapshot else []
            self._snapshot = watching.snapshot(self._database, self._rows, seen)
        self._version, self._looked_us = version, now_us_
        return self._snapshot


class _Terminal:
    """The terminal while we draw on its other screen: keys come one by one, and are not shown."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def enter(self) -> None:
        """Take it over."""
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        _write(_ENTER)

    def leave(self) -> None:
        """Give it back as it was."""
        _write(_LEAVE)
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Give it back while we are stopped by Ctrl-Z."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()  # goes on here once it is continued


@contextmanager
def _other_screen() -> Iterator[None]:
    """Draw on the terminal's other screen, and leave it as it was, however this ends."""
    terminal = _Terminal()
    handlers = {signal.SIGTERM: _end, signal.SIGHUP: _end, signal.SIGTSTP: terminal.stop}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    terminal.enter()
    try:
        yield
    finally:
        terminal.leave()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    raise click.exceptions.Exit(128 + number)


def _write(text: str) -> None:
    """Past Python's buffer, which must not be written to from within a signal's handler."""
    left = text.encode()
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]

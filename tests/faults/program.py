"""The program, called within this process many thousand times, under watch, and judged."""

import faulthandler
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sqlsched.cli import main

CPU_SECONDS = 1.0
"""What a call may take of this process's own time: a hang, but not a slow machine."""
WALL_SECONDS = 30.0
"""What it may wait for others, of which there are none."""
_HARD_SECONDS = 120.0
"""After this even what does not listen to signals, as a loop in C, is ended, with all else."""


class HangError(BaseException):
    """The program did not come back; no `except Exception` of its own hides it."""


@dataclass(frozen=True)
class Answer:
    """What a call of the program came to."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def problem(self) -> str | None:
        """What the program must not do whatever it is given; None if it did nothing of that."""
        if "Traceback" in self.out + self.err:
            return "a traceback"
        if self.code not in (0, 1, 2):
            return f"exit status {self.code}"
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        if self.code == 0 and lines:
            return "an error, and exit status 0"
        one_for_each = "--keep-going" in self.arguments or "export" in self.arguments
        if self.code and not (len(lines) == 1 or (lines and one_for_each)):
            return f"exit status {self.code} with {len(lines)} errors"
        if not all(line.isprintable() for line in lines):
            return "an error that is not printable"
        return None


def call(*arguments: str) -> Answer:
    """Call the program; HangError if it does not come back."""
    out, err = _stream(), _stream("backslashreplace")
    code: object = "none"
    with _fresh_state(), redirect_stdout(out), redirect_stderr(err), _watched():
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code or 0
        except Exception:
            traceback.print_exc(file=err)
    return Answer(arguments, code if isinstance(code, int) else -1, _text(out), _text(err))


def _stream(errors: str = "strict") -> io.TextIOWrapper:
    """As real ones are: what cannot be encoded shows."""
    return io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="")


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@contextmanager
def _fresh_state() -> Iterator[None]:
    """What a process of its own would bring: its log, its path, its environment."""
    root, path, environment = logging.getLogger(), sys.path.copy(), dict(os.environ)
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers, sys.path[:] = handlers, path
        root.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)


def _where(frame: FrameType | None) -> str:
    """The innermost calls."""
    calls = traceback.extract_stack(frame, 12)
    return " < ".join(f"{Path(call.filename).name}:{call.lineno}" for call in reversed(calls))


@contextmanager
def _watched() -> Iterator[None]:
    """HangError in what takes too long; again and again, should it be swallowed."""
    late: list[str] = []

    def on_alarm(number: int, frame: FrameType | None) -> None:
        late.append(f"{signal.Signals(number).name} at {_where(frame)}")
        raise HangError(f"it took too long: {late[0]}")

    kinds = {
        signal.SIGPROF: (signal.ITIMER_PROF, CPU_SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, WALL_SECONDS),
    }
    before = {number: signal.signal(number, on_alarm) for number in kinds}
    faulthandler.dump_traceback_later(_HARD_SECONDS, exit=True, file=2)
    try:
        for timer, seconds in kinds.values():
            signal.setitimer(timer, seconds, seconds)
        yield
    finally:
        for timer, _ in kinds.values():
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before.items():
            signal.signal(number, handler)
    if late:
        raise HangError(f"it took too long, and went on: {late}")

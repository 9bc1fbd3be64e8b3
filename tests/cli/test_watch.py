"""`sqlsched watch`: one frame into a pipe; on a terminal live, and the terminal as it was after."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]
ADD = ("add", "--id", "hourly", "--every", "1h", "--shell", "date")


class Terminal:
    """A terminal of 60 by 20, with the program in it."""

    def __init__(self, directory: Path) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (20, 60))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.shown = ""
        environment = {**os.environ, "TERM": "xterm"}
        for name in ("NO_COLOR", "SQLSCHED_DB", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.program = subprocess.Popen(
            [sys.executable, "-m", "sqlsched", "watch"],
            cwd=directory,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )

    def read(self) -> str:
        """What has been written to it since; waits for something."""
        text = os.read(self._ours, 100_000).decode()
        self.shown += text
        return text

    def wait_for(self, text: str) -> None:
        """Read until it was written."""
        deadline = time.monotonic() + 20
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self.read()

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        """The exit status, once the terminal is as it was."""
        self.wait_for("\x1b[?25h\x1b[?1049l")
        code = self.program.wait(20)
        assert termios.tcgetattr(self._theirs) == self.before
        return code

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal(sqlsched: Sqlsched, tmp_path: Path) -> Iterator[Terminal]:
    sqlsched(*ADD)
    made = Terminal(tmp_path)
    made.wait_for("hourly")
    yield made
    made.close()


def test_into_a_pipe_goes_one_frame(sqlsched: Sqlsched) -> None:
    sqlsched(*ADD)
    result = sqlsched("watch")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[1] == "nobody is running, and nobody ever was"
    assert lines[3:9] == ["RUNNING", "  nothing", "", "ENDED", "  nothing", ""]
    assert re.fullmatch(r"  hourly  in \d+m\d*s?  20\d\d-.*  date", lines[10])


def test_it_shows_what_changes_and_a_key_ends_it(terminal: Terminal, sqlsched: Sqlsched) -> None:
    assert terminal.shown.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    assert "\x1b[32m" in terminal.shown or "\x1b[31m" in terminal.shown
    sqlsched("add", "--id", "another", "--every", "2h", "m:f")
    terminal.wait_for("another")
    terminal.type("xQ")
    assert terminal.end() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_gives_the_terminal_back(
    terminal: Terminal, number: int, code: int
) -> None:
    terminal.program.send_signal(number)
    assert terminal.end() == code


def test_a_database_that_vanishes_is_told_on_the_terminal_as_it_was(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "sqlsched.db").unlink()
    assert terminal.end() == 1
    terminal.wait_for("Error: sqlsched.db was deleted")

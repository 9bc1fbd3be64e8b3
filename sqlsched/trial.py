"""Whether tasks can be found: tried in a process of their own, as an import may do anything.

`python -c` of `_BOOTSTRAP` is that process: it imports one after another, and writes a line for
each to its standard output, which is a file: what it leaves behind cannot hold a pipe open.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sqlsched.clock import SystemClock
from sqlsched.exceptions import BrokerError
from sqlsched.importing import import_task
from sqlsched.processes import kill_leftovers, process_start_time

TASK_SECONDS = 10.0
"""How long the import of one task may take."""
ALL_SECONDS = 20.0
"""How long all of them may take."""

_PACKAGE_ROOT = str(Path(__file__).parents[1])
_BOOTSTRAP = """\
import sys
from importlib.util import find_spec
if find_spec("sqlsched") is None:
    sys.path.append(sys.argv[1])
from sqlsched.trial import main
main()
"""
_FIRST_WORD = re.compile(r"\s*(?:[A-Za-z_]\w*=[\w./:,@%+-]*\s+)*([\w./+-]+)(?=[\s;&|]|$)", re.ASCII)
_LOOK_UP = 'for word do command -v -- "$word" >/dev/null || printf "%s\\n" "$word"; done'


@dataclass(slots=True)
class Tried:
    """What came of trying tasks."""

    troubles: dict[str, str] = field(default_factory=dict)
    """Why they cannot be imported, for those that cannot."""
    untried: list[str] = field(default_factory=list)
    """Those there was no time for."""


def try_imports(names: Sequence[str], app_dir: Path) -> Tried:
    """Import each task as a run would, with `app_dir` first on its path; each is tried once."""
    clock, tried, left = SystemClock(), Tried(), list(names)
    end = clock.monotonic() + ALL_SECONDS
    while left:
        seconds = end - clock.monotonic()
        if seconds <= 0:
            break
        answers, how_it_ended = _try(left, app_dir, seconds)
        tried.troubles |= {name: text for name, text in zip(left, answers, strict=False) if text}
        left = left[len(answers) :]
        if left and how_it_ended is not None:
            tried.troubles[left.pop(0)] = how_it_ended
    tried.untried = left
    return tried


def _try(names: list[str], app_dir: Path, seconds: float) -> tuple[list[str | None], str | None]:
    """The answers that a process gave, and what ended it; None if that was us."""
    with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as report:
        request.write(json.dumps(names).encode())
        request.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOTSTRAP, _PACKAGE_ROOT],
            stdin=request,
            stdout=report,
            stderr=subprocess.DEVNULL,
            cwd=app_dir,
            start_new_session=True,
        )
        status = _wait(process, seconds)
        report.seek(0)
        answers = [json.loads(line) for line in report if line.endswith(b"\n")]
    return answers, None if status is None else _how(status)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit status; None if it was killed for taking too long. Nothing of it is left."""
    started = process_start_time(process.pid)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if started is not None:
            kill_leftovers(process.pid, started)
        process.kill()
        process.wait()


def _how(status: int) -> str:
    if status == -signal.SIGALRM:
        return f"its import took more than {TASK_SECONDS:g} s"
    how = f"with status {status}" if status >= 0 else f"by signal {-status}"
    return f"its import ended the process {how}"


def main() -> None:
    """Be that process."""
    names = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w")
    _silence()
    sys.path.insert(0, str(Path.cwd()))
    for name in names:
        # Of all that could end an import, the kernel is the surest.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, TASK_SECONDS)
        _answer(report, _trouble(name))
    os._exit(0)  # without waiting for threads that a module has started


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)


def _answer(report: IO[str], trouble: str | None) -> None:
    report.write(json.dumps(trouble) + "\n")
    report.flush()


def _trouble(name: str) -> str | None:
    sys.argv[:] = [name]
    try:
        import_task(name)
    except BrokerError as error:
        return str(error)
    except BaseException as error:
        return f"{type(error).__name__} on import"
    return None


def missing_programs(programs: Collection[str], app_dir: Path) -> set[str]:
    """Those of these programs that could not be executed, by name or by path."""
    return {program for program in programs if not _is_program(program, app_dir)}


def _is_program(program: str, app_dir: Path) -> bool:
    place = str(app_dir / program) if "/" in program else program
    return shutil.which(place) is not None


def first_word(line: str) -> str | None:
    """The command that a shell line begins with; None if it is not plain."""
    found = _FIRST_WORD.match(line)
    return found and found[1]


def missing_commands(words: Collection[str], app_dir: Path) -> set[str]:
    """Those of these words that mean nothing to /bin/sh: no program, no builtin, no keyword."""
    paths = {word for word in words if "/" in word}
    missing = missing_programs(paths, app_dir)
    words = [word for word in words if word not in paths]
    for start in range(0, len(words), 1000):
        ran = subprocess.run(
            ["/bin/sh", "-c", _LOOK_UP, "sh", *words[start : start + 1000]],
            cwd=app_dir,
            capture_output=True,
            text=True,
            check=False,
            timeout=ALL_SECONDS,
        )
        missing |= set(ran.stdout.splitlines())
    return missing

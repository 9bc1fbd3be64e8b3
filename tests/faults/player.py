"""Plays a script of commands, each the real program in a process of its own; `python -m` this.

It is started once, with what stands between the program and its disk loaded into it, and forks for
each command: starting an interpreter would take most of the time. It reads a script a line, in
JSON, and answers with what each command said. All clocks show the second that the script says.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from tests.faults.disk import FOREVER, ROOT, Disk, require_disk

WORKERS = 2
STEP_SECONDS = 60


class Step(NamedTuple):
    """One command, at a second since 1970."""

    second: int
    arguments: tuple[str, ...]
    done_before: str = ""
    """What it says if a call of it that failed had done it: where the disk could not say whether
    it has a transaction, it may be there when the database is opened next."""

    @property
    def command(self) -> str:
        return self.arguments[0]


@dataclass(frozen=True)
class Script:
    """Commands for one database, on a disk of which some operations fail; see `Disk.set`.

    Each command is called until it exits with 0, `attempts` times at most; then the script ends.
    What lies beside the database when one has failed is copied to `failed-0`, `failed-1`, …
    """

    directory: Path
    steps: Sequence[Step]
    counted: int = 0
    error: int = 0
    first: int = FOREVER
    last: int = FOREVER
    attempts: int = 1
    record: bool = False
    wait_s: float = 5.0
    """How long writers wait for each other."""

    @property
    def place(self) -> Path:
        """Where the database lies, and nothing else."""
        return self.directory / "place"

    @property
    def database(self) -> Path:
        return self.place / "day.db"

    @property
    def records(self) -> Path:
        return self.directory / "records"

    @property
    def marks(self) -> Path:
        return self.directory / "marks"


@dataclass(frozen=True)
class Called:
    """What one call of a command said. `copy` is what it left, if it failed."""

    step: int
    code: int
    out: str
    err: str
    copy: str | None = None


@dataclass(frozen=True)
class Played:
    """What a script came to: every call, and how many operations of the disk were counted."""

    calls: list[Called] = field(default_factory=list)
    count: int = 0


# -- in the test ----------------------------------------------------------------------------------


class _Player:
    """A process that plays scripts, one at a time."""

    def __init__(self, control: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.player"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | Disk(control).environment | {"PYTHONPATH": str(ROOT)},
        )

    def play(self, script: Script) -> Played:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(script), default=str), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Played([Called(**call) for call in answer["calls"]], answer["count"])

    def stop(self) -> None:
        self._process.communicate(timeout=STEP_SECONDS)


class Players:
    """Processes that play scripts, two at a time; `with` stops them."""

    def __init__(self, directory: Path) -> None:
        require_disk(directory)
        self._players = [_Player(directory / f"control-{n}") for n in range(WORKERS)]
        self._idle: SimpleQueue[_Player] = SimpleQueue()
        for player in self._players:
            self._idle.put(player)

    def play(self, scripts: Iterable[Script]) -> Iterator[tuple[Script, Played]]:
        """Play scripts to their end; in their order."""
        with ThreadPoolExecutor(WORKERS) as pool:
            yield from pool.map(self._play, scripts)

    def _play(self, script: Script) -> tuple[Script, Played]:
        player = self._idle.get()
        try:
            return script, player.play(script)
        finally:
            self._idle.put(player)

    def __enter__(self) -> "Players":
        return self

    def __exit__(self, *_: object) -> None:
        for player in self._players:
            player.stop()


# -- in the process that plays --------------------------------------------------------------------


def main() -> None:
    """Play what comes in."""
    import aiosqlite  # noqa: F401  # so that each command finds all of it imported

    import sqlsched.cli.commands
    import sqlsched.engine.scheduler  # noqa: F401

    disk = Disk(Path(os.environ["DISK_CONTROL"]))
    for line in sys.stdin:
        fields = json.loads(line)
        fields["steps"] = [Step(*step) for step in fields["steps"]]
        fields["directory"] = Path(fields["directory"])
        print(json.dumps(asdict(_play(Script(**fields), disk))), flush=True)


def _play(script: Script, disk: Disk) -> Played:
    script.place.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk.set(
        script.database,
        counted=script.counted,
        error=script.error,
        first=script.first,
        last=script.last,
        record=script.records if script.record else None,
        marks=script.marks,
    )
    played = Played()
    for number, step in enumerate(script.steps):
        for attempt in range(script.attempts):
            code, out, err = _call(script, step)
            if code == 1 and attempt and step.done_before and step.done_before in err:
                code = 0
            copy = None
            if code:
                copy = script.directory / f"failed-{len(played.calls)}"
                shutil.copytree(script.place, copy)
            played.calls.append(Called(number, code, out, err, str(copy) if copy else None))
            if not code:
                _mark(script, f"done {number}")
                break
        else:
            break
    result = Played(played.calls, disk.count)
    disk.off()
    return result


def _mark(script: Script, line: str) -> None:
    fd = os.open(script.marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def _call(script: Script, step: Step) -> tuple[int, str, str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(_called(script, step))
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), out.read(), err.read()


def _called(script: Script, step: Step) -> int:
    """The program, in a process of its own; its exit status."""
    from sqlsched.cli import main as program
    from sqlsched.clock import SystemClock
    from sqlsched.storage import connection

    signal.alarm(STEP_SECONDS)
    os.environ |= {
        "DAY_SECOND": str(step.second),
        "DAY_MARKS": str(script.marks),
        "SQLSCHED_DB": str(script.database),
    }
    change: Any = setattr
    change(SystemClock, "now_us", lambda _: step.second * 1_000_000)
    change(connection, "WAIT_S", script.wait_s)
    code = 99
    try:
        program(step.arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()

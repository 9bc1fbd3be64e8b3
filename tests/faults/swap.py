"""The files of a database are deleted, replaced, overwritten or damaged under a running `run`.

It notices within about a second, says so in one line, and exits with 1; nothing more is written
into what is there now, and what was there before has lost nothing that it need not lose.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tests.faults.day import ledger_of, row, unsound
from tests.faults.registry import Row
from tests.servers import ROOT, wait_for

PAGE = 4096
TASKS = """
def note():
    with open("ran.txt", "a") as file:
        file.write("ran\\n")
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


class Victim:
    """A `run` that serves a database with a schedule for each second, and copies made before."""

    def __init__(self, directory: Path) -> None:
        self.place = directory
        self.database = directory / "place" / "day.db"
        self.database.parent.mkdir(0o700, parents=True)
        (directory / "jobs.py").write_text(TASKS)
        self.call("add", "--every", "1s", "--catchup-window", "unlimited", "jobs:note")
        self.raw, self.backup, self.vacuum = (directory / name for name in ("raw", "backup", "vac"))
        shutil.copyfile(self.database, self.raw)
        with closing(sqlite3.connect(self.database)) as source:
            with closing(sqlite3.connect(self.backup)) as target:
                source.backup(target)
            source.execute("VACUUM INTO ?", (str(self.vacuum),))
        self.said = directory / "said"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [*self._command, "run", "--broker", "in-process", "--log-level", "error"],
                cwd=directory,
                stderr=said,
                env=ENVIRONMENT,
            )

    @property
    def _command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "sqlsched", "--db", str(self.database))

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            cwd=self.place,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )

    @property
    def ran(self) -> int:
        """How many runs there have been."""
        noted = self.place / "ran.txt"
        return noted.read_text().count("\n") if noted.exists() else 0

    def move_log(self) -> None:
        """As SQLite does at times: what lies in the log goes into the file."""
        with closing(sqlite3.connect(self.database)) as other:
            other.execute("PRAGMA wal_checkpoint(RESTART)")
        ran = self.ran
        wait_for(lambda: self.ran > ran)  # it is another program that did it, and `run` has looked


def deleted(victim: Victim) -> None:
    victim.database.unlink()


def deleted_with_all_beside_it(victim: Victim) -> None:
    for path in victim.database.parent.iterdir():
        path.unlink()


def deleted_with_its_directory(victim: Victim) -> None:
    shutil.rmtree(victim.database.parent)


def replaced(victim: Victim) -> None:
    victim.backup.replace(victim.database)


def overwritten_with_a_copy(victim: Victim) -> None:
    shutil.copyfile(victim.raw, victim.database)


def overwritten_with_a_backup(victim: Victim) -> None:
    shutil.copyfile(victim.backup, victim.database)


def overwritten_with_a_vacuumed_copy(victim: Victim) -> None:
    shutil.copyfile(victim.vacuum, victim.database)


def restored_by_sqlite(victim: Victim) -> None:
    with (
        closing(sqlite3.connect(victim.backup)) as source,
        closing(sqlite3.connect(victim.database)) as target,
    ):
        source.backup(target)


def without_its_log(victim: Victim) -> None:
    Path(f"{victim.database}-wal").unlink()


def without_its_shared_memory(victim: Victim) -> None:
    Path(f"{victim.database}-shm").unlink()


def damaged(victim: Victim) -> None:
    with victim.database.open("r+b") as file:
        for page in range(2, victim.database.stat().st_size // PAGE):
            file.seek(page * PAGE)
            file.write(bytes(range(1, 17)))


def cut_short(victim: Victim) -> None:
    os.truncate(victim.database, 3 * PAGE)


def emptied(victim: Victim) -> None:
    os.truncate(victim.database, 0)


def scribbled_over(victim: Victim) -> None:
    with victim.database.open("r+b") as file:
        file.write(b"dear diary\n" * 1000)


Event = Callable[[Victim], None]
BEREFT: set[Event] = {without_its_log, without_its_shared_memory}
"""What takes nothing of the file: all that ran must be in it in the end."""
EVENTS: list[Event] = [
    *(deleted, deleted_with_all_beside_it, deleted_with_its_directory, replaced),
    *(overwritten_with_a_copy, overwritten_with_a_backup, overwritten_with_a_vacuumed_copy),
    *(restored_by_sqlite, without_its_log, without_its_shared_memory),
    *(damaged, cut_short, emptied, scribbled_over),
]
AT_ONCE = 7


def swapped(directory: Path, count: int, seed: int) -> Row:
    """Let something happen to a running `run`, so many times; a number of them at once."""
    rng, total = random.Random(seed), Row(count=0)
    for number in range(0, count, AT_ONCE):
        events = [EVENTS[n % len(EVENTS)] for n in range(number, min(count, number + AT_ONCE))]
        total += happen(directory / str(number), events, rng)
    return total


def happen(directory: Path, events: Sequence[Event], rng: random.Random) -> Row:
    """Let each happen to a `run` of its own, all within a second."""
    victims = [Victim(directory / f"{n}-{event.__name__}") for n, event in enumerate(events)]
    try:
        for victim in victims:
            wait_for(lambda: victim.ran > 0)  # noqa: B023
            victim.move_log()
        happened = []
        for victim, event in zip(victims, events, strict=True):
            time.sleep(rng.random() / len(events))
            event(victim)
            happened.append((event, victim, _bytes(victim.database), victim.ran))
        problems = [
            f"{event.__name__} at {victim.place}: {problem}"
            for event, victim, after, ran in happened
            for problem in _problems(event, victim, after, ran)
        ]
    finally:
        for victim in victims:
            victim.process.kill()
            victim.process.wait()
    return row(problems, Counter(), len(victims), sum(victim.ran for victim in victims))


def _problems(event: Event, victim: Victim, after: bytes | None, ran: int) -> Iterator[str]:
    try:
        victim.process.wait(10)
    except subprocess.TimeoutExpired:
        yield "not noticed"
        return
    lines = victim.said.read_text().splitlines()
    if victim.process.returncode != 1 or len(lines) != 1 or not lines[0].startswith("Error: "):
        yield f"not one clear line: {victim.process.returncode} {lines}"
    if victim.ran > ran + 2:
        yield f"not noticed at once: {victim.ran - ran} more runs"
    if event in BEREFT:
        yield from unsound(victim.database)
        known = sum(1 for _ in ledger_of(victim.database))
        if known < victim.ran:
            yield f"lost: {victim.ran - known} runs"
    elif event is restored_by_sqlite:
        yield from unsound(victim.database)
    elif _bytes(victim.database) != after:
        yield "written into"
    if after in (_bytes(victim.backup), _bytes(victim.raw), _bytes(victim.vacuum)):
        listed = victim.call("list")
        if listed.returncode or "jobs:note" not in listed.stdout:
            yield f"cannot be used: {listed}"


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None

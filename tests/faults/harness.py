"""Real `sqlsched run` processes on a real file, and an account of firings made without them.

What should have fired is computed here from start, end and interval; what did run, the tasks
themselves write to a file, a line each. The ledger is then held against both.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlsched import ScheduledTask
from sqlsched.instants import SECOND_US, from_us
from sqlsched.storage import additions
from sqlsched.storage.connection import open_for_reading, open_for_writing
from tests.faults import ledger, victim
from tests.faults.forked import Forked
from tests.faults.queue_broker import TRACE
from tests.servers import ROOT

TASKS = """
import asyncio, os, time, sqlsched

def _write(name):
    run = sqlsched.current_run()
    us = round(run.scheduled_for.timestamp() * 1e6)
    fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{run.schedule_id} {us} {run.attempt} {time.time_ns()}\\n".encode())
    os.close(fd)
    return run.attempt

def note(seconds=0, fails=0):
    attempt = _write("ran.txt")
    if seconds:
        time.sleep(seconds)
    _write("over.txt")
    if attempt <= fails:
        raise RuntimeError("not yet")

async def nap(seconds=0):
    _write("ran.txt")
    await asyncio.sleep(seconds)
    _write("over.txt")
"""

LATE: dict[str, Any] = {"coalesce": "all", "catchup_window": "unlimited", "overlap": "allow"}
"""Policies by which every firing runs, however slow the machine is."""

Firing = tuple[str, int]
"""The id of a schedule, and a nominal time of it in microseconds since 1970."""


@dataclass
class Account:
    """Every firing that should be, held against what ran and what the ledger says."""

    expected: int
    ran: Counter[Firing] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[Firing] = field(default_factory=list)
    unaccounted: list[Firing] = field(default_factory=list)
    doubled: list[Firing] = field(default_factory=list)

    def __str__(self) -> str:
        statuses = ", ".join(f"{name} {count}" for name, count in sorted(self.statuses.items()))
        return (
            f"{self.expected} firings: {len(self.ran)} ran, doubled {len(self.doubled)}, "
            f"lost {len(self.lost)}, unaccounted {len(self.unaccounted)} ({statuses})"
        )

    def violations(self, *good: str) -> list[str]:
        """What of it breaks a promise. `good` are the statuses that firings may have ended in."""
        found = [
            f"{len(firings)} firings {what}, as {firings[0]}"
            for what, firings in (
                ("were lost", self.lost),
                ("ran twice", self.doubled),
                ("ran, or ended, and should not have", self.unaccounted),
            )
            if firings
        ]
        other = {name: count for name, count in self.statuses.items() if name not in good}
        return found + ([f"firings ended as {other}"] if other and good else [])


Process = subprocess.Popen[bytes] | Forked


class Fleet:
    """Some `run` processes on one database in one directory; `with` it, they do not outlive it."""

    def __init__(self, directory: Path, broker: str = "subprocess") -> None:
        self.directory = directory
        self.broker = broker
        self.path = directory / "app.db"
        self.processes: list[Process] = []
        directory.mkdir(exist_ok=True)
        (directory / "jobs.py").write_text(TASKS)
        self.log = (directory / "log.txt").open("ab")
        self.firings: dict[str, range] = {}
        """The nominal times that there should be of each schedule."""
        self.limits: dict[str, int] = {}
        """How many of them are dispatched, where `max_runs` says so."""
        self.serial: set[str] = set()
        """Schedules of which no two runs may overlap."""
        self._planned: list[ScheduledTask] = []
        self._left: list[str] = []

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        self.log.close()

    def add(
        self, schedule_id: str, first: float, last: float, every: int = 1, **policies: object
    ) -> None:
        """A schedule that fires from `first` to `last`, both included: seconds since 1970."""
        self.plan(schedule_id, first, last, every, **policies)
        self.add_planned()

    def plan(
        self, schedule_id: str, first: float, last: float, every: int = 1, **policies: object
    ) -> None:
        """The same, to be stored by `add_planned`."""
        first_us, last_us = round(first * SECOND_US), round(last * SECOND_US)
        fields: dict[str, Any] = {"task_name": "jobs:note"} | policies
        fields |= {"start": from_us(first_us), "end": from_us(last_us)}
        schedule = ScheduledTask(schedule_id=schedule_id, interval=every, **fields)
        self.firings[schedule_id] = range(first_us, last_us + 1, every * SECOND_US)
        if schedule.max_runs is not None:
            self.limits[schedule_id] = schedule.max_runs
        if schedule.overlap not in (None, "allow"):
            self.serial.add(schedule_id)
        self._planned.append(schedule)

    def add_planned(self) -> None:
        """Store what was planned."""
        with closing(open_for_writing(self.path, create=True)) as database:
            additions.add_all(database, self._planned, 0)
        self._planned.clear()

    def start(self, *options: str) -> Process:
        """One more process: the program, as one would type it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sqlsched", *self._words(self.broker, options)],
            cwd=self.directory,
            stdout=self.log,
            stderr=self.log,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.processes.append(process)
        return process

    def fork(
        self,
        *options: str,
        broker: str | None = None,
        kill_at: victim.KillAt | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Forked:
        """One more process, ready in hundredths of a second."""
        words = self._words(broker or self.broker, options)
        process = Forked(self.directory, words, kill_at, environment)
        self.processes.append(process)
        return process

    def _words(self, broker: str, options: Sequence[str]) -> list[str]:
        return [
            *("--db", str(self.path), "run"),
            *("--broker", broker, "--log-level", "warning", *options),
        ]

    def alive(self) -> list[Process]:
        """Those that have not ended; the others are forgotten."""
        self.processes = [process for process in self.processes if process.poll() is None]
        return self.processes

    def kill_one(self, rng: random.Random) -> None:
        """kill -9 one of them, and start another in its place."""
        victim = rng.choice(self.alive())
        victim.kill()
        victim.wait()
        self.start()

    def settle(self, seconds: float = 60, *, running_too: bool = True) -> None:
        """Wait until no firing is to come, nothing is live (or running), and those that are there
        have noticed who is not; or for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.is_idle(running_too=running_too) and self._knows_its_dead():
                return
            time.sleep(0.05)

    def stop(self) -> None:
        """End them in order."""
        for process in self.alive():
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)
        self.log.close()
        # Before anybody looks into the database, and so makes some of them again.
        self._left = [path.name for path in self.directory.glob("app.db-[!g]*")]

    # -- what came of it ------------------------------------------------------------------------

    def account(self) -> Account:
        """Hold the ledger and the tasks' own record against what should have been."""
        account = Account(sum(self.limits.get(name, len(t)) for name, t in self.firings.items()))
        attempts = self.ran()
        account.doubled = sorted({key[:2] for key, count in attempts.items() if count > 1})
        for (name, us, _), count in attempts.items():
            account.ran[name, us] += count
        covered: set[Firing] = set()
        dispatched: Counter[str] = Counter()
        for name, first, last, attempt, status, started, reason in self._ledger():
            span = [(name, us) for us in self.firings[name] if first <= us <= last]
            covered.update(span)
            if reason == "bounds" and name in self.limits:
                continue  # passed over, as later ones were started before it
            dispatched[name] += attempt == 1 and started
            account.statuses[status] += len(span)
            ran = attempt and (name, first, attempt) in attempts
            if status in ("succeeded", "failed", "sent") and not ran:
                account.lost.append((name, first))
            if (not started and ran) or not span:
                account.unaccounted.append((name, first))
        account.lost += sorted(self._wanted(covered, dispatched) - covered)
        account.unaccounted += sorted(set(account.ran) - covered)
        return account

    def _wanted(self, covered: set[Firing], dispatched: Mapping[str, int]) -> set[Firing]:
        """The firings that must be on record; of a limited schedule, those up to its last one."""
        wanted: set[Firing] = set()
        for name, times in self.firings.items():
            if dispatched.get(name) == self.limits.get(name, -1):
                until_us = max(us for other, us in covered if other == name)
                wanted.update((name, us) for us in times if us <= until_us)
            else:
                wanted.update((name, us) for us in times)
        return wanted

    def overlaps(self) -> list[str]:
        """Runs that began, by their own word, while another of their schedule went on."""
        over = {tuple(key): int(ns) for *key, ns in self._noted("over.txt")}
        began: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for name, *rest, ns in self._noted("ran.txt"):
            if name in self.serial:
                began[name].append((int(ns), over.get((name, *rest), 0)))
        return [
            f"runs of {name} overlapped"
            for name, spans in began.items()
            if any(end > start for (_, end), (start, _) in pairwise(sorted(spans)))
        ]

    def ran(self) -> Counter[tuple[str, int, int]]:
        """What tasks, or a queue, noted: schedule, nominal time, attempt, and how often."""
        found: Counter[tuple[str, int, int]] = Counter()
        for name, us, attempt, _ in self._noted("ran.txt"):
            found[name, int(us), int(attempt)] += 1
        for kind, _, *words in self._noted(TRACE):
            if kind == "sent":
                found[words[0], int(words[1]), 1] += 1
        return found

    def _noted(self, name: str) -> Iterator[list[str]]:
        path = self.directory / name
        if path.exists():
            yield from (line.split() for line in path.read_text().splitlines())

    def _ledger(self) -> list[tuple[Any, ...]]:
        return self.ask(
            """SELECT schedule_id, scheduled_us, coalesce(last_us, scheduled_us), attempt, status,
                   started_us IS NOT NULL, reason FROM runs WHERE manual_key = 0"""
        )

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """The rows that answer a query."""
        with closing(open_for_reading(self.path)) as database:
            return database.execute(query).fetchall()

    def is_sound(self) -> bool:
        """Whether SQLite finds nothing wrong with the file."""
        with closing(sqlite3.connect(self.path)) as connection:
            return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")

    def live_runs(self, *statuses: str) -> int:
        """How many runs have not ended, or have one of these statuses."""
        wanted = statuses or ("claimed", "waiting", "sending", "running")
        found = self.ask("SELECT status, count(*) FROM runs GROUP BY status")
        return sum(count for status, count in found if status in wanted)

    def is_idle(self, *, running_too: bool = True) -> bool:
        """Whether no firing is to come, and nothing waits (or runs)."""
        query = "SELECT count(*) FROM schedules WHERE wake_us IS NOT NULL"
        statuses = () if running_too else ("claimed", "waiting", "sending")
        return not self.ask(query)[0][0] and not self.live_runs(*statuses)

    def _knows_its_dead(self) -> bool:
        serving = {pid for (pid,) in self.ask("SELECT pid FROM owners WHERE stopped_us IS NULL")}
        files = list(self.directory.glob("app.db-owner-*"))
        return serving == {process.pid for process in self.alive()} and len(files) == len(serving)

    def remains(self) -> list[str]:
        """What is wrong once all have stopped, whatever had happened to them."""
        found = ledger.violations(self.path) + self.overlaps()
        if not self.is_sound():
            found.append("the file is not sound")
        if self.live_runs():
            found.append(f"{self.live_runs()} runs are live with nobody there")
        if self._left:
            found.append(f"{len(self._left)} files are left over, as {self._left[0]}")
        if pids := list(processes_in(self.directory)):
            found.append(f"processes are left over: {pids}")
        return found


def processes_in(directory: Path) -> Iterator[int]:
    """The living processes whose working directory this is. Linux knows; elsewhere none."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == directory.resolve():
                yield int(entry.name)


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def wait_until(second: float) -> None:
    """Wait for a moment, seconds since 1970."""
    time.sleep(max(0.0, second - time.time()))

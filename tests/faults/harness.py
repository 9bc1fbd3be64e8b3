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
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlsched import ScheduledTask
from sqlsched.instants import SECOND_US, from_us
from sqlsched.storage import additions
from sqlsched.storage.connection import open_for_reading, open_for_writing

TASKS = """
import os, sqlsched

def note(seconds=0):
    run = sqlsched.current_run()
    line = f"{run.schedule_id} {run.scheduled_for.timestamp():.0f} {run.attempt}\\n"
    fd = os.open("ran.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)
    if seconds:
        import time
        time.sleep(seconds)
"""


@dataclass
class Account:
    """Every firing that should be, held against what ran and what the ledger says."""

    expected: int
    ran: Counter[tuple[str, int]]
    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[tuple[str, int]] = field(default_factory=list)
    unaccounted: list[tuple[str, int]] = field(default_factory=list)

    @property
    def doubled(self) -> list[tuple[str, int]]:
        return [firing for firing, count in self.ran.items() if count > 1]

    def __str__(self) -> str:
        statuses = ", ".join(f"{name} {count}" for name, count in sorted(self.statuses.items()))
        return (
            f"{self.expected} firings: {len(self.ran)} ran, doubled {len(self.doubled)}, "
            f"lost {len(self.lost)}, unaccounted {len(self.unaccounted)} ({statuses})"
        )


class Fleet:
    """Some `run` processes on one database in one directory."""

    def __init__(self, directory: Path, broker: str = "subprocess") -> None:
        self.directory = directory
        self.broker = broker
        self.path = directory / "app.db"
        self.processes: list[subprocess.Popen[bytes]] = []
        (directory / "jobs.py").write_text(TASKS)
        self.log = (directory / "log.txt").open("ab")
        self.firings: dict[str, range] = {}

    def add(
        self, schedule_id: str, first: int, last: int, every: int = 1, **policies: object
    ) -> None:
        """A schedule that fires from `first` to `last`, both included: seconds since 1970."""
        database = open_for_writing(self.path, create=True)
        schedule = ScheduledTask(
            task_name="jobs:note",
            schedule_id=schedule_id,
            interval=every,
            start=from_us(first * SECOND_US),
            end=from_us(last * SECOND_US),
            **policies,  # type: ignore[arg-type]
        )
        additions.add(database, schedule, 0)
        database.close()
        self.firings[schedule_id] = range(first, last + 1, every)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sqlsched", "--db", str(self.path), "run"),
                *("--broker", self.broker, "--log-level", "warning", *options),
            ],
            cwd=self.directory,
            stdout=self.log,
            stderr=self.log,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        self.processes.append(process)
        return process

    def kill_one(self, rng: random.Random) -> None:
        """kill -9 one of them, and start another in its place."""
        alive = [process for process in self.processes if process.poll() is None]
        victim = rng.choice(alive)
        victim.kill()
        victim.wait()
        self.start()

    def stop(self) -> None:
        """End them in order."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)
        self.log.close()

    def account(self) -> Account:
        """Hold the ledger and the tasks' own record against what should have been."""
        expected = {(name, t) for name, times in self.firings.items() for t in times}
        account = Account(len(expected), self._ran())
        covered: set[tuple[str, int]] = set()
        for name, first, last, attempt, status, started in self._ledger():
            times = self.firings[name]
            span = [t for t in times if first <= t <= last]
            account.statuses[status] += len(span)
            covered.update((name, t) for t in span)
            ran = attempt and (name, first) in account.ran
            if status == "succeeded" and not ran:
                account.lost.append((name, first))
            if not started and ran:
                account.unaccounted.append((name, first))
        account.lost += sorted(expected - covered)
        account.unaccounted += sorted(set(account.ran) - covered)
        return account

    def _ran(self) -> Counter[tuple[str, int]]:
        path = self.directory / "ran.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter((line.split()[0], int(line.split()[1])) for line in lines)

    def _ledger(self) -> list[tuple[str, int, int, int, str, bool]]:
        database = open_for_reading(self.path)
        rows = database.execute(
            """SELECT schedule_id, scheduled_us / 1000000,
                   coalesce(last_us, scheduled_us) / 1000000, attempt, status,
                   started_us IS NOT NULL FROM runs"""
        ).fetchall()
        database.close()
        return rows

    def is_sound(self) -> bool:
        connection = sqlite3.connect(self.path)
        try:
            return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")
        finally:
            connection.close()

    def live_runs(self) -> int:
        database = open_for_reading(self.path)
        query = """SELECT count(*) FROM runs
                   WHERE status IN ('claimed', 'waiting', 'sending', 'running')"""
        count: int = database.execute(query).fetchone()[0]
        database.close()
        return count


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def wait_until(second: float) -> None:
    """Wait for a moment, seconds since 1970."""
    time.sleep(max(0.0, second - time.time()))

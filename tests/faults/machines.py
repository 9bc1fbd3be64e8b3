"""Several machines on one Redis: each a `sqlsched run` with a ledger of its own."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sqlsched import ScheduledTask
from sqlsched.instants import SECOND_US, from_us
from sqlsched.sources.redis import RedisScheduleSource
from sqlsched.storage.connection import open_for_reading
from sqlsched.storage.runs import LIVE_STATUSES
from tests.faults.harness import TASKS, Account

APP = """
import os
from sqlsched import Scheduler, SubprocessBroker
from sqlsched.sources.redis import RedisScheduleSource

scheduler = Scheduler(
    SubprocessBroker(os.environ["JOBS"]),
    [RedisScheduleSource(os.environ["URL"])],
    database="ledger.db",
)
"""


class Machines:
    """Processes that share nothing but a Redis, and where their tasks write what ran."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.processes: list[subprocess.Popen[bytes]] = []
        self.firings: dict[str, range] = {}
        self.jobs = directory / "jobs"
        self.jobs.mkdir()
        (self.jobs / "jobs.py").write_text(TASKS)

    async def add(self, schedule_id: str, first: int, last: int, **policies: Any) -> None:
        """A schedule that fires each second from `first` to `last`, both included."""
        source = RedisScheduleSource(self.url)
        await source.startup()
        await source.add_schedule(
            ScheduledTask(
                task_name="jobs:note",
                schedule_id=schedule_id,
                interval=1,
                start=from_us(first * SECOND_US),
                end=from_us(last * SECOND_US),
                **policies,
            )
        )
        await source.shutdown()
        self.firings[schedule_id] = range(first, last + 1)

    def start(self) -> subprocess.Popen[bytes]:
        """One more machine."""
        place = self.directory / f"machine{len(self.processes)}"
        place.mkdir()
        (place / "app.py").write_text(APP)
        with (place / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sqlsched", "run", "app:scheduler"],
                cwd=place,
                stdout=log,
                stderr=log,
                env=os.environ
                | {
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                    "URL": self.url,
                    "JOBS": str(self.jobs),
                },
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End them in order."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)

    def account(self) -> Account:
        """Hold every ledger and the tasks' own record against what should have been."""
        expected = {(name, t * SECOND_US) for name, times in self.firings.items() for t in times}
        path = self.jobs / "ran.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        ran = Counter((line.split()[0], int(line.split()[1])) for line in lines)
        account = Account(len(expected), ran)
        account.doubled = [firing for firing, count in ran.items() if count > 1]
        covered = set(ran)
        for ledger in self.directory.glob("machine*/ledger.db"):
            database = open_for_reading(ledger)
            rows = database.execute(
                """SELECT schedule_id, scheduled_us, coalesce(last_us, scheduled_us), status,
                       reason FROM runs"""
            ).fetchall()
            database.close()
            for name, first, last, status, reason in rows:
                if reason != "taken-over":
                    times = (t * SECOND_US for t in self.firings[name])
                    span = [(name, us) for us in times if first <= us <= last]
                    account.statuses[status] += len(span)
                    if status not in LIVE_STATUSES:
                        covered.update(span)
        account.lost = sorted(expected - covered)
        account.unaccounted = sorted(covered - expected)
        return account

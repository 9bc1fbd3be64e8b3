"""sqlsched itself: a Scheduler over a file, synchronous=FULL, tasks on the event loop."""

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlsched import (
    InProcessBroker,
    ScheduledTask,
    Scheduler,
    SqliteScheduleSource,
    cron_fields,
    current_run,
)
from sqlsched.cron import CronExpression, parse_cron
from tests.benchmarks.expressions import measured
from tests.benchmarks.party import Figures, cpu_of, late, main, rss_mib, window

CONFIGURATION = "SQLite file, WAL, synchronous=FULL; in-process broker, async tasks"
TASKS = "async def nothing():\n    pass\n"
_ROOT = Path(__file__).parents[3]


def database(n: int, directory: Path) -> Path:
    """A file with so many yearly schedules, none of them due; filled once and then copied."""
    template = directory.parent / f"filled-{n}.db"
    if not template.exists():
        yearly = (
            ScheduledTask(task_name="jobs:nothing", cron=f"{i % 60} {i // 60 % 24} 1 {month} *")
            for i, month in zip(range(n), _month(), strict=False)
        )
        asyncio.run(store(template, yearly))
    return Path(shutil.copy(template, directory / "app.db"))


def _month() -> Iterator[int]:
    now = datetime.now(UTC)
    while True:
        yield (now.month + 3) % 12 + 1


async def store(path: Path, schedules: Iterator[ScheduledTask]) -> None:
    """Add schedules durably."""
    source = SqliteScheduleSource(path)
    await source.startup()
    await source.add_schedules(schedules)
    await source.shutdown()


def serving(path: Path, *options: str) -> "subprocess.Popen[bytes]":
    """`sqlsched run` over a file."""
    (path.parent / "jobs.py").write_text(TASKS)
    words = [sys.executable, "-m", "sqlsched", "--db", path.name, "run", "--log-level", "warning"]
    env = os.environ | {"PYTHONPATH": str(_ROOT)}
    return subprocess.Popen([*words, *options], cwd=path.parent, env=env)


def _cost(path: Path, seconds: float) -> Figures:
    process = serving(path, "--broker", "in-process")
    try:
        figures = window(seconds, lambda: cpu_of(process.pid))
        return figures | {"rss": rss_mib(process.pid)}
    finally:
        process.terminate()
        process.wait()


def idle(n: int, seconds: float, directory: Path) -> Figures:
    return _cost(database(n, directory), seconds)


def each_second(n: int, seconds: float, directory: Path) -> Figures:
    path = database(n, directory)
    each = ScheduledTask(task_name="jobs:nothing", interval=1)
    asyncio.run(store(path, iter([each])))
    return _cost(path, seconds)


def at_one_instant(n: int, path: Path) -> datetime:
    """So many schedules that are due together, soon."""
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2 + n // 20_000)
    asyncio.run(store(path, (ScheduledTask(task_name="jobs:nothing", time=due) for _ in range(n))))
    return due


def on_record(path: Path, due: datetime, n: int) -> Figures:
    """What the ledger says of a burst."""
    with closing(sqlite3.connect(path)) as ledger:
        runs, distinct, last = ledger.execute(
            """SELECT count(*), count(DISTINCT schedule_id), max(finished_us) FROM runs
               WHERE status = 'succeeded'"""
        ).fetchone()
    seconds = (last or 0) / 1e6 - due.timestamp()
    return {"seconds": seconds, "lost": n - distinct, "twice": runs - distinct}


async def _nothing() -> None:
    pass


def burst(n: int, _seconds: float, directory: Path) -> Figures:
    path = directory / "app.db"
    due = at_one_instant(n, path)
    broker = InProcessBroker()
    broker.tasks["jobs:nothing"] = _nothing
    asyncio.run(Scheduler(broker, [SqliteScheduleSource(path)]).run(until_idle=True))
    return on_record(path, due, n) | {"rss": rss_mib()}


def lateness(n: int, _seconds: float, directory: Path) -> Figures:
    times: list[float] = []

    async def note() -> None:
        now = time.time_ns() / 1e9
        run = current_run()
        assert run is not None
        assert run.scheduled_for is not None
        times.append((now - run.scheduled_for.timestamp()) * 1000)

    first = datetime.now(UTC) + timedelta(seconds=2)
    asyncio.run(store(directory / "app.db", instants(n, first, "jobs:note")))
    broker = InProcessBroker()
    broker.tasks["jobs:note"] = note
    source = SqliteScheduleSource(directory / "app.db")
    asyncio.run(Scheduler(broker, [source]).run(until_idle=True))
    return late(times)


def instants(n: int, first: datetime, task_name: str) -> Iterator[ScheduledTask]:
    """One-shots 150 ms apart, and a bit more or less."""
    for number in range(n):
        offset = timedelta(milliseconds=150 * number + random.uniform(0, 100))
        yield ScheduledTask(task_name=task_name, time=first + offset)


def add(n: int, _seconds: float, directory: Path) -> Figures:
    schedules = [
        ScheduledTask(task_name="jobs:nothing", cron=f"{i % 60} 4 * * *") for i in range(n)
    ]
    start = time.perf_counter()
    asyncio.run(store(directory / "app.db", iter(schedules)))
    return {"rate": n / (time.perf_counter() - start)}


def cron(_n: int, _seconds: float, _directory: Path) -> Figures:
    def parse(text: str) -> CronExpression:
        for cached in (parse_cron, cron_fields.values, cron_fields.days):
            cached.cache_clear()
        return parse_cron(text)

    berlin = ZoneInfo("Europe/Berlin")
    return measured(parse, lambda expression, after: expression.next_fire(after, berlin))


if __name__ == "__main__":
    from tests.benchmarks import commands  # it builds on this module

    main(
        {
            "idle": idle,
            "each_second": each_second,
            "burst": burst,
            "burst_by_1": commands.burst_of(1),
            "burst_by_3": commands.burst_of(3),
            "lateness": lateness,
            "subprocess_lateness": commands.subprocess_lateness,
            "starts": commands.starts,
            "add": add,
            "import": commands.import_,
            "help": commands.help_,
            "list": commands.list_,
            "pyz": commands.pyz,
            "cron": cron,
        }
    )

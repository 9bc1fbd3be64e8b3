"""Measurements of whole commands: start-up, starts of tasks, imports, several processes."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlsched import ScheduledTask, SubprocessBroker, TaskMessage
from tests.benchmarks.parties import sqlsched_
from tests.benchmarks.party import Figures, late

AT_ONCE = 4
REPEATS = 9
PROGRAM = str(Path(sys.executable).with_name("sqlsched"))
_NOTE = """
import time
BODY = time.time_ns

def note():
    now = BODY()
    from sqlsched import current_run
    late = now / 1e9 - current_run().scheduled_for.timestamp()
    with open("late.txt", "a") as file:
        print(late * 1000, file=file)

def nothing():
    pass
"""


def milliseconds(*command: str, directory: Path) -> Figures:
    """How long a command takes, of several times the one in the middle."""
    took = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True)
        took.append((time.perf_counter() - start) * 1000)
    return {"ms": statistics.median(took)}


def help_(_n: int, _seconds: float, directory: Path) -> Figures:
    return milliseconds(PROGRAM, "--help", directory=directory)


def list_(n: int, _seconds: float, directory: Path) -> Figures:
    each = (ScheduledTask(task_name="jobs:nothing", cron="0 4 * * *") for _ in range(n))
    asyncio.run(sqlsched_.store(directory / "app.db", each))
    return milliseconds(PROGRAM, "--db", "app.db", "list", directory=directory)


def pyz(_n: int, _seconds: float, directory: Path) -> Figures:
    """The one file, once it has unpacked itself."""
    shiv = str(Path(sys.executable).with_name("shiv"))
    options = ("--compressed", "--console-script", "sqlsched", "--output-file", "sqlsched.pyz")
    subprocess.run(
        [shiv, *options, str(Path(__file__).parents[2])],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    program = (sys.executable, "sqlsched.pyz", "--help")
    milliseconds(*program, directory=directory)
    return milliseconds(*program, directory=directory)


def import_(n: int, _seconds: float, directory: Path) -> Figures:
    lines = directory / "schedules.jsonl"
    with lines.open("w") as file:
        for number in range(n):
            record = {
                "id": f"s{number}",
                "task_name": "jobs:nothing",
                "cron": f"{number % 60} 4 * * *",
            }
            file.write(json.dumps(record) + "\n")
    start = time.perf_counter()
    subprocess.run(
        [PROGRAM, "--db", "app.db", "import", lines.name],
        cwd=directory,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return {"rate": n / (time.perf_counter() - start)}


def burst_of(processes: int) -> Callable[[int, float, Path], Figures]:
    """A burst that so many `sqlsched run` share."""

    def burst(n: int, _seconds: float, directory: Path) -> Figures:
        path = directory / "app.db"
        due = sqlsched_.at_one_instant(n, path)
        running = [
            sqlsched_.serving(path, "--broker", "in-process", "--until-idle")
            for _ in range(processes)
        ]
        for process in running:
            process.wait(timeout=300)
        return sqlsched_.on_record(path, due, n)

    return burst


def subprocess_lateness(n: int, _seconds: float, directory: Path) -> Figures:
    (directory / "jobs.py").write_text(_NOTE)
    first = datetime.now(UTC) + timedelta(seconds=2)
    asyncio.run(sqlsched_.store(directory / "app.db", sqlsched_.instants(n, first, "jobs:note")))
    command = [PROGRAM, "--db", "app.db", "run", "--until-idle", "--log-level", "warning"]
    subprocess.run(command, cwd=directory, check=True)
    return late([float(line) for line in (directory / "late.txt").read_text().split()])


def starts(_n: int, seconds: float, directory: Path) -> Figures:
    """Runs of an empty Python task per second, each in a process of its own."""
    (directory / "jobs.py").write_text(_NOTE)
    return asyncio.run(_starts(seconds, directory))


async def _starts(seconds: float, directory: Path) -> Figures:
    broker = SubprocessBroker(directory)
    await broker.startup()
    start, done = time.monotonic(), 0

    async def keep_starting(name: str) -> None:
        nonlocal done
        while time.monotonic() < start + seconds:
            await broker.kick(TaskMessage(task_id=name, task_name="jobs:nothing"))
            done += 1

    await asyncio.gather(*(keep_starting(str(n)) for n in range(AT_ONCE)))
    took = time.monotonic() - start
    await broker.shutdown()
    return {"rate": done / took}


def cold_starts(_n: int, seconds: float, _directory: Path) -> Figures:
    """`python -c pass` per second."""
    start, done = time.monotonic(), 0

    def keep_starting(_: int) -> int:
        count = 0
        while time.monotonic() < start + seconds:
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            count += 1
        return count

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = sum(pool.map(keep_starting, range(AT_ONCE)))
    return {"rate": done / (time.monotonic() - start)}

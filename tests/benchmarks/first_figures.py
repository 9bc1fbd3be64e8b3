"""Lateness, starts per second and start-up, beside their floors in the same run.

python -m tests.benchmarks.first_figures
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlsched import ScheduledTask, SubprocessBroker, TaskMessage
from sqlsched.instants import SECOND_US, from_us
from sqlsched.storage import additions
from sqlsched.storage.connection import open_for_writing

FIRINGS = 100
TASKS = """
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


def lateness(broker: str, directory: Path) -> list[float]:
    """Milliseconds from the instant to the task's first line, sorted."""
    database = open_for_writing(directory / f"{broker}.db", create=True)
    first = int(time.time()) + 3
    for number in range(FIRINGS):
        at = from_us(first * SECOND_US + number * 150_000 + 7_000)
        additions.add(database, ScheduledTask(task_name="jobs:note", time=at), 0)
    database.close()
    (directory / "late.txt").unlink(missing_ok=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "sqlsched", "--db", f"{broker}.db", "run"),
            *("--until-idle", "--broker", broker, "--log-level", "warning"),
        ],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    return sorted(float(line) for line in (directory / "late.txt").read_text().split())


async def warm_starts(directory: Path, seconds: float) -> float:
    """Runs of an empty Python task per second, four at a time."""
    broker = SubprocessBroker(directory)
    await broker.startup()
    end, done = time.monotonic() + seconds, 0

    async def keep_starting(name: str) -> None:
        nonlocal done
        while time.monotonic() < end:
            await broker.kick(TaskMessage(task_id=name, task_name="jobs:nothing"))
            done += 1

    await asyncio.gather(*(keep_starting(str(n)) for n in range(4)))
    await broker.shutdown()
    return done / seconds


def cold_starts(seconds: float) -> float:
    """`python -c pass` per second, four at a time."""
    end, done = time.monotonic() + seconds, 0

    def keep_starting(_: int) -> int:
        count = 0
        while time.monotonic() < end:
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(keep_starting, range(4)))
    return done / seconds


def wall_ms(command: list[str], directory: Path) -> float:
    """Milliseconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000


def ratio(measure: Callable[[], float], beside: Callable[[], float], runs: int) -> str:
    """Medians of both, measured in turn, and the median of their ratios."""
    pairs = [(measure(), beside()) for _ in range(runs)]
    ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    each = statistics.median(a / b for a, b in pairs)
    return f"{ours:.1f} beside {theirs:.1f}, ratio {each:.2f}"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "jobs.py").write_text(TASKS)
        for broker in ("in-process", "subprocess"):
            late = lateness(broker, directory)
            print(
                f"{broker}: {len(late)} firings, p50 {statistics.median(late):.2f} ms, "
                f"max {late[-1]:.2f} ms late, first {late[0]:.2f} ms"
            )
        print(
            "starts per second, beside python -c pass:",
            ratio(lambda: asyncio.run(warm_starts(directory, 2)), lambda: cold_starts(2), 5),
        )
        program = str(Path(sys.executable).with_name("sqlsched"))
        for words in (["--help"], ["--db", "subprocess.db", "list"]):
            print(
                f"sqlsched {words[-1]} in ms, beside python -c 'import click':",
                ratio(
                    lambda words=words: wall_ms([program, *words], directory),  # type: ignore[misc]
                    lambda: wall_ms([sys.executable, "-c", "import click"], directory),
                    15,
                ),
            )


if __name__ == "__main__":
    main()

"""What nobody can do without: bare Python, bare SQLite, bare click."""

import asyncio
import os
import random
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.benchmarks.commands import cold_starts, milliseconds
from tests.benchmarks.party import Figures, late, main, window_async

CONFIGURATION = (
    "`PRAGMA data_version` asked twice a second; two commits a second, of a start and an end, from "
    "a thread beside an event loop; one SQL transaction for a burst; an asyncio timer; "
    "`python -c pass`; `python -c 'import click'`"
)
_RUNS = "CREATE TABLE runs (id INTEGER PRIMARY KEY, schedule, at, status, UNIQUE (schedule, at))"


def _file(directory: Path) -> sqlite3.Connection:
    database = sqlite3.connect(directory / "floor.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(_RUNS)
    return database


def idle(_n: int, seconds: float, directory: Path) -> Figures:
    async def poll() -> Figures:
        database = _file(directory)
        measuring = asyncio.create_task(window_async(seconds))
        while not measuring.done():
            database.execute("PRAGMA data_version").fetchone()
            await asyncio.wait([measuring], timeout=0.5)
        return await measuring

    return asyncio.run(poll())


def each_second(_n: int, seconds: float, directory: Path) -> Figures:
    """A start that is durable before the task begins, and an end once it is over: two commits."""

    async def firings() -> Figures:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            database = await loop.run_in_executor(thread, _file, directory)
            measuring = asyncio.create_task(window_async(seconds))
            number = 0
            while not measuring.done():
                await asyncio.wait([measuring], timeout=1 - time.time() % 1)
                start = "INSERT INTO runs (schedule, at, status) VALUES ('s', ?, 'running')"
                await loop.run_in_executor(thread, database.execute, start, (number,))
                end = "UPDATE runs SET status = 'succeeded' WHERE schedule = 's' AND at = ?"
                await loop.run_in_executor(thread, database.execute, end, (number,))
                number += 1
            await loop.run_in_executor(thread, database.close)
            return await measuring

    return asyncio.run(firings())


def burst(n: int, _seconds: float, directory: Path) -> Figures:
    with closing(_file(directory)) as database:
        start = time.perf_counter()
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO runs (schedule, at, status) VALUES (?, 0, 'claimed')",
            ((f"s{number}",) for number in range(n)),
        )
        database.execute("UPDATE runs SET status = 'succeeded'")
        database.execute("COMMIT")
        return {"seconds": time.perf_counter() - start, "lost": 0, "twice": 0}


def lateness(n: int, _seconds: float, _directory: Path) -> Figures:
    async def timers() -> list[float]:
        times = []
        loop = asyncio.get_running_loop()
        for _ in range(n):
            due = loop.time() + random.uniform(0.05, 0.2)
            fired = loop.create_future()
            loop.call_at(due, fired.set_result, None)
            await fired
            times.append((loop.time() - due) * 1000)
        return times

    return late(asyncio.run(timers()))


def add(n: int, _seconds: float, directory: Path) -> Figures:
    with closing(_file(directory)) as database:
        start = time.perf_counter()
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO runs (schedule, at, status) VALUES (?, 0, 'claimed')",
            ((f"s{number}",) for number in range(n)),
        )
        database.execute("COMMIT")
        return {"rate": n / (time.perf_counter() - start)}


def commits(n: int, _seconds: float, directory: Path) -> Figures:
    """How many durable commits the disk takes in a second."""
    with closing(_file(directory)) as database:
        start = time.perf_counter()
        for number in range(n):
            database.execute("INSERT INTO runs (schedule, at) VALUES (?, 0)", (str(number),))
        return {"rate": n / (time.perf_counter() - start)}


def import_click(_n: int, _seconds: float, directory: Path) -> Figures:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return milliseconds(sys.executable, "-c", "import click", directory=directory)


if __name__ == "__main__":
    main(
        {
            "idle": idle,
            "each_second": each_second,
            "burst": burst,
            "lateness": lateness,
            "add": add,
            "commits": commits,
            "starts": cold_starts,
            "help": import_click,
            "list": import_click,
        }
    )

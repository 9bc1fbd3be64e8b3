"""APScheduler 3: a BackgroundScheduler whose jobs are in SQLite."""

import pickle
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import event, select

from tests.benchmarks.party import Figures, apart, late, main, window

CONFIGURATION = (
    "BackgroundScheduler, SQLAlchemyJobStore on SQLite with WAL and synchronous=FULL, 64 threads, "
    "misfire_grace_time=None (else it misses most of a burst)"
)
GIVE_UP_SECONDS = 200
MOST_ADDED = 2_000
"""It adds one job in each transaction; a rate needs no more of them."""

_done: list[float] = []
_ended = threading.Event()
_wanted = 0


def nothing() -> None:
    _done.append(time.time())
    if len(_done) >= _wanted:
        _ended.set()


def note(due: float) -> None:
    _done.append((time.time() - due) * 1000)
    if len(_done) >= _wanted:
        _ended.set()


def scheduler(directory: Path) -> Any:
    store = SQLAlchemyJobStore(url=f"sqlite:///{directory / 'jobs.db'}")

    @event.listens_for(store.engine, "connect")
    def durable(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    return BackgroundScheduler(
        jobstores={"default": store},
        executors={"default": ThreadPoolExecutor(64)},
        job_defaults={"misfire_grace_time": None},
        timezone=UTC,
    )


def fill(made: Any, n: int, trigger: str, **fields: Any) -> None:
    """Jobs in one transaction, as one after another they would take minutes."""
    made.start(paused=True)
    job = made.add_job(nothing, trigger, id="first", **fields)
    store = made._jobstores["default"]
    table = store.jobs_t
    state = job.__getstate__()
    with store.engine.begin() as connection:
        row = connection.execute(select(table)).mappings().one()
        rows = [
            {**row, "id": f"j{number}", "job_state": pickle.dumps({**state, "id": f"j{number}"})}
            for number in range(1, n)
        ]
        if rows:
            connection.execute(table.insert(), rows)


def _cost(n: int, seconds: float, directory: Path, *, each_second: bool) -> Figures:
    month = (datetime.now(UTC).month + 3) % 12 + 1
    apart(lambda: fill(scheduler(directory), n, "cron", month=month, day=1, hour=4))
    made = scheduler(directory)
    made.start()
    if each_second:
        made.add_job(nothing, "interval", seconds=1)
    return window(seconds)


def idle(n: int, seconds: float, directory: Path) -> Figures:
    return _cost(n, seconds, directory, each_second=False)


def each_second(n: int, seconds: float, directory: Path) -> Figures:
    return _cost(n, seconds, directory, each_second=True)


def burst(n: int, _seconds: float, directory: Path) -> Figures:
    global _wanted
    _wanted = n
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3 + n // 5_000)
    apart(lambda: fill(scheduler(directory), n, "date", run_date=due))
    made = scheduler(directory)
    made.start()
    _ended.wait(GIVE_UP_SECONDS)
    while made.get_jobs() and time.time() - due.timestamp() < GIVE_UP_SECONDS:
        time.sleep(0.05)
    seconds = max(time.time(), *_done) - due.timestamp()
    return {"seconds": seconds, "lost": n - len(_done), "twice": 0}


def lateness(n: int, _seconds: float, directory: Path) -> Figures:
    global _wanted
    import random

    _wanted = n
    made = scheduler(directory)
    made.start()
    first = datetime.now(UTC) + timedelta(seconds=3)
    for number in range(n):
        due = first + timedelta(milliseconds=150 * number + random.uniform(0, 100))
        made.add_job(note, "date", run_date=due, args=[due.timestamp()])
    _ended.wait(GIVE_UP_SECONDS)
    return late(_done)


def add(n: int, _seconds: float, directory: Path) -> Figures:
    made = scheduler(directory)
    made.start(paused=True)
    count = min(n, MOST_ADDED)
    start = time.perf_counter()
    for number in range(count):
        made.add_job(nothing, "cron", hour=4, minute=number % 60)
    return {"rate": count / (time.perf_counter() - start)}


if __name__ == "__main__":
    import sys

    # The jobs name their functions by module, and this one runs as __main__.
    sys.modules["tests.benchmarks.parties.apscheduler_"] = sys.modules["__main__"]
    main(
        {
            "idle": idle,
            "each_second": each_second,
            "burst": burst,
            "lateness": lateness,
            "add": add,
        }
    )

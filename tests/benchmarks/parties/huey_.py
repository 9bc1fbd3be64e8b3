"""huey: a consumer over SQLite, its schedule read once a second."""

import random
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from huey import SqliteHuey

from tests.benchmarks.party import Figures, apart, late, main, window

CONFIGURATION = (
    "SqliteHuey(fsync=True), 4 worker threads, scheduler interval 1 s (its shortest); tasks "
    "enqueued for their time, their results stored"
)
GIVE_UP_SECONDS = 200


class Party:
    """A huey, its consumer's threads, and what its tasks did."""

    def __init__(self, directory: Path, wanted: int = 0) -> None:
        self.huey = SqliteHuey(filename=str(directory / "huey.db"), fsync=True, utc=True)
        self.done: list[float] = []
        self.ended = threading.Event()
        self.nothing = self.huey.task()(self._nothing)
        self.note = self.huey.task()(self._note)
        self.wanted = wanted

    def _nothing(self) -> int:
        self.done.append(time.time())
        if len(self.done) >= self.wanted:
            self.ended.set()
        return 1  # None would not be stored

    def _note(self, due: float) -> None:
        self.done.append((time.time() - due) * 1000)
        if len(self.done) >= self.wanted:
            self.ended.set()

    def fill(self, n: int, eta: datetime) -> None:
        """Tasks for one time, in one transaction."""
        storage: Any = self.huey.storage
        rows = []
        for _ in range(n):
            task = self.nothing.s()
            task.eta = eta
            rows.append((self.huey.name, self.huey.serialize_task(task), eta.timestamp()))
        with storage.db(commit=True) as cursor:
            cursor.executemany(
                "INSERT INTO schedule (queue, data, timestamp) VALUES (?, ?, ?)", rows
            )

    def start(self) -> None:
        consumer = self.huey.create_consumer(workers=4, scheduler_interval=1)
        consumer._set_signal_handlers = lambda: None
        consumer.start()


def idle(n: int, seconds: float, directory: Path) -> Figures:
    later = datetime.utcnow() + timedelta(days=300)  # noqa: DTZ003 - huey's own form
    apart(lambda: Party(directory).fill(n, later))
    Party(directory).start()
    return window(seconds)


def each_second(n: int, seconds: float, directory: Path) -> Figures:
    now = datetime.utcnow()  # noqa: DTZ003
    apart(lambda: Party(directory).fill(n, now + timedelta(days=300)))
    party = Party(directory, wanted=1 << 30)
    for second in range(round(seconds) + 10):  # its periodic tasks know whole minutes only
        party.fill(1, now + timedelta(seconds=second))
    party.start()
    return window(seconds)


def burst(n: int, _seconds: float, directory: Path) -> Figures:
    due = datetime.utcnow().replace(microsecond=0) + timedelta(seconds=3 + n // 20_000)  # noqa: DTZ003
    apart(lambda: Party(directory).fill(n, due))
    party = Party(directory, wanted=n)
    party.start()
    party.ended.wait(GIVE_UP_SECONDS)
    while party.huey.result_count() < n and time.time() - _stamp(due) < GIVE_UP_SECONDS:
        time.sleep(0.01)
    stored = party.huey.result_count()
    return {"seconds": time.time() - _stamp(due), "lost": n - stored, "twice": 0}


def _stamp(due: datetime) -> float:
    return (due - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001


def lateness(n: int, _seconds: float, directory: Path) -> Figures:
    party = Party(directory, wanted=n)
    party.start()
    first = datetime.utcnow() + timedelta(seconds=2)  # noqa: DTZ003
    for number in range(n):
        due = first + timedelta(milliseconds=150 * number + random.uniform(0, 100))
        party.note.schedule(args=(_stamp(due),), eta=due)
    party.ended.wait(GIVE_UP_SECONDS)
    return late(party.done)


def add(n: int, _seconds: float, directory: Path) -> Figures:
    party = Party(directory)
    due = datetime.utcnow() + timedelta(days=300)  # noqa: DTZ003
    count = min(n, 10_000)
    start = time.perf_counter()
    for _ in range(count):
        party.nothing.schedule(eta=due)
    return {"rate": count / (time.perf_counter() - start)}


if __name__ == "__main__":
    main(
        {
            "idle": idle,
            "each_second": each_second,
            "burst": burst,
            "lateness": lateness,
            "add": add,
        }
    )

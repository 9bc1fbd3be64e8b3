"""Ordinary work for hours: memory, file descriptors and files must not grow.

Everything is looked at all along, and its last third held against its middle third, so that what
fills up once (caches, the pages of a ledger that is not yet as old as `--keep`) is no growth.
"""

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

from tests.faults.harness import LATE, Fleet
from tests.faults.registry import Row

RUNNERS = ("in-process", "in-process", "subprocess")
SCHEDULES = 1_000
LONG_ENOUGH_SECONDS = 900
"""Growth of less than a quarter of an hour cannot be told from warming up."""
GROWTH = 0.03
"""How much more is taken for chance."""
SLACK = {"memory": 2 << 20, "wal": 1 << 20, "file": 1 << 20, "descriptors": 1, "rows": 200}
"""The same for what is small: bytes, or how many."""
LIMITS = {"memory": 200 << 20, "wal": 32 << 20, "descriptors": 200}
"""What nothing may ever pass. SQLite begins to empty a WAL at 4 MiB."""


def soak(directory: Path, count: int, seed: int) -> Row:
    """Serve a thousand schedules for so many seconds."""
    return Soak(directory, seed).go(count, SCHEDULES, (20, 60))


class Soak:
    """Three runners on one database, and what is seen of them."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._fleet = Fleet(directory)
        self._seen: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        """By who and what: each value, in order."""

    def go(self, seconds: int, schedules: int, every: tuple[int, int]) -> Row:
        """Serve so many schedules, each with a period out of a span, seconds."""
        begin = time.time() + 1
        for number in range(schedules):
            period = self._rng.randint(*every)
            first = begin + period * self._rng.random()
            task = self._rng.choice(("jobs:note", "jobs:nap"))
            self._fleet.plan(
                *(f"s{number}", first, begin + seconds, period),
                **LATE | {"task_name": task},
            )
        self._fleet.add_planned()
        for broker in RUNNERS:
            self._fleet.fork("--keep", f"{max(2, seconds // 6)}s", broker=broker)
        while time.time() < begin + seconds:
            self._look()
            time.sleep(min(5, seconds / 30))
        self._fleet.settle()
        self._fleet.stop()
        return self._row(seconds)

    def _look(self) -> None:
        for number, process in enumerate(self._fleet.processes):
            for name, pid in ((f"runner {number}", process.pid), *_children(process.pid, number)):
                with suppress(OSError):
                    self._seen[name, "memory"].append(_memory(pid))
                    self._seen[name, "descriptors"].append(_count(f"/proc/{pid}/fd"))
        for name, path in ("file", self._fleet.path), ("wal", Path(f"{self._fleet.path}-wal")):
            with suppress(FileNotFoundError):
                self._seen["database", name].append(path.stat().st_size)
        rows = self._fleet.ask("SELECT count(*) FROM runs")[0][0]
        self._seen["database", "rows"].append(rows)

    # -- what came of it ------------------------------------------------------------------------

    def _row(self, seconds: int) -> Row:
        ran = self._fleet.ran()
        expected = {(name, us, 1) for name, times in self._fleet.firings.items() for us in times}
        broken = self._fleet.remains()
        if surplus := ran.keys() - expected:
            broken.append(f"{len(surplus)} runs should not have been, as {min(surplus)}")
        broken += self._excesses()
        if seconds >= LONG_ENOUGH_SECONDS:
            broken += self._growth()
        return Row(
            count=seconds,
            expected=len(expected),
            lost=len(expected - ran.keys()),
            doubled=sum(times > 1 for times in ran.values()),
            violations=tuple(broken),
            figures=self._figures(),
        )

    def _excesses(self) -> Iterator[str]:
        for (who, what), values in self._seen.items():
            if max(values) > LIMITS.get(what, max(values)):
                yield f"{who}: {what} was {max(values):,}"

    def _growth(self) -> Iterator[str]:
        for (who, what), values in self._seen.items():
            third = len(values) // 3
            middle, last = median(values[third : 2 * third]), median(values[2 * third :])
            if last > middle * (1 + GROWTH) + SLACK[what]:
                yield f"{who}: {what} grew from {middle:,.0f} to {last:,.0f}"

    def _figures(self) -> Counter[str]:
        """What was reached at the end: of runners the most, of all else as it is."""
        found: Counter[str] = Counter()
        for (_, what), values in self._seen.items():
            found[f"{what} at most"] = max(found[f"{what} at most"], *values)
        return found


def _children(pid: int, number: int) -> Iterator[tuple[str, int]]:
    """The process that a runner forks its tasks from, where it has one."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield f"child of {number}", int(child)


def _memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _count(directory: str) -> int:
    return sum(1 for _ in Path(directory).iterdir())

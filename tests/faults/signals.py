"""Signals that a process may hear of, or not: SIGSTOP and SIGCONT, SIGTERM, and a second one."""

import heapq
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.harness import LATE, Fleet, Process
from tests.faults.queue_broker import TRACE
from tests.faults.registry import Row

QUEUE = "tests.faults.queue_broker:broker"
STOP_ROUND = 50
TERM_ROUND = 50


# -- SIGSTOP --------------------------------------------------------------------------------------


def stop(directory: Path, count: int, seed: int) -> Row:
    """Processes that are stopped, some for longer than it takes others to start their firings."""
    total = Row(count=0)
    for number, done in enumerate(range(0, count, STOP_ROUND)):
        rng = random.Random(f"{seed} {number}")
        brokers = (QUEUE,) if number % 3 == 2 else ("in-process", "subprocess")
        place = directory / f"round{number}"
        total += Stops(place, rng, brokers).go(min(STOP_ROUND, count - done))
    return total


class Stops:
    """One database, and processes of which some are always stopped."""

    def __init__(
        self,
        directory: Path,
        rng: random.Random,
        brokers: Sequence[str],
        *,
        overdue_seconds: float = 5,
    ) -> None:
        self._rng = rng
        self._brokers = brokers
        self._overdue_seconds = overdue_seconds
        self._fleet = Fleet(directory)
        if QUEUE in brokers:
            (directory / TRACE).touch()

    def go(self, stops: int) -> Row:
        """Stop them so often, about two at any time, for 0.1 s to 1.6 times the overdue limit."""
        lengths = [self._length(index) for index in range(stops)]
        seconds = 1 + sum(lengths) / 2
        begin = time.time() + 0.4
        for number in range(10):
            first = begin + self._rng.random()
            self._fleet.add(f"s{number}", first, first + seconds, **LATE)
        for _ in range(5):
            self._fork()
        time.sleep(max(0.0, begin - time.time()))
        self._strike(lengths)
        self._fleet.settle()
        self._fleet.stop()
        return self._row(stops)

    def _length(self, index: int) -> float:
        if index % 5 == 0:
            return self._overdue_seconds * self._rng.uniform(1.2, 1.6)
        return self._rng.uniform(0.1, 0.4 * self._overdue_seconds)

    def _fork(self) -> None:
        overdue = {"TEST_OVERDUE_US": str(round(self._overdue_seconds * 1e6))}
        self._fleet.fork(broker=self._rng.choice(self._brokers), environment=overdue)

    def _strike(self, lengths: Sequence[float]) -> None:
        """At most two are stopped at a time."""
        going_on: list[tuple[float, int, Process]] = []
        awake = list(self._fleet.processes)
        for index, length in enumerate(lengths):
            while len(going_on) >= 2:
                self._wake_next(going_on, awake)
            process = awake.pop(self._rng.randrange(len(awake)))
            process.send_signal(signal.SIGSTOP)
            heapq.heappush(going_on, (time.time() + length, index, process))
            time.sleep(self._rng.uniform(0, 0.1))
        while going_on:
            self._wake_next(going_on, awake)

    @staticmethod
    def _wake_next(going_on: list[tuple[float, int, Process]], awake: list[Process]) -> None:
        moment, _, process = heapq.heappop(going_on)
        time.sleep(max(0.0, moment - time.time()))
        process.send_signal(signal.SIGCONT)
        awake.append(process)

    def _row(self, stops: int) -> Row:
        account, broken = self._fleet.account(), self._fleet.remains()
        return Row(
            count=stops,
            expected=account.expected,
            lost=len(account.lost),
            doubled=len(account.doubled),
            abandoned=account.statuses["abandoned"],
            violations=(*broken, *account.violations("succeeded", "sent")),
        )


# -- SIGTERM --------------------------------------------------------------------------------------

DRAIN_SECONDS = 1
LONG_SECONDS = 30
"""What some tasks take: to wait for their end would be seen."""
AT_ONCE_SECONDS = 10
"""An end that took longer waited for a task, however slow the machine."""


@dataclass
class _Ending:
    """A process that was asked to end."""

    process: Process
    served: bool
    """Whether it had begun to serve; before that, a signal ends it as it would anything."""
    asked: float
    second_at: float | None = None
    second: signal.Signals | None = None


def term(directory: Path, count: int, seed: int) -> Row:
    """Processes that are asked to end, some of them twice."""
    total = Row(count=0)
    for number, done in enumerate(range(0, count, TERM_ROUND)):
        rng = random.Random(f"{seed} {number}")
        place = directory / f"round{number}"
        total += Terms(place, rng).go(min(TERM_ROUND, count - done))
    return total


class Terms:
    """One database, and processes that are asked to end and are replaced."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._rng = rng
        self._fleet = Fleet(directory)
        self._endings: list[_Ending] = []
        self._broken: list[str] = []
        self._ended: Counter[str] = Counter()

    def go(self, signals: int) -> Row:
        """Ask so many to end, four a second; every third of them a second time."""
        seconds = max(2.0, signals / 4)
        begin = time.time() + 0.4
        for number, length in enumerate([0, 0, 0.3, 0.3, *[LONG_SECONDS] * 4]):
            first = begin + self._rng.random()
            task: dict[str, Any] = {"task_name": "jobs:nap", "kwargs": {"seconds": length}}
            self._fleet.add(f"s{number}", first, first + seconds, **LATE | task)
        for _ in range(4):
            self._fork()
        for index in range(signals):
            self._follow(begin + seconds * (index + self._rng.random()) / signals)
            self._ask(twice=index % 3 == 2)
        while self._endings:
            self._follow(time.time() + 0.01)
        self._fleet.settle(running_too=False)
        self._fleet.stop()
        return self._row(signals)

    def _fork(self) -> None:
        options = ("--drain", f"{DRAIN_SECONDS}s", "--concurrency", "64")
        self._fleet.fork(*options, broker=self._rng.choice(("in-process", "subprocess")))

    def _ask(self, *, twice: bool) -> None:
        process = self._fleet.alive().pop(self._rng.randrange(len(self._fleet.processes)))
        served = (process.pid,) in self._fleet.ask("SELECT pid FROM owners")
        process.send_signal(signal.SIGTERM)
        ending = _Ending(process, served, time.time())
        if twice:
            ending.second_at = ending.asked + self._rng.uniform(0, 0.4)
            ending.second = self._rng.choice((signal.SIGTERM, signal.SIGINT))
        self._endings.append(ending)
        self._fork()

    def _follow(self, until: float) -> None:
        """See to those that are ending, up to a moment."""
        while True:
            for ending in list(self._endings):
                if ending.second and ending.second_at and ending.second_at < time.time():
                    ending.process.send_signal(ending.second)
                    ending.second_at = None
                if ending.process.poll() is not None:
                    self._endings.remove(ending)
                    self._judge(ending)
            if time.time() >= until:
                return
            time.sleep(0.01)

    def _judge(self, ending: _Ending) -> None:
        status, seconds = ending.process.returncode, time.time() - ending.asked
        allowed = {0}
        if ending.second:
            allowed.add(128 + ending.second)
        if not ending.served:
            allowed |= {-signal.SIGTERM, -(ending.second or 0)}
        if status not in allowed:
            self._broken.append(f"a process ended with {status}, and not with one of {allowed}")
        if seconds > DRAIN_SECONDS + AT_ONCE_SECONDS:
            self._broken.append(f"a process took {seconds:.0f} s to end")
        self._ended[f"exit {status}"] += 1
        longest = self._ended["ms at most"]
        self._ended["ms at most"] = max(longest, round(1000 * seconds))

    def _row(self, signals: int) -> Row:
        account, broken = self._fleet.account(), self._fleet.remains()
        return Row(
            count=signals,
            expected=account.expected,
            lost=len(account.lost),
            doubled=len(account.doubled),
            abandoned=account.statuses["abandoned"],
            violations=(*self._broken, *broken, *account.violations("succeeded", "cancelled")),
            figures=self._ended,
        )

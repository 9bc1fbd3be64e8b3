"""kill -9: at random moments, and at named points, before and after each commit and each send.

Four to eight processes serve one database. Most are told to kill themselves at the n-th passage
of a point, and any may be killed from outside at any moment; each is replaced at once.
"""

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.forked import Forked
from tests.faults.harness import LATE, Firing, Fleet, Process
from tests.faults.queue_broker import TRACE
from tests.faults.registry import Row
from tests.faults.victim import POINTS, KillAt

ROUND = 150
"""Kills that one database goes through."""
KILLS_PER_SECOND = 8
SCHEDULES = 40
BATCH = 100
"""Messages that a crash may send a second time, at most."""
QUEUE = "tests.faults.queue_broker:broker"

Policies = dict[str, Any]
_PLAIN: tuple[Policies, ...] = ({}, {}, {"max_runs": 3})
_LOCAL: tuple[Policies, ...] = (
    *_PLAIN,
    {"kwargs": {"seconds": 0.3}},
    {"kwargs": {"seconds": 0.1}, "overlap": "buffer-all"},
    {"kwargs": {"fails": 1}, "retries": 2, "retry_delay": 1},
    {"kwargs": {"seconds": 0.2}, "task_name": "jobs:nap"},
)


@dataclass
class Toll:
    """Who died, and where."""

    by_point: Counter[str] = field(default_factory=Counter)
    pids: dict[int, str] = field(default_factory=dict)

    def enter(self, process: Process, point: str) -> None:
        self.by_point[point] += 1
        self.pids[process.pid] = point

    @property
    def kills(self) -> int:
        return self.by_point.total()


def local(directory: Path, count: int, seed: int) -> Row:
    """Brokers that run tasks: nothing is lost, and nothing runs twice."""
    return _add_up(_rounds(directory, count, seed, ("in-process", "subprocess"), _LOCAL))


def queue(directory: Path, count: int, seed: int) -> Row:
    """A queue, which gets what was on its way again, with the same task id, and nothing else."""
    return _add_up(_rounds(directory, count, seed, (QUEUE,), _PLAIN))


def queue_at_most_once(directory: Path, count: int, seed: int) -> Row:
    """A queue that gets nothing again: what was on its way ends as abandoned."""
    options = ("--delivery", "at-most-once")
    return _add_up(_rounds(directory, count, seed, (QUEUE,), _PLAIN, options))


def _rounds(
    directory: Path,
    count: int,
    seed: int,
    brokers: Sequence[str],
    kinds: Sequence[Policies],
    options: Sequence[str] = (),
) -> Iterable[Row]:
    for number, done in enumerate(range(0, count, ROUND)):
        rng = random.Random(f"{seed} {number}")
        place = directory / f"round{number}"
        with Fleet(place) as fleet:
            yield Round(fleet, rng, brokers, kinds, options).go(min(ROUND, count - done))


class Round:
    """One database, and those that die on it."""

    def __init__(
        self,
        fleet: Fleet,
        rng: random.Random,
        brokers: Sequence[str],
        kinds: Sequence[Policies],
        options: Sequence[str],
    ) -> None:
        self._rng = rng
        self._brokers = brokers
        self._kinds = kinds
        self._options = options
        self._fleet = fleet
        self._toll = Toll()
        self._resends = QUEUE in brokers and not options
        self._good = {"abandoned"}
        self._good |= {"sent"} if QUEUE in brokers else {"succeeded", "failed"}
        if self._resends:
            self._good.remove("abandoned")
        if QUEUE in brokers:
            (fleet.directory / TRACE).touch()

    def go(self, kills: int) -> Row:
        seconds = max(1.0, kills / KILLS_PER_SECOND)
        begin = time.time() + 0.4
        for number in range(SCHEDULES):
            first = begin + self._rng.random()
            policies = LATE | self._kinds[number % len(self._kinds)]
            self._fleet.add(f"s{number}", first, first + seconds - 1, **policies)
        for _ in range(self._rng.randint(4, 8)):
            self._start()
        self._strike(kills, begin, seconds)
        self._disarm()
        self._fleet.settle()
        self._fleet.stop()
        return self._row()

    def _strike(self, kills: int, begin: float, seconds: float) -> None:
        while self._toll.kills < kills:
            time.sleep(0.02 * self._rng.random())
            self._bury()
            # Those that kill themselves count; where they are too few, others help them.
            if self._toll.kills < kills * (time.time() - begin) / seconds:
                self._kill(self._rng.choice(self._fleet.processes))
                self._start()

    def _start(self) -> None:
        kill_at = None
        if self._rng.random() < 0.8:
            point = self._rng.choice(POINTS)
            kill_at = KillAt(point, self._rng.randint(1, 6 if point.endswith("commit") else 3))
        broker, room = self._rng.choice(self._brokers), self._rng.choice("124")
        self._fleet.fork(
            *("--concurrency", room, *self._options),
            broker=broker,
            kill_at=kill_at,
            environment={"TEST_CHECKPOINT": self._rng.choice(("1", "20", "1000"))},
        )

    def _bury(self) -> None:
        """Replace those that killed themselves."""
        for process in list(self._fleet.processes):
            if process.poll() is not None:
                assert isinstance(process, Forked)
                assert process.returncode == -signal.SIGKILL, self._last_words(process)
                point = process.kill_at.point if process.kill_at else "from outside"
                self._enter(process, point)
                self._start()

    def _kill(self, process: Process) -> None:
        process.kill()
        process.wait(20)
        self._enter(process, "from outside")

    def _enter(self, process: Process, point: str) -> None:
        self._toll.enter(process, point)
        self._fleet.processes.remove(process)

    def _last_words(self, process: Forked) -> str:
        log = (self._fleet.directory / "log.txt").read_text(errors="replace")
        return f"exit status {process.returncode}: {log[-2000:]}"

    def _disarm(self) -> None:
        """Let nobody die any more, and two go on."""
        for process in list(self._fleet.processes):
            self._kill(process)
        for _ in range(2):
            self._fleet.fork(*self._options, broker=self._brokers[0])

    # -- what came of it ------------------------------------------------------------------------

    def _row(self) -> Row:
        fleet, toll = self._fleet, self._toll
        account, broken = fleet.account(), fleet.remains()
        abandoned, again = account.statuses["abandoned"], 0
        if self._resends:
            messages = read_messages(fleet.directory / TRACE)
            account.doubled = sorted(outside_the_window(messages, toll))
            broken += wrong_messages(messages)
            again = sum(len(each) - 1 for each in messages.values())
            if again < toll.by_point["after-send"]:
                broken.append(f"{toll.by_point}, and {again} messages were sent again")
        elif abandoned < toll.by_point["before-send"] + toll.by_point["after-send"]:
            broken.append(f"{toll.by_point}, and {abandoned} runs were abandoned")
        return Row(
            count=toll.kills,
            expected=account.expected,
            lost=len(account.lost),
            doubled=len(account.doubled),
            abandoned=abandoned,
            violations=(*broken, *account.violations(*self._good)),
            figures=toll.by_point + Counter({"sent again": again}),
        )


# -- a queue's messages ---------------------------------------------------------------------------


class Message(NamedTuple):
    """A line of the queue."""

    pid: int
    """Who sent it."""
    task_id: str
    turns: int
    """How many turns its sender put on record once the queue had answered."""


def read_messages(path: Path) -> dict[Firing, list[Message]]:
    """What a queue got, in order."""
    found: defaultdict[Firing, list[Message]] = defaultdict(list)
    turns: Counter[str] = Counter()
    answered: dict[tuple[str, ...], int] = {}
    for line in reversed(path.read_text().splitlines()):
        kind, pid, *words = line.split()
        if kind == "turn":
            turns[pid] += 1
        elif kind == "answered":
            answered[pid, *words] = turns[pid]
        else:
            name, us, task_id = words
            since = answered.get((pid, *words), 0)
            found[name, int(us)].insert(0, Message(int(pid), task_id, since))
    return found


def outside_the_window(messages: Mapping[Firing, Sequence[Message]], toll: Toll) -> set[Firing]:
    """Firings that were sent again though their sender lived, or had put them on record.

    The turn that was under way when the queue answered says nothing of it; the next one does.
    """
    found = set()
    died: defaultdict[int, list[Firing]] = defaultdict(list)
    for firing, each in messages.items():
        for message in each[:-1]:
            died[message.pid].append(firing)
            if message.pid not in toll.pids or message.turns > 1:
                found.add(firing)
    return found.union(*(firings for firings in died.values() if len(firings) > BATCH))


def wrong_messages(messages: Mapping[Firing, Sequence[Message]]) -> list[str]:
    """A firing has one task id, which no other has."""
    ids = {(message.task_id, firing) for firing, each in messages.items() for message in each}
    if len(ids) == len(messages) == len({task_id for task_id, _ in ids}):
        return []
    return [f"{len(messages)} firings were sent with {len(ids)} task ids"]


def _add_up(rows: Iterable[Row]) -> Row:
    total = Row(count=0)
    for number, row in enumerate(rows):
        named = (f"round {number}: {violation}" for violation in row.violations)
        total += replace(row, violations=tuple(named))
    return total

"""People at the command line, and somebody who prunes, racing four runners on one database.

What each schedule meant at each moment is known from the people's own notes, to the length of the
command that changed it; the ledger is read as it goes, before it is pruned, and what it says in
the end must be that: each firing once, none that was not to be, and no row changed after its end.
"""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from sqlsched.clock import SystemClock
from sqlsched.storage import pruning
from sqlsched.storage.connection import open_for_writing
from sqlsched.storage.pruning import Cut
from tests.faults.harness import Fleet
from tests.faults.registry import Row
from tests.servers import ROOT

USERS = 3
_LEAD_US = SystemClock.lead_us
"""A start is on record so long before its time, and a change that comes after that leaves it."""
RUNNERS = ("in-process", "in-process", "in-process", "subprocess")
_ENDED = """SELECT schedule_id, scheduled_us, attempt, manual_key, last_us, count, status,
    started_us, finished_us, reason FROM runs WHERE finished_us IS NOT NULL"""


def races(directory: Path, count: int, seed: int) -> Row:
    """Race for so many seconds."""
    with Fleet(directory) as fleet:
        return Race(fleet, seed).go(count)


class Entry(NamedTuple):
    """A row of the ledger."""

    schedule_id: str
    scheduled_us: int
    attempt: int
    manual_key: int
    last_us: int | None
    firings: int
    status: str
    started_us: int | None
    finished_us: int | None
    reason: str | None

    @property
    def key(self) -> tuple[str, int, int, int]:
        return self[:4]


class Auditor:
    """Reads the ledger again and again, and remembers what has ended."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self.ended: dict[tuple[str, int, int, int], Entry] = {}
        self.problems: Counter[str] = Counter()

    def look(self, kept_from_us: int) -> None:
        """Read it all. What ended since `kept_from_us` must still be there."""
        there = {row[:4]: Entry(*row) for row in self._connection.execute(_ENDED)}
        for key, before in self.ended.items():
            now = there.get(key)
            if now is None and (before.finished_us or 0) > kept_from_us:
                self.problems[f"a row vanished: {before}"] += 1
            elif now is not None and now != before and before.attempt:
                self.problems[f"a row changed after its end: {before}, {now}"] += 1
        self.ended |= there

    def close(self) -> None:
        self._connection.close()


class Race:
    """One of them."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._seed = seed
        self._rng = random.Random(seed)
        self._fleet = fleet
        self._users_ended: list[int] = []

    def go(self, seconds: float) -> Row:
        database = open_for_writing(self._fleet.path, create=True)
        keep_us = round(max(1.5, min(30, seconds / 10)) * 1e6)
        for broker in RUNNERS:
            self._fork(broker)
        users = [self._user(number, seconds) for number in range(USERS)]
        auditor = Auditor(self._fleet.path)
        pruned = 0
        while any(user.poll() is None for user in users):
            before_us = time.time_ns() // 1000 - keep_us
            auditor.look(before_us)
            pruned += pruning.prune(database, Cut(before_us, before_us), 0).pruned
            pruning.forget_changes(database, before_us)
            time.sleep(self._rng.uniform(0, 0.4))
            self._disturb()
        database.close()
        self._users_ended = [user.wait() for user in users]
        subprocess.run(
            [sys.executable, "-m", "sqlsched", "--db", str(self._fleet.path), "rm", "--all"],
            cwd=ROOT,
            stderr=self._fleet.log,
            check=True,
        )
        self._fleet.settle(20)
        auditor.look(time.time_ns() // 1000 - keep_us)
        auditor.close()
        self._fleet.stop()
        return self._row(seconds, auditor, pruned)

    def _fork(self, broker: str) -> None:
        self._fleet.fork("--concurrency", "16", broker=broker)

    def _disturb(self) -> None:
        """End a runner, in order or not, and start another; or stop one for a while."""
        runner = self._rng.choice(self._fleet.processes)
        fault = self._rng.choice((signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, None, None))
        if fault is None:
            return
        runner.send_signal(fault)
        if fault == signal.SIGSTOP:
            time.sleep(self._rng.uniform(0, 0.8))
            runner.send_signal(signal.SIGCONT)
        else:
            self._fork(self._rng.choice(RUNNERS))
            runner.wait(30)
            self._fleet.processes.remove(runner)

    def _user(self, number: int, seconds: float) -> subprocess.Popen[bytes]:
        words = (self._fleet.path, number, self._seed, seconds)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.user", *map(str, words)],
            cwd=ROOT,
            stdout=self._fleet.log,
            stderr=self._fleet.log,
        )

    def _row(self, seconds: float, auditor: Auditor, pruned: int) -> Row:
        notes, problems = read_notes(self._fleet.directory)
        entries = list(auditor.ended.values())
        verdict = hold_against(notes, entries)
        problems += verdict.problems + list(auditor.problems)
        problems += self._against_tasks(entries) + self._fleet.remains()
        problems += [f"a user ended with {code}" for code in self._users_ended if code]
        statuses = Counter(entry.status for entry in entries)
        ran = self._fleet.ran()
        return Row(
            count=round(seconds),
            expected=verdict.expected,
            lost=len(verdict.lost),
            doubled=sum(times > 1 for times in ran.values()),
            abandoned=statuses["abandoned"],
            violations=tuple(problems[:20]),
            figures=Counter(
                {"changes": len(notes), "runs": ran.total(), "rows": len(entries), "pruned": pruned}
            ),
        )

    def _against_tasks(self, entries: Sequence[Entry]) -> list[str]:
        """What tasks noted is what the ledger says of them."""
        ran = set(self._fleet.ran())
        started = {each.key[:3] for each in entries if each.started_us is not None}
        over = {each.key[:3] for each in entries if each.status in ("succeeded", "failed")}
        unknown, silent = sorted(ran - started), sorted(over - ran)
        found = [f"{len(unknown)} runs are not in the ledger, as {unknown[0]}"] if unknown else []
        return found + ([f"{len(silent)} never ran, as {silent[0]}"] if silent else [])


# -- what should have been ------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """What an id meant from some moment between two on."""

    id: str
    begun_us: int
    ended_us: int
    state: str
    every_us: int
    start_us: int

    def firings(self, after_us: int, before_us: int) -> range:
        """Its nominal times between two moments."""
        gone = max(0, -((self.start_us - after_us - 1) // self.every_us))
        return range(self.start_us + gone * self.every_us, before_us, self.every_us)

    def counts(self, first_us: int, last_us: int | None) -> int:
        """How many of its nominal times there are from one to another; 0 if these are none."""
        span_us = 0 if last_us is None else last_us - first_us
        fires = first_us >= self.start_us and (first_us - self.start_us) % self.every_us == 0
        return span_us // self.every_us + 1 if fires and span_us % self.every_us == 0 else 0


@dataclass
class Verdict:
    """What came of the notes."""

    expected: int
    lost: list[tuple[str, int]]
    problems: list[str]


def read_notes(directory: Path) -> tuple[list[Note], list[str]]:
    """What the users noted, in order, and what went wrong for them."""
    notes, problems = [], []
    for path in directory.glob("user*.jsonl"):
        for line in path.read_text().splitlines():
            note = json.loads(line)
            if "problem" in note:
                problems.append(note["problem"])
            else:
                begun, ended = (round(note[name] * 1e6) for name in ("begun", "ended"))
                every_us = round(note["every"] * 1e6)
                what = (note["state"], every_us, note["start_us"])
                notes.append(Note(note["id"], begun, ended, *what))
    return notes, problems


def hold_against(notes: Sequence[Note], entries: Sequence[Entry]) -> Verdict:
    """Hold the ledger against what schedules meant."""
    by_id: defaultdict[str, list[Note]] = defaultdict(list)
    for note in notes:
        by_id[note.id].append(note)
    verdict = Verdict(0, [], [])
    for name, mine in by_id.items():
        here = [each for each in entries if each.schedule_id == name and not each.manual_key]
        runs_at = {each.scheduled_us: each for each in here if each.attempt == 1}
        records = sorted((e.scheduled_us, e.last_us or 0) for e in here if e.attempt == 0)
        _find_lost(name, mine, runs_at, records, verdict)
        _find_invented(name, mine, here, verdict)
    return verdict


def _find_lost(
    name: str,
    notes: Sequence[Note],
    runs_at: Mapping[int, Entry],
    records: Sequence[tuple[int, int]],
    verdict: Verdict,
) -> None:
    """Each firing of a time when it is certain what the schedule meant is in the ledger, once."""
    for note, following in pairwise(notes):
        if note.state == "gone":
            continue
        for us in note.firings(note.ended_us, following.begun_us):
            verdict.expected += 1
            run = runs_at.get(us)
            ways = (run is not None) + sum(first <= us <= last for first, last in records)
            if not ways:
                verdict.lost.append((name, us))
            if ways > 1:
                verdict.problems.append(f"{name} at {us} is accounted for {ways} times")
            started = run is not None and run.started_us is not None
            if note.state == "paused" and started and us > note.ended_us + _LEAD_US:
                verdict.problems.append(f"{name} at {us} ran while it was paused")


def _find_invented(
    name: str, notes: Sequence[Note], entries: Sequence[Entry], verdict: Verdict
) -> None:
    """Nothing is in the ledger that the schedule did not mean at the time."""
    ends = [*(note.ended_us + _LEAD_US for note in notes[1:]), 1 << 62]
    for entry in entries:
        if not any(
            note.state != "gone"
            # A firing that was claimed ahead of its time may have been cancelled before it.
            and note.begun_us <= min(entry.scheduled_us, entry.finished_us or 0) <= end_us
            and note.counts(entry.scheduled_us, entry.last_us) == entry.firings
            for note, end_us in zip(notes, ends, strict=True)
        ):
            verdict.problems.append(f"{name} had no such firing: {entry}")

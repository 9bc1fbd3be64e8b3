"""A scheduler on a fake clock that is set, suspended, stopped and started again, and an account of
what it must have done.

The account knows where wall time went and what the policies promise (`Job`); which instants are
nominal it has from `tests/faults/nominal.py`. Nothing in it asks the program's planner.
"""

import asyncio
import random
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlsched import (
    InProcessBroker,
    ScheduledTask,
    Scheduler,
    SqliteScheduleSource,
    current_run,
)
from sqlsched.engine.scheduler import Options
from sqlsched.storage.connection import open_for_reading
from sqlsched.testing import FakeClock
from tests.faults.nominal import DAY, SECOND, Nominal, moment_of, us_of

ORIGIN = datetime(2026, 3, 2, 12, 0, 30, 600_000, tzinfo=UTC)
AHEAD = SECOND
"""Firings of the next second are claimed: from then on no step of the clock takes them back."""
KEEP_SECONDS = 200 * 365 * 86_400
"""Nothing is forgotten: the account is held against all of it."""


@dataclass
class Job:
    """One schedule, where wall time has taken it, and which of its firings must have run."""

    name: str
    nominal: Nominal
    fields: dict[str, Any]
    window: int | None = 60 * SECOND
    coalesce: str = "latest"
    jitter: int = 0
    must: set[int] = field(default_factory=set)
    may: set[int] = field(default_factory=set)
    """Claimed, and missed one by one as wall time leapt over them: they do not run any more."""
    decided_us: int = 0

    def passed(self, us: int) -> None:
        """Wall time went to `us` second by second, and was served."""
        self.must.update(self.nominal.between(self.decided_us, us))
        self.decided_us = max(self.decided_us, us)

    def leapt(self, us: int, *, served: bool) -> None:
        """Wall time went to `us` in one step; `served` by one that goes on with its claims, where
        one that is started, or another, looks at their age anew."""
        ahead_us = min(self.decided_us + AHEAD, us)
        claimed = self.nominal.between(self.decided_us, ahead_us)
        run = claimed if served else self._in_window(claimed, us)
        self.must.update(run)
        self.may.update(set(claimed) - set(run))
        rest = self.nominal.between(ahead_us, us)
        self.must.update(self._coalesced(self._in_window(rest, us)))
        self.decided_us = us

    def set_back(self, us: int) -> None:
        """Wall time was put back to `us`."""
        self.decided_us = us

    def _in_window(self, instants: Sequence[int], now_us: int) -> Sequence[int]:
        if self.window is None or not instants:
            return instants
        # The last ones: a range or a list, neither of which is gone through.
        low, high = 0, len(instants)
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if now_us - instants[middle] < self.window else (middle + 1, high)
            )
        return instants[low:]

    def _coalesced(self, instants: Sequence[int]) -> Sequence[int]:
        if self.coalesce == "all" or not instants:
            return instants
        return instants[-1:] if self.coalesce == "latest" else instants[:1]


@dataclass
class Result:
    """What courses come to."""

    cases: int = 0
    """How often the clock was set, or was found to be another than before."""
    firings: int = 0
    """Nominal instants that wall time passed, each accounted for once."""
    lost: list[tuple[str, int]] = field(default_factory=list)
    doubled: list[tuple[str, int]] = field(default_factory=list)
    years: float = 0.0

    def __add__(self, other: "Result") -> "Result":
        return Result(
            self.cases + other.cases,
            self.firings + other.firings,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.years + other.years,
        )

    def __str__(self) -> str:
        return (
            f"{self.cases} steps over {self.years:.2f} simulated years, {self.firings} firings "
            f"accounted for: lost {len(self.lost)}, doubled {len(self.doubled)}"
        )


class Course:
    """A world with jobs, in which the clock is mistreated; `async with` begins and ends it."""

    def __init__(
        self,
        path: Path,
        jobs: Sequence[Job],
        rng: random.Random,
        *,
        servers: int = 1,
        clock: FakeClock | None = None,
    ) -> None:
        self.path = path
        self.jobs = {job.name: job for job in jobs}
        self.rng = rng
        self.clock = clock or FakeClock(ORIGIN)
        self.broker = InProcessBroker()
        self.broker.tasks |= {"t:note": self._note, "t:fail": self._fail}
        self.source = SqliteScheduleSource(path, clock=self.clock)
        self.servers = servers
        self.calls: Counter[tuple[str, int]] = Counter()
        self.attempts: Counter[tuple[str, int, int]] = Counter()
        self.steps = 0
        self.lowest_us = self.clock.now_us()
        self._serving: list[tuple[Scheduler, asyncio.Task[None]]] = []

    async def _note(self) -> None:
        name, us, _ = _current()
        self.calls[name, us] += 1

    async def _fail(self) -> None:
        """Fails, and succeeds when it is tried again."""
        *_, attempt = current = _current()
        self.attempts[current] += 1
        if attempt == 1:
            raise RuntimeError("not yet")
        await self._note()

    # -- what happens ---------------------------------------------------------------------------

    async def __aenter__(self) -> "Course":
        await self.source.startup()
        await self.broker.startup()
        for job in self.jobs.values():
            fields = {"task_name": "t:note", "schedule_id": job.name} | job.fields
            schedule = ScheduledTask(**fields)
            await self.source.add_schedule(schedule)
            job.decided_us = self.clock.now_us()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self.broker.shutdown()
        await self.source.shutdown()

    async def start(self, *, accept_clock: bool = False) -> None:
        options = Options(keep_seconds=KEEP_SECONDS, accept_clock=accept_clock)
        for _ in range(self.servers):
            scheduler = Scheduler(self.broker, [], database=self.path, clock=self.clock)
            self._serving.append((scheduler, asyncio.create_task(scheduler.run(options=options))))
        for _ in range(5):  # until they are at work, and time stands still
            await asyncio.sleep(0)
        await self.settle()

    async def stop(self) -> None:
        serving, self._serving = self._serving, []
        for scheduler, _ in serving:
            scheduler.stop()
        for _, task in serving:
            await task
        self._passed()

    async def settle(self) -> None:
        """Let what a step caused be done; some microseconds pass."""
        await self.clock.sleep(self.rng.randrange(1, 900) / SECOND)
        self._passed()

    async def serve(self, seconds: float) -> None:
        """Wall time goes on second by second."""
        await self.clock.sleep(seconds + self.rng.randrange(1, 900) / SECOND)
        self._passed()

    async def step(self, seconds: int) -> None:
        """The clock is set while it is served."""
        self.steps += 1
        self._set(seconds)
        self._went(seconds, served=True)
        await self.settle()

    async def suspend(self, seconds: int) -> None:
        """The machine sleeps, and its monotonic clock goes on: wall time is elsewhere at once."""
        self.steps += 1
        self.clock.advance(seconds)
        self._went(seconds, served=True)
        await self.settle()

    async def outage(self, seconds: int, *, accept_clock: bool = False) -> None:
        """Nothing runs for a while; `seconds` may be negative, when the clock is set meanwhile."""
        await self.stop()
        self.steps += 1
        if seconds > 0:
            self.clock.advance(seconds)
        else:
            self._set(seconds)
        self._went(seconds, served=False)
        await self.start(accept_clock=accept_clock)

    async def boot_in_1970(self, outage: int) -> None:
        """A machine without a battery clock starts, and learns the time a while later."""
        await self.stop()
        self.steps += 1
        right_us = self.clock.now_us() + outage * SECOND
        before = self.calls.total()
        self._set((self.rng.randrange(1, 100) * SECOND - self.clock.now_us()) / SECOND)
        await self.start()
        minute = timedelta(minutes=1, seconds=self.rng.random()) / timedelta(seconds=1)
        await self.clock.sleep(minute)
        assert self.calls.total() == before, "it ran something in 1970"
        self._set((right_us - self.clock.now_us()) / SECOND)
        self._went(outage, served=False)
        await self.settle()

    def _set(self, seconds: float) -> None:
        if seconds > 0:
            self.clock.set_forward(seconds)
        else:
            self.clock.set_back(-seconds)

    def _passed(self) -> None:
        for job in self.jobs.values():
            job.passed(self.clock.now_us())

    def _went(self, seconds: int, *, served: bool) -> None:
        us = self.clock.now_us()
        self.lowest_us = min(self.lowest_us, us)
        for job in self.jobs.values():
            if seconds > 0:
                job.leapt(us, served=served and self.servers == 1)
            else:
                job.set_back(us)

    # -- what it comes to -----------------------------------------------------------------------

    def parked(self) -> list[str]:
        """Schedules that wait for later than their natural next firing."""
        soon_us = self.clock.now_us() + AHEAD
        found = []
        for name, next_us in self._read("SELECT schedule_id, next_us FROM schedules"):
            natural = _first_after(self.jobs[name].nominal, soon_us)
            if natural is None:
                continue
            done = (name, natural) in self.calls or natural in self.jobs[name].may
            if next_us > natural if next_us is not None else not done:
                found.append(name)
        return found

    def result(self, *, exact: bool = True) -> Result:
        """Hold the ledger, and what the tasks say, against what must have been; unless `exact`,
        only against the time that passed."""
        result = Result(self.steps, years=self.clock.monotonic() / 86_400 / 365)
        result.doubled = [firing for firing, count in self.calls.items() if count > 1]
        assert self.attempts.total() == len(self.attempts), "an attempt was made twice"
        for job in self.jobs.values():
            rows = self._read(
                """SELECT scheduled_us, attempt, status, last_us, count FROM runs
                   WHERE schedule_id = ? ORDER BY scheduled_us, attempt""",
                job.name,
            )
            ran = {us for name, us in self.calls if name == job.name}
            self._check_statuses(job, rows, ran)
            if exact and not job.jitter:  # who knows how long before a step it would have been due
                assert ran <= job.must | job.may, f"{job.name}: ran {ran - job.must - job.may}"
                result.lost += [(job.name, us) for us in sorted(job.must - job.may - ran)]
            result.firings += self._check_coverage(job, rows)
        return result

    def _check_statuses(self, job: Job, rows: list[Any], ran: set[int]) -> None:
        succeeded = {us for us, _, status, *_ in rows if status == "succeeded"}
        assert succeeded == ran, f"{job.name}: the ledger says otherwise than the tasks"
        for us, attempt, status, *_ in rows:
            if status in {"claimed", "waiting"} and attempt == 1:
                now_us = self.clock.now_us()
                assert now_us - job.jitter * SECOND < us <= now_us + AHEAD, f"{job.name}: {status}"
            else:
                assert status in {"succeeded", "failed", "missed", "skipped", "waiting"}, status

    def _check_coverage(self, job: Job, rows: list[Any]) -> int:
        now_us = self.clock.now_us()
        settled_us = now_us - job.jitter * SECOND
        return check_coverage(job.name, job.nominal, rows, self.lowest_us, (settled_us, now_us))

    def _read(self, query: str, *values: Any) -> list[Any]:
        with closing(open_for_reading(self.path)) as database:
            return database.execute(query, values).fetchall()


def check_coverage(
    name: str, nominal: Nominal, rows: list[Any], lowest_us: int, until_us: tuple[int, int]
) -> int:
    """Each nominal instant that wall time passed is in one row, and of what is to come the ledger
    knows only what ran. How many instants that is.

    `rows` are (scheduled, attempt, status, last, count) in their order. The last instant that was
    passed lies somewhere between the two of `until_us`.
    """
    accounted, behind_us = 0, lowest_us
    singles = [us for us, attempt, *_ in rows if attempt == 1]
    for first, attempt, _, last, count in rows:
        if attempt:
            continue
        last = first if last is None else last
        text = f"{name}: {count} from {moment_of(first)} to {moment_of(last)}"
        assert behind_us < first <= last <= until_us[1], f"{text} is out of order"
        among = bisect_right(singles, last) - bisect_left(singles, first)
        assert count == len(nominal.between(first - 1, last)) - among > 0, f"{text}; {among} ran"
        assert nominal.between(first - 1, first), text
        assert nominal.between(last - 1, last), text
        accounted, behind_us = accounted + count, last
    accounted += bisect_right(singles, until_us[1])
    low, high = (len(nominal.between(lowest_us, us)) for us in until_us)
    assert low <= accounted <= high, f"{name}: {accounted} accounted for of {low} to {high}"
    return accounted


def _current() -> tuple[str, int, int]:
    run = current_run()
    assert run is not None
    assert run.schedule_id is not None
    assert run.scheduled_for is not None
    return sys.intern(run.schedule_id), us_of(run.scheduled_for), run.attempt


def _first_after(nominal: Nominal, us: int) -> int | None:
    for days in (2, 62):
        if found := nominal.between(us, us + days * DAY):
            return found[0]
    return None

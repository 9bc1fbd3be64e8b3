"""`FakeClock`: a clock whose sleep jumps, so that a year of schedules runs in seconds."""

import asyncio
import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from sqlsched.clock import SLICE_SECONDS, Clock
from sqlsched.instants import SECOND_US, to_us

_NEVER_US = 2**61
"""Who waits for later than this waits for something else than time."""
_SETTLE_ROUNDS = 3
"""Rounds of the event loop that must pass without work before the clock jumps."""


@dataclass(eq=False)
class _Work:
    """Something in progress; `asleep` counts what within it waits on the clock."""

    asleep: int = 0


@dataclass(order=True)
class _Sleeper:
    until_us: int
    order: int
    done: asyncio.Future[None] = field(compare=False)
    work: _Work | None = field(compare=False)
    wakeup: asyncio.Event | None = field(compare=False)


_work: ContextVar[_Work | None] = ContextVar("sqlsched_fake_clock_work", default=None)


class FakeClock(Clock):
    """Time that passes only when nothing is left to do.

    Give it to a scheduler (`Scheduler(…, clock=FakeClock(start))`) and await `scheduler.run(
    until=…)`: the real loop runs, and whenever all of it waits, the clock jumps to the next
    moment that somebody waits for. A task sees the time of its firing in `clock.now()`, and may
    `await clock.sleep(seconds)` to take time itself. `start` is an aware datetime.
    """

    def __init__(self, start: datetime) -> None:
        if start.utcoffset() is None:
            raise ValueError(
                f"start {start!r}: give an aware datetime, like datetime(…, tzinfo=UTC)"
            )
        self._wall_us = to_us(start)
        self._elapsed_us = 0
        self._order = count()
        self._sleepers: list[_Sleeper] = []
        self._at_work: set[_Work] = set()
        self._checking = False

    def now_us(self) -> int:
        return self._wall_us

    def monotonic(self) -> float:
        return self._elapsed_us / SECOND_US

    def advance(self, duration: timedelta | float) -> None:
        """Let time pass at once (seconds, or a timedelta), as if the process had been busy."""
        self._pass(_us(duration))

    def set_back(self, duration: timedelta | float) -> None:
        """Put the wall clock back, as an administrator does: no time passes."""
        self._step(-_us(duration))

    def set_forward(self, duration: timedelta | float) -> None:
        """Put the wall clock forward, as an administrator does: no time passes."""
        self._step(_us(duration))

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await self._wait(self._wall_us + round(seconds * SECOND_US), None)
        await asyncio.sleep(0)

    async def reach(self, us: int) -> None:
        await self.sleep(min(us - self._wall_us, self.lead_us) / SECOND_US)

    async def wait(self, until_us: int, wakeup: asyncio.Event, poll: Callable[[], bool]) -> None:
        while not wakeup.is_set() and not poll() and self._wall_us < until_us:
            await self._wait(until_us, wakeup)
        await asyncio.sleep(0)

    @contextmanager
    def busy(self) -> Iterator[None]:
        work = _Work()
        self._at_work.add(work)
        token = _work.set(work)
        try:
            yield
        finally:
            _work.reset(token)
            self._at_work.discard(work)
            self._check_soon()

    async def _wait(self, until_us: int, wakeup: asyncio.Event | None) -> None:
        done = asyncio.get_running_loop().create_future()
        sleeper = _Sleeper(until_us, next(self._order), done, _work.get(), wakeup)
        heapq.heappush(self._sleepers, sleeper)
        if sleeper.work is not None:
            sleeper.work.asleep += 1
        self._check_soon()
        waiting = asyncio.ensure_future(wakeup.wait()) if wakeup is not None else None
        try:
            await asyncio.wait(
                [done, *([waiting] if waiting else [])],
                timeout=SLICE_SECONDS if waiting else None,
                return_when="FIRST_COMPLETED",
            )
        finally:
            if waiting is not None:
                waiting.cancel()
            if not done.done():
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)
                self._awake(sleeper)

    def _awake(self, sleeper: _Sleeper) -> None:
        if sleeper.work is not None:
            sleeper.work.asleep -= 1
        if not sleeper.done.done():
            sleeper.done.set_result(None)

    def _check_soon(self) -> None:
        if not self._checking and self._sleepers:
            self._checking = True
            asyncio.get_running_loop().call_soon(self._check, 0)

    def _check(self, rounds: int) -> None:
        if not self._is_quiet():
            self._checking = False
        elif rounds < _SETTLE_ROUNDS:
            asyncio.get_running_loop().call_soon(self._check, rounds + 1)
        else:
            self._checking = False
            self._jump()

    def _is_quiet(self) -> bool:
        return (
            bool(self._sleepers)
            and self._sleepers[0].until_us < _NEVER_US
            and all(work.asleep for work in self._at_work)
            and not any(s.wakeup is not None and s.wakeup.is_set() for s in self._sleepers)
        )

    def _jump(self) -> None:
        self._pass(max(0, self._sleepers[0].until_us - self._wall_us))

    def _pass(self, us: int) -> None:
        self._elapsed_us += us
        self._wall_us += us
        self._wake_due()

    def _step(self, us: int) -> None:
        self._wall_us += us
        for sleeper in self._sleepers:
            # A sleep is on elapsed time, which no step touches; who waits for a time of day looks
            # at the clock again.
            sleeper.until_us = self._wall_us if sleeper.wakeup else sleeper.until_us + us
        heapq.heapify(self._sleepers)
        self._wake_due()

    def _wake_due(self) -> None:
        while self._sleepers and self._sleepers[0].until_us <= self._wall_us:
            self._awake(heapq.heappop(self._sleepers))


def _us(duration: timedelta | float) -> int:
    if isinstance(duration, timedelta):
        return duration // timedelta(microseconds=1)
    return round(duration * SECOND_US)

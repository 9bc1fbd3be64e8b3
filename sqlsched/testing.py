"""`FakeClock`: a clock whose sleep jumps, so that a year of schedules runs in seconds."""

import asyncio
import heapq
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import datetime, timedelta
from itertools import count
from typing import NamedTuple

from sqlsched.clock import SLICE_SECONDS, Clock
from sqlsched.instants import SECOND_US, to_us

_NEVER_US = 2**61
"""Who waits for later than this waits for something else than time."""
_SETTLE_ROUNDS = 3
"""Rounds of the event loop that must pass without work before the clock jumps."""


class _Work(AbstractContextManager[None]):
    """Something in progress; `asleep` counts what within it waits on the clock."""

    def __init__(self, clock: "FakeClock") -> None:
        self._clock = clock
        self._outer: _Work | None = None
        self.asleep = 0

    def __enter__(self) -> None:
        self._outer = _work.get()
        _work.set(self)
        self._clock._at_work += 1

    def __exit__(self, *_: object) -> None:
        _work.set(self._outer)
        self._clock._at_work -= not self.asleep
        self._clock._check_soon()


class _Sleeper:
    """Somebody who sleeps for a while."""

    __slots__ = ("done", "is_awake", "order", "until_us", "work")

    def __init__(self, until_us: int, order: int, done: asyncio.Future[None]) -> None:
        self.until_us = until_us
        self.order = order
        self.done = done
        self.work = _work.get()
        self.is_awake = False

    def __lt__(self, other: "_Sleeper") -> bool:
        return (self.until_us, self.order) < (other.until_us, other.order)


class _Waiter(NamedTuple):
    """Somebody who waits for a time of day, or to be woken up before; `look` looks whether it is
    time."""

    until_us: int
    wakeup: asyncio.Event
    look: Callable[[], None]


_work: ContextVar[_Work | None] = ContextVar("sqlsched_fake_clock_work", default=None)


class FakeClock(Clock):
    """Time that passes only when nothing is left to do.

    Give it to a scheduler (`Scheduler(…, clock=FakeClock(start))`) and await `scheduler.run(
    until=…)`: the real loop runs, and whenever all of it waits, the clock jumps to the next
    moment that somebody waits for. A task sees the time of its firing in `clock.now()`, and may
    `await clock.sleep(seconds)` to take time itself; one that ends at an instant has ended when it
    is decided what begins at it. `start` is an aware datetime.
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
        """A heap."""
        self._waiters: list[_Waiter] = []
        """The few of them, in the order of their coming."""
        self._at_work = 0
        """How much work is in progress that does not sleep."""
        self._checking = False
        self._rounds = 0
        """How many rounds of the event loop have passed without work."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def now_us(self) -> int:
        return self._wall_us

    def monotonic(self) -> float:
        return self._elapsed_us / SECOND_US

    def advance(self, duration: timedelta | float) -> None:
        """Let time pass at once (seconds, or a timedelta), as if the process had been busy."""
        self._pass(_us(duration))
        self._soon(self._wake_due)

    def set_back(self, duration: timedelta | float) -> None:
        """Put the wall clock back, as an administrator does: no time passes."""
        self._step(-_us(duration))

    def set_forward(self, duration: timedelta | float) -> None:
        """Put the wall clock forward, as an administrator does: no time passes."""
        self._step(_us(duration))

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done = asyncio.get_running_loop().create_future()
        until_us = self._wall_us + round(seconds * SECOND_US)
        sleeper = _Sleeper(until_us, next(self._order), done)
        heapq.heappush(self._sleepers, sleeper)
        self._fall_asleep(sleeper.work)
        try:
            await done
        except BaseException:
            if not sleeper.is_awake:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)
                self._awake(sleeper.work)
            raise

    async def reach(self, us: int) -> None:
        await self.sleep(min(us - self._wall_us, self.lead_us) / SECOND_US)

    async def wait(self, until_us: int, wakeup: asyncio.Event, poll: Callable[[], bool]) -> None:
        if not (wakeup.is_set() or poll() or self._wall_us >= until_us):
            await self._wait(until_us, wakeup, poll)
        await asyncio.sleep(0)

    async def _wait(self, until_us: int, wakeup: asyncio.Event, poll: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle
        failure: Exception | None = None

        def look() -> None:
            nonlocal failure
            try:
                is_over = poll() or self._wall_us >= until_us
            except Exception as error:
                is_over, failure = True, error
            if is_over:
                wakeup.set()

        def look_again() -> None:  # in real time, as others may do something
            nonlocal timer
            look()
            timer = loop.call_later(SLICE_SECONDS, look_again)

        timer = loop.call_later(SLICE_SECONDS, look_again)
        work, waiter = _work.get(), _Waiter(until_us, wakeup, look)
        self._waiters.append(waiter)
        self._fall_asleep(work)
        try:
            await wakeup.wait()
        finally:
            timer.cancel()
            self._waiters.remove(waiter)
            self._awake(work)
        if failure is not None:
            raise failure

    def busy(self) -> AbstractContextManager[None]:
        return _Work(self)

    def _soon(self, callback: Callable[[], None]) -> None:
        """Call something in the event loop, wherever this is: a task may be in a thread."""
        if self._loop is not None and (self._sleepers or self._waiters):
            self._loop.call_soon_threadsafe(callback)

    def _fall_asleep(self, work: _Work | None) -> None:
        if work is not None:
            self._at_work -= not work.asleep
            work.asleep += 1
        self._check_soon()

    def _awake(self, work: _Work | None) -> None:
        if work is not None:
            work.asleep -= 1
            self._at_work += not work.asleep

    def _check_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._checking = loop, False
        self._rounds = 0
        if not self._checking and (self._sleepers or self._waiters):
            self._checking = True
            loop.call_soon(self._check)

    def _check(self) -> None:
        if not self._is_quiet():
            self._checking = False
        elif self._rounds < _SETTLE_ROUNDS:
            self._rounds += 1
            asyncio.get_running_loop().call_soon(self._check)
        else:
            self._checking = False
            self._jump()

    def _is_quiet(self) -> bool:
        return not self._at_work and not any(w.wakeup.is_set() for w in self._waiters)

    def _jump(self) -> None:
        next_us = min((waiter.until_us for waiter in self._waiters), default=_NEVER_US)
        if self._sleepers:
            next_us = min(next_us, self._sleepers[0].until_us)
        if next_us < _NEVER_US:
            self._pass(max(0, next_us - self._wall_us))
            self._wake_due()

    def _pass(self, us: int) -> None:
        self._elapsed_us += us
        self._wall_us += us

    def _step(self, us: int) -> None:
        self._wall_us += us
        for sleeper in self._sleepers:
            sleeper.until_us += us  # a sleep is on elapsed time, which no step touches
        self._soon(self._look_around)

    def _look_around(self) -> None:
        """Let all look at the clock who wait for a time of day."""
        for waiter in self._waiters:
            waiter.look()
        self._check_soon()

    def _wake_due(self) -> None:
        """Wake who has slept long enough; if nobody has, who waited for this moment.

        So what ends at an instant has ended when it is decided what begins at it.
        """
        is_waiters_turn = not self._sleepers or self._sleepers[0].until_us > self._wall_us
        while self._sleepers and self._sleepers[0].until_us <= self._wall_us:
            sleeper = heapq.heappop(self._sleepers)
            sleeper.is_awake = True
            self._awake(sleeper.work)
            if not sleeper.done.done():
                sleeper.done.set_result(None)
        if is_waiters_turn:
            for waiter in self._waiters:
                if waiter.until_us <= self._wall_us:
                    waiter.look()
        self._check_soon()


def _us(duration: timedelta | float) -> int:
    if isinstance(duration, timedelta):
        return duration // timedelta(microseconds=1)
    return round(duration * SECOND_US)

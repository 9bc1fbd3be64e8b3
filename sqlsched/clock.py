"""The only clock in the package: the one place that reads the time and the one that sleeps.

Everything else receives `now`. Tests pass a `sqlsched.testing.FakeClock`, whose sleep jumps.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from sqlsched.instants import from_us

if TYPE_CHECKING:
    import asyncio  # imported where it is used: short commands only ask for the time

SLICE_SECONDS = 0.95
"""The longest uninterrupted sleep. Wall time can be set, and the machine can be suspended, while
a timer sleeps: one long sleep is an hour late after a step forward and an hour early after a
step back. After each slice the engine also asks what no timer tells of: within a second."""

_LAST_SLICE_SECONDS = 0.995
"""A sleep that ends so soon is not cut in two: waking is most of what an idle second costs."""

_FINE_SECONDS = 0.002
"""The event loop's timers are this coarse (epoll counts whole milliseconds, rounded up)."""


_NOTHING = nullcontext()


class Clock(ABC):
    """What the engine needs of time."""

    lead_us: int = 0
    """How long before a firing its start is put on record, so that the task starts on the
    instant and not after a commit."""

    @abstractmethod
    def now_us(self) -> int:
        """Wall time, microseconds since the epoch, UTC."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds that no clock step touches; only differences mean anything."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Sleep on this clock."""

    @abstractmethod
    async def reach(self, us: int) -> None:
        """Wait for an instant that is at most `lead_us` ahead, exactly."""

    @abstractmethod
    async def wait(self, until_us: int, wakeup: "asyncio.Event", poll: Callable[[], bool]) -> None:
        """Return when `until_us` is reached, `wakeup` is set, or `poll` says so.

        `poll` is quick, and is asked within each second of real time. `wakeup` may be set when it
        returns, and is the caller's to clear.
        """

    def busy(self) -> AbstractContextManager[None]:
        """Work is in progress inside: a clock that jumps must not, unless the work sleeps."""
        return _NOTHING

    def now(self) -> datetime:
        """Wall time, aware, UTC."""
        return from_us(self.now_us())


class SystemClock(Clock):
    """Real time."""

    lead_us = 3000

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)

    async def reach(self, us: int) -> None:
        import asyncio

        # Should the clock be put back meanwhile, it is not waited for again.
        remaining = min(us - self.now_us(), self.lead_us) / 1e6
        if remaining > _FINE_SECONDS:
            await asyncio.sleep(remaining - _FINE_SECONDS)
            remaining = min(us / 1e6 - time.time(), _FINE_SECONDS)
        if remaining > 0:
            # Slept in the thread: exact, and shorter than a callback may take anyway. A timer
            # of the loop would start every firing up to a millisecond late.
            time.sleep(remaining)  # noqa: ASYNC251

    async def wait(self, until_us: int, wakeup: "asyncio.Event", poll: Callable[[], bool]) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle
        failure: Exception | None = None

        def look() -> None:
            nonlocal timer, failure
            try:
                remaining = 0.0 if poll() else (until_us - self.now_us()) / 1e6
            except Exception as error:
                remaining, failure = 0.0, error
            if remaining <= 0:
                wakeup.set()
            else:
                timer = loop.call_later(_slice(remaining), look)

        remaining = (until_us - self.now_us()) / 1e6
        if remaining <= 0 or wakeup.is_set():
            await asyncio.sleep(0)  # who has much to do lets the others run, too
            return
        timer = loop.call_later(_slice(remaining), look)
        try:
            # A look that finds nothing wakes no task: most of what an idle scheduler costs.
            await wakeup.wait()
        finally:
            timer.cancel()
        if failure is not None:
            raise failure


def _slice(remaining: float) -> float:
    return remaining if remaining <= _LAST_SLICE_SECONDS else SLICE_SECONDS


def now_us() -> int:
    """Wall time for short commands, which have no engine and no clock to pass around."""
    return SystemClock().now_us()


def pause(seconds: float) -> None:
    """Wait, in a short command that looks again and again."""
    time.sleep(seconds)


def wait_for_input(seconds: float, file: TextIO) -> str:
    """Wait so long, or until something is typed on a terminal: that, else an empty string."""
    import os
    import select

    if file.isatty() and not select.select([file], [], [], max(seconds, 0))[0]:
        return ""
    typed = os.read(file.fileno(), 1024) if file.isatty() else b""
    if not typed:  # there is no terminal, or no more
        pause(seconds)
    return typed.decode(errors="replace")

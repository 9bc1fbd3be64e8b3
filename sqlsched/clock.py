"""The only clock in the package: the one place that reads the time and the one that sleeps.

Everything else receives `now`. Tests pass a `sqlsched.testing.FakeClock`, whose sleep jumps.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from sqlsched.instants import from_us

if TYPE_CHECKING:
    import asyncio  # imported where it is used: short commands only ask for the time

SLICE_SECONDS = 0.5
"""The longest uninterrupted sleep. Wall time can be set, and the machine can be suspended, while
a timer sleeps: one long sleep is an hour late after a step forward and an hour early after a
step back. After each slice the engine also asks what no timer tells of."""

_FINE_SECONDS = 0.002
"""The event loop's timers are this coarse (epoll counts whole milliseconds, rounded up)."""


class Clock(ABC):
    """What the engine needs of time."""

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
    async def wait(self, until_us: int, wakeup: "asyncio.Event", poll: Callable[[], bool]) -> None:
        """Return when `until_us` is reached, `wakeup` is set, or `poll` says so.

        `poll` is quick, and is asked at once and then at least every half second of real time.
        """

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Work is in progress inside: a clock that jumps must not, unless the work sleeps."""
        yield

    def now(self) -> datetime:
        """Wall time, aware, UTC."""
        return from_us(self.now_us())


class SystemClock(Clock):
    """Real time."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)

    async def wait(self, until_us: int, wakeup: "asyncio.Event", poll: Callable[[], bool]) -> None:
        import asyncio

        while not wakeup.is_set() and not poll():
            remaining = (until_us - self.now_us()) / 1e6
            if remaining <= _FINE_SECONDS:
                # Slept in the thread: exact, and shorter than a callback may take anyway. A timer
                # of the loop would start every firing up to a millisecond late.
                time.sleep(max(0.0, remaining))  # noqa: ASYNC251
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(min(remaining - _FINE_SECONDS, SLICE_SECONDS)):
                    await wakeup.wait()
        await asyncio.sleep(0)


def now_us() -> int:
    """Wall time for short commands, which have no engine and no clock to pass around."""
    return SystemClock().now_us()


def pause(seconds: float) -> None:
    """Wait, in a short command that looks again and again."""
    time.sleep(seconds)

"""Daemon threads for plain functions, kept for the next call.

Not an executor of the standard library: the interpreter would wait for its threads at its end,
however stuck they are.
"""

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    context: contextvars.Context
    ended: asyncio.Future[tuple[Any, BaseException | None]]
    at_end: Callable[[], None] | None
    result: Any = None
    error: BaseException | None = None

    def work(self) -> None:
        try:
            self.result = self.context.run(self.function)
        except BaseException as error:
            self.error = error

    def settle(self) -> None:
        if self.at_end is not None:
            self.at_end()
        if not self.ended.done():  # else nobody waits any more
            self.ended.set_result((self.result, self.error))


class Threads:
    """As many threads as there are calls at once, for one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ended: deque[_Call] = deque()
        self._told = False
        """Whether the loop is about to look at the calls that have ended."""
        self._idle = 0

    async def run(
        self, function: Callable[[], Any], at_end: Callable[[], None] | None = None
    ) -> Any:
        """The result of `function` from a thread, in a copy of the caller's context.

        `at_end` is called on the loop once it has returned, even if nobody waits any more.
        """
        call = _Call(function, contextvars.copy_context(), self.loop.create_future(), at_end)
        self._calls.put(call)
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._work, name="sqlsched task", daemon=True).start()
        result, error = await call.ended
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Let idle threads end; busy ones stay with their call."""
        for _ in range(self._idle):
            self._calls.put(None)
        self._idle = 0

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.work()
            self._ended.append(call)
            del call  # what it refers to must not live until the next one comes
            if not self._told:
                self._told = True
                with suppress(RuntimeError):  # the loop is closed, so nobody waits
                    self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._told = False  # before looking: what ends from now on is told of again
        while self._ended:
            self._ended.popleft().settle()
            self._idle += 1

"""Running a scheduler as a program: signals in, exit status out."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

from sqlsched.engine.scheduler import Scheduler

_AT_ONCE_S = 3.0
"""How long a second signal leaves for recording that runs were stopped."""


def serve(scheduler: Scheduler, running: Coroutine[Any, Any, None]) -> int:
    """Run to the end; exit status 0, or 128 plus the signal that came twice."""
    return asyncio.run(_serve(scheduler, running))


async def _serve(scheduler: Scheduler, running: Coroutine[Any, Any, None]) -> int:
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        scheduler.stop(at_once=len(received) > 1)
        if len(received) == 2:
            loop.call_later(_AT_ONCE_S, os._exit, 128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await running
    code = 128 + received[1] if len(received) > 1 else 0
    if len(asyncio.all_tasks()) > 1:
        os._exit(code)  # a task that does not end would be waited for, for ever
    return code

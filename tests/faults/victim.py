"""A `run` process that the harness forks, and that can be told where to kill itself.

Nothing in the program knows of it: the few places that matter are wrapped here. Importing this
module imports the program, so that a process forked from one that has done so starts in
hundredths of a second: a kill then falls into its work and not into its imports.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlsched import InProcessBroker, SubprocessBroker
from sqlsched.cli import compose, logs, main, serve
from sqlsched.cli import run as run_command
from sqlsched.storage import claims
from sqlsched.storage.connection import Database
from tests.faults.queue_broker import TRACE, QueueBroker, trace

POINTS = ("before-commit", "after-commit", "before-send", "after-send")
IMPORTED_LATE = (compose, logs, serve, run_command)
"""What the program imports once it is called."""
_BROKERS: tuple[Any, ...] = (InProcessBroker, SubprocessBroker, QueueBroker)


class KillAt(NamedTuple):
    """The end of a process: at the n-th passage of a point."""

    point: str
    passage: int


def run(
    directory: str, words: list[str], environment: Mapping[str, str], kill_at: KillAt | None
) -> None:
    """Be `sqlsched …` in a directory, logging to log.txt there."""
    os.chdir(directory)
    os.environ.update(environment)
    log = os.open("log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)
    sys.argv[:] = ["sqlsched", *words]
    if kill_at is not None:
        _arm(_Fuse(*kill_at))
    if Path(TRACE).exists():
        _trace_turns()
    if overdue := os.environ.get("TEST_OVERDUE_US"):
        claims.OVERDUE_US = int(overdue)
    main(words)


class _Fuse:
    def __init__(self, point: str, passages: int) -> None:
        self._point = point
        self._left = passages

    def burn(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _arm(fuse: _Fuse) -> None:
    plain = Database.execute

    def execute(self: Database, statement: str, *values: Any) -> Any:
        if statement != "COMMIT":
            return plain(self, statement, *values)
        fuse.burn("before-commit")
        try:
            return plain(self, statement, *values)
        finally:
            fuse.burn("after-commit")

    Database.execute = execute  # type: ignore[assignment,method-assign]
    for broker in _BROKERS:
        broker.kick = _armed(broker.kick, fuse)


def _armed(kick: Callable[..., Awaitable[Any]], fuse: _Fuse) -> Callable[..., Awaitable[Any]]:
    async def armed(self: Any, message: Any) -> Any:
        fuse.burn("before-send")
        outcome = await kick(self, message)
        fuse.burn("after-send")
        return outcome

    return armed


def _trace_turns() -> None:
    """Note each turn that is on record, beside what was sent."""
    plain = claims.turn

    def turn(*arguments: Any) -> Any:
        done = plain(*arguments)
        trace("turn", os.getpid())
        return done

    vars(claims)["turn"] = turn

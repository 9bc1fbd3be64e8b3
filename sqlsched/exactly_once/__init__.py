"""Drop the second message with the same task id, which neither taskiq nor Celery does.

sqlsched sends at least once, always with the same task id for the same firing. In a worker,

    from sqlsched.exactly_once import SqliteSeen          # or .redis: RedisSeen
    from sqlsched.exactly_once.taskiq import exactly_once  # or .celery

    seen = SqliteSeen("/var/lib/shop/seen.db")

    @broker.task
    @exactly_once(seen)
    async def charge(order: int) -> None: ...

records the id before the body runs. A message whose id is on record is dropped: a line in the
log, no run, and the result of the first stays. If the body raises, the record is taken back, so
that the queue's own retry runs it again. A worker that dies in the body leaves the record: that
body is not run again. So a body is begun once, as long as ids are kept (`retention`, by default
7 days), and comes to its end once unless its worker dies. If the place for records cannot be
reached, the task fails before its body.
"""

import asyncio
import functools
import inspect
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlsched.clock import Clock, SystemClock
from sqlsched.durations import duration_seconds
from sqlsched.instants import SECOND_US
from sqlsched.storage.seen import SeenTable

log = logging.getLogger("sqlsched")

Function = TypeVar("Function", bound=Callable[..., Any])

RETENTION = timedelta(days=7)
"""How long an id is remembered: longer than a message may lie in its queue."""


class Seen(ABC):
    """Where the ids of tasks that have begun are on record. Used from any thread."""

    @abstractmethod
    def begin(self, key: str) -> bool:
        """Record a key, durably; False if it is on record. One of several callers gets True."""

    @abstractmethod
    def take_back(self, key: str) -> None:
        """Forget a key."""


class SqliteSeen(Seen):
    """Records in a SQLite file of its own, for workers on one machine.

    `retention` is int seconds or a timedelta.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention: int | timedelta = RETENTION,
        clock: Clock | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self._retention_us = duration_seconds(retention, "retention") * SECOND_US
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tables: dict[int, SeenTable] = {}

    def begin(self, key: str) -> bool:
        with self._lock:
            now_us = self._clock.now_us()
            return self._table().begin(key, now_us, now_us - self._retention_us)

    def take_back(self, key: str) -> None:
        with self._lock:
            self._table().take_back(key)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            table = self._tables.pop(os.getpid(), None)
            if table is not None:
                table.close()

    def _table(self) -> SeenTable:
        # One for each process: Celery's workers are forks, and a connection does not survive one.
        # That of the parent is kept, as closing it here would disturb the parent.
        pid = os.getpid()
        if pid not in self._tables:
            self._tables[pid] = SeenTable(self.path)
        return self._tables[pid]


Id = Callable[[dict[str, Any]], str | None]
"""The task id of the message that is being run, from the call's keywords; None outside a worker."""


def guarded(function: Function, seen: Seen, task_id: Id, dropped: Callable[[], Any]) -> Function:
    """`function`, plain or async, once for each task id; `dropped()` is the result of a repeat.

    For a queue that has no module here: `task_id` finds the id where that queue keeps it.
    """

    def key_of(kwargs: dict[str, Any]) -> str | None:
        found = task_id(kwargs)
        return found and f"{found} {function.__module__}.{function.__qualname__}"

    guard = _guard_async if inspect.iscoroutinefunction(function) else _guard_plain
    wrapper: Any = functools.wraps(function)(guard(function, seen, key_of, dropped))
    wrapper.__signature__ = inspect.signature(function, eval_str=True)
    guarded_function: Function = wrapper
    return guarded_function


def _guard_plain(body: Any, seen: Seen, key_of: Id, dropped: Callable[[], Any]) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        key = key_of(kwargs)
        if key is None:
            return body(*args, **kwargs)
        if not _begun(seen, key):
            return dropped()
        try:
            return body(*args, **kwargs)
        except BaseException:
            _take_back(seen, key)
            raise

    return run


def _guard_async(body: Any, seen: Seen, key_of: Id, dropped: Callable[[], Any]) -> Any:
    async def run(*args: Any, **kwargs: Any) -> Any:
        key = key_of(kwargs)
        if key is None:
            return await body(*args, **kwargs)
        if not await _begun_in_thread(seen, key):
            return dropped()
        try:
            return await body(*args, **kwargs)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(_take_back, seen, key))
            raise

    return run


async def _begun_in_thread(seen: Seen, key: str) -> bool:
    asking = asyncio.create_task(asyncio.to_thread(_begun, seen, key))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        await asyncio.wait([asking])
        if asking.exception() is None and asking.result():
            await asyncio.to_thread(_take_back, seen, key)  # its body will not begin
        raise


def _begun(seen: Seen, key: str) -> bool:
    if seen.begin(key):
        return True
    log.info("dropped, as a message with this task id was here before: %s", key)
    return False


def _take_back(seen: Seen, key: str) -> None:
    """What the body raised goes on its way, whatever happens here."""
    try:
        seen.take_back(key)
    except Exception:
        log.exception("a failed task stays on record, and a retry will be dropped: %s", key)

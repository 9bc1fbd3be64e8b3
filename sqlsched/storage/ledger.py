"""The ledger as the engine holds it: one connection, in one thread, one hop per transaction."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

from sqlsched.storage.connection import Database, data_version, open_for_writing
from sqlsched.storage.errors import SUSPECT, blaming

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """Runs storage functions in the database's thread; `async with` opens and closes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: aiosqlite.Connection | None = None
        self._database: Database | None = None
        self._seen: int | None = None

    async def __aenter__(self) -> "Ledger":
        # aiosqlite is handed the way to open, so that the connection belongs to its thread.
        self._connection = aiosqlite.Connection(self._open, iter_chunk_size=64)
        # A program that ends without closing must end: each transaction is whole either way.
        self._connection._thread.daemon = True
        try:
            await self._connection
        except BaseException:
            # Its thread says goodbye to the event loop, which must not be closed by then.
            await asyncio.to_thread(self._connection._thread.join, 5)
            self._connection = self._database = None
            raise
        return self

    async def __aexit__(self, _kind: object, error: object, _trace: object) -> None:
        try:
            if isinstance(error, SUSPECT):
                await self.run(_raise, error)  # as damage, if it is
        finally:
            if self._connection is not None:
                await self._connection.close()
            self._connection = self._database = None

    def _open(self) -> Database:
        self._database = open_for_writing(self.path, create=True)
        return self._database

    async def run(
        self, function: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `function` with the database, in its thread.

        A transaction once begun is seen through: cancellation comes after it, not amidst it.
        """
        assert self._connection is not None
        assert self._database is not None
        database, call = self._database, blaming(self._database)(function)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # The one door that aiosqlite has to its thread; its public calls are one statement each,
        # and a task for each call would cost three rounds of the event loop. It logs, at DEBUG, the
        # repr of what it calls: that of a lambda tells nothing of what schedules carry.
        self._connection._tx.put_nowait((future, lambda: call(database, *args, **kwargs)))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def changed(self) -> bool:
        """Whether anyone else has written since the last call, or the file may be another one now.

        Not while `run` is under way. Asked in the calling thread: it takes microseconds, where a
        hop would take a hundred.
        """
        assert self._database is not None
        if self._database.seal.differs():
            return True
        version = data_version(self._database)
        changed: bool = version != self._seen
        self._seen = version
        return changed


def _raise(_database: Database, error: Exception) -> None:
    raise error


class PrivateLedger(Ledger):
    """A copy that nobody else uses, to play with: nothing of it is made durable, and so nothing
    takes long, and functions run where they are called."""

    async def __aenter__(self) -> "PrivateLedger":
        self._database = open_for_writing(self.path, create=True, durable=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._database is not None
        self._database.close()
        self._database = None

    async def run(
        self, function: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        assert self._database is not None
        return function(self._database, *args, **kwargs)

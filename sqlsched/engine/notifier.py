"""Tells hooks and pings of what happened to runs, beside the loop and never in its way."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from sqlsched.clock import Clock
from sqlsched.engine.hooks import HookError, ping, ping_url, run_hook
from sqlsched.exceptions import SqlschedError
from sqlsched.scheduled_task import derive_task_id
from sqlsched.storage import telling
from sqlsched.storage.ledger import Ledger
from sqlsched.storage.telling import Untold
from sqlsched.storage.turn import Started

log = logging.getLogger("sqlsched")

AT_ONCE = 8
"""How many ends are told side by side."""
END_SECONDS = 30.0
"""How long telling may hold up the end of a scheduler; the next one goes on with it."""
START_SECONDS = 40.0
"""How long the ping of a start may hold up that of its end."""


class Notifier:
    """Takes ends from the ledger, tells, and writes down that it did."""

    def __init__(
        self,
        ledger: Ledger,
        owner: int,
        clock: Clock,
        app_dir: str,
        environment: Mapping[str, str],
        on_idle: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._owner = owner
        self._clock = clock
        self._app_dir = app_dir
        self._environment = environment
        self._on_idle = on_idle
        self._starts: dict[int, asyncio.Task[None]] = {}
        """The pings of starts that are under way, by run."""
        self._telling: asyncio.Task[None] | None = None
        self._more = False
        self._told: list[int] = []
        """Runs that were told of, and of which that is not on record yet."""

    @property
    def idle(self) -> bool:
        """Whether nothing is being told."""
        return self._telling is None and not self._starts

    def started(self, runs: Iterable[Started]) -> None:
        """Ping for the starts of these, where that is wanted."""
        for run in runs:
            if run.ping is not None and run.attempt == 1:
                task_id = derive_task_id(run.schedule_id, run.scheduled_us, run.manual_key)
                call = _ping_start(run.ping, task_id)
                task = asyncio.create_task(self._try("ping", run.run_id, call))
                task.add_done_callback(partial(self._forget, run.run_id))
                self._starts[run.run_id] = task

    def _forget(self, run_id: int, _: asyncio.Task[None]) -> None:
        del self._starts[run_id]
        self._on_idle()

    def tell(self) -> None:
        """There are ends to tell of."""
        self._more = True
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_all())

    async def end(self) -> None:
        """Finish telling, within bounds."""
        under_way = [*self._starts.values(), *([self._telling] if self._telling else [])]
        if not under_way:
            return
        _, late = await asyncio.wait(under_way, timeout=END_SECONDS)
        for task in late:
            task.cancel()
        if late:
            log.warning("hooks take long; the next scheduler goes on with them")
            await asyncio.wait(late)

    async def _tell_all(self) -> None:
        under_way: dict[asyncio.Task[None], int] = {}
        try:
            with self._clock.busy():
                while await self._take_more(under_way):
                    done, _ = await asyncio.wait(under_way, return_when="FIRST_COMPLETED")
                    self._told += [under_way.pop(task) for task in done]
                    await self._ledger.run(telling.told, self._told)
                    self._told.clear()
        except SqlschedError as error:
            log.warning("hooks have to wait: %s", error)
        finally:
            for task in under_way:
                task.cancel()
            self._telling = None
            self._on_idle()

    async def _take_more(self, under_way: dict[asyncio.Task[None], int]) -> bool:
        """Begin to tell what there is room for; False if nothing is left."""
        if self._more and len(under_way) < AT_ONCE:
            room = AT_ONCE - len(under_way)
            batch = await self._ledger.run(telling.take, self._owner, room)
            self._more = len(batch) == room
            for end in batch:
                under_way[asyncio.create_task(self._tell(end))] = end.run.run_id
        return bool(under_way)

    async def _tell(self, end: Untold) -> None:
        if end.event is None:
            return
        hook = end.hooks.get(f"on_{end.event}")
        if hook is not None:
            document = {"event": end.event, **end.run.to_json()}
            await self._try(f"on-{end.event}", end.run.run_id, self._hook(hook, document))
        if "ping" in end.hooks and end.event != "missed":
            await self._try("ping", end.run.run_id, self._ping(end))

    async def _hook(self, hook: str, document: dict[str, Any]) -> None:
        try:
            await run_hook(hook, document, self._app_dir, self._environment)
        except OSError as error:
            raise HookError(error.strerror or str(error)) from None

    async def _ping(self, end: Untold) -> None:
        run = end.run
        if start := self._starts.get(run.run_id):
            await asyncio.wait([start], timeout=START_SECONDS)
        what = ""
        if end.event == "failure":
            what = str(run.exit_code) if 0 < (run.exit_code or 0) < 256 else "fail"
        task_id = derive_task_id(run.schedule_id, run.scheduled_us, end.manual_key)
        body = end.tail or (run.error or "").encode()
        await ping(ping_url(end.hooks["ping"], what, task_id), body)

    async def _try(self, what: str, run_id: int, call: Coroutine[Any, Any, None]) -> None:
        """A hook's failure is said, and is nobody else's."""
        try:
            await call
        except HookError as error:
            log.warning("%s of run %d failed: %s", what, run_id, error)


async def _ping_start(url: str, task_id: str) -> None:
    await ping(ping_url(url, "start", task_id))

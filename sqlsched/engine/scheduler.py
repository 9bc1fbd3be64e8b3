"""`Scheduler`: a broker and the sources it serves, run by one loop over one ledger."""

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlsched.abc import Broker, ScheduleSource
from sqlsched.clock import Clock, SystemClock
from sqlsched.engine.dispatcher import Dispatcher
from sqlsched.engine.feeds import ASK_SECONDS
from sqlsched.engine.intake import Intake, MergeFunction
from sqlsched.engine.loop import Loop
from sqlsched.engine.notifier import Notifier
from sqlsched.engine.settings import Settings
from sqlsched.engine.steps import Steps
from sqlsched.engine.takeover import Peers
from sqlsched.exceptions import BrokerError, SqlschedError
from sqlsched.instants import checked_time, format_us, next_minute_us, to_us
from sqlsched.merge_functions import preserve_all
from sqlsched.observer import Observer
from sqlsched.serialization import shorten
from sqlsched.storage import highest_time, owners, set_back
from sqlsched.storage.connection import default_path
from sqlsched.storage.file_systems import shared_warning
from sqlsched.storage.ledger import Ledger, PrivateLedger
from sqlsched.supervisor import NOBODY, Supervisor

log = logging.getLogger("sqlsched")

END_SECONDS = 10
"""How long a source may take to shut down."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sqlsched run` lets one choose; durations in seconds, None is the default."""

    concurrency: int | None = None
    catchup_window: int | str | None = None
    drain_seconds: int = 30
    keep_seconds: int = 90 * 86_400
    keep_failed_seconds: int | None = None
    accept_clock: bool = False
    delivery: str = "at-least-once"
    app_dir: Path = Path()
    """Where hooks run, and hooks that are tasks are imported from."""
    hook_environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    observer: Observer = field(default_factory=Observer)
    supervisor: Supervisor = NOBODY
    private: bool = False
    """The ledger is a copy to play with; see `PrivateLedger`. Nobody gets up early for a firing,
    as no time is lost."""


class Scheduler:
    """Runs the schedules of its sources through its broker, and keeps the ledger of their runs.

    `database`, the ledger, is by default that of the first SqliteScheduleSource, else what
    `$SQLSCHED_DB` names, else `./sqlsched.db`. What it holds itself is always served; the lists
    of other sources are asked for each whole minute, merged by `merge_func` in the order of
    `sources`, and copied into it. A source without a clock takes the scheduler's.
    """

    def __init__(
        self,
        broker: Broker,
        sources: Sequence[ScheduleSource] = (),
        merge_func: MergeFunction = preserve_all,
        *,
        database: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        _check_parts(broker, sources, merge_func)
        self.broker = broker
        self.sources = list(sources)
        self.merge_func = merge_func
        self.clock = clock or SystemClock()
        self.database = Path(database) if database is not None else self._default_database()
        self._started = False
        self._up: list[ScheduleSource] = []
        """The sources that were started."""
        self._wakeup = asyncio.Event()
        self._stop_requested = False
        self._serving = False
        self._loop: Loop | None = None
        self._dispatcher: Dispatcher | None = None

    def _default_database(self) -> Path:
        own = [source.database for source in self.sources if source.database is not None]
        return own[0] if own else default_path()

    async def startup(self) -> None:
        """Start the broker and the sources. May be called again, also after `shutdown`."""
        await self._start_own()
        others = [source for source in self.sources if source.database is None]
        await asyncio.gather(*map(self._try_to_start, others))
        self._started = True

    async def _start_own(self) -> None:
        """Start what a run cannot do without; sources beside it are started as they are asked."""
        for source in self.sources:
            if source.database is not None:
                await self._start(source)
        await self.broker.startup()

    async def _try_to_start(self, source: ScheduleSource) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._start(source)
        except Exception as error:
            log.error("%s cannot start; a run tries again: %s", type(source).__name__, error)

    async def _start(self, source: ScheduleSource) -> None:
        if source not in self._up:
            source.clock = source.clock or self.clock
            await source.startup()
            self._up.append(source)

    async def shutdown(self) -> None:
        """Stop the sources and the broker. May be called again."""
        self._started = False
        try:
            while self._up:
                await _end(self._up.pop())
        finally:
            await self.broker.shutdown()

    def stop(self, *, at_once: bool = False) -> None:
        """Ask `run` to end: tasks are let finish for a while, or, `at_once`, stopped now."""
        self._stop_requested = True
        self._wakeup.set()
        if self._loop is not None:
            self._loop.stop()
        if at_once and self._dispatcher is not None:
            self._dispatcher.stop_all("shutdown", at_once=True)

    async def run(
        self,
        skip_first_run: bool = False,
        once: bool = False,
        until_idle: bool = False,
        until: datetime | None = None,
        *,
        options: Options | None = None,
    ) -> None:
        """Serve until stopped; or once; or until nothing is left to do, or until a time.

        Firings before `until` run, none at or after. When cancelled it drains, then lets the
        cancellation through. StorageError if the database cannot be opened, or is lost.
        """
        if self._serving:
            raise SqlschedError("this Scheduler runs already; make another one")
        self._serving = True
        self._wakeup = asyncio.Event()  # it belongs to this event loop
        until_us = None if until is None else to_us(checked_time(until, UTC, "until"))
        settings = Settings(once=once, until_idle=until_idle, until_us=until_us)
        try:
            await self._run(skip_first_run, settings, options or Options())
        finally:
            self._serving = self._stop_requested = False

    async def _run(self, skip_first_run: bool, settings: Settings, options: Options) -> None:
        serving = asyncio.create_task(self._serve(skip_first_run, settings, options))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self.stop()
            await self._wait_out(serving)
            raise

    async def _wait_out(self, serving: asyncio.Task[None]) -> None:
        """Wait for the drain; a second cancellation makes it short."""
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self.stop(at_once=True)
            if self._loop is None:  # it begins, or has ended: there is nothing to drain
                serving.cancel()
            await asyncio.wait([serving])

    async def _serve(self, skip_first_run: bool, settings: Settings, options: Options) -> None:
        with self.clock.busy():
            open_ledger = PrivateLedger if options.private else Ledger
            async with self._running(), open_ledger(self.database) as ledger:
                if not options.private and (warning := shared_warning(self.database)):
                    log.warning("%s", warning)
                options.supervisor.ready(f"serving {self.database}")
                peers = Peers(ledger, resend=options.delivery == "at-least-once")
                steps = Steps(self.clock)  # before it is asked for the time
                await self._check_clock(ledger, options)
                await peers.join(self.clock.now_us())
                try:
                    if skip_first_run:
                        settings = await self._skip_first_run(settings, options.supervisor)
                    await self._serve_as(peers, ledger, steps, settings, options)
                finally:
                    await peers.leave(self.clock.now_us())

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Start broker and sources, and stop them again if nobody had started them before."""
        was_started = self._started
        try:
            if not was_started:
                await self._start_own()
            yield
        finally:
            if not was_started:
                await self.shutdown()

    async def _serve_as(
        self, peers: Peers, ledger: Ledger, steps: Steps, settings: Settings, options: Options
    ) -> None:
        concurrency = options.concurrency or self.broker.default_concurrency
        resend = options.delivery == "at-least-once" and not self.broker.reports_completion
        intake = Intake(
            self.sources, self.merge_func, ledger, self.clock, self._start, resend=resend
        )
        dispatcher = Dispatcher(
            *(self.broker, intake, self.clock, concurrency, self._wakeup.set),
            resend=resend,
            observer=options.observer,
        )
        settings = settings.with_options(
            *(options.catchup_window, options.keep_seconds, options.keep_failed_seconds),
            early=not options.private,
        )
        notifier = Notifier(
            *(ledger, peers.owner, self.clock),
            *(str(options.app_dir.absolute()), options.hook_environment, self._wakeup.set),
        )
        loop = Loop(
            *(ledger, dispatcher, peers, intake, self.clock, steps, settings, self._wakeup),
            *(notifier, options.observer, options.supervisor),
        )
        self._loop, self._dispatcher = loop, dispatcher
        log.info("serving %s with %d at a time", self.database, concurrency)
        try:
            if not self._stop_requested:
                await loop.serve()
            options.supervisor.stopping()
            await loop.drain(options.drain_seconds)
        except BaseException:
            self.stop(at_once=True)
            await dispatcher.join()
            raise
        finally:
            await intake.end()
            await notifier.end()
            self._loop = self._dispatcher = None
        log.info("stopped serving %s", self.database)

    async def _skip_first_run(self, settings: Settings, supervisor: Supervisor) -> Settings:
        minute_us = next_minute_us(self.clock.now_us())

        def is_put_back() -> bool:
            return next_minute_us(self.clock.now_us()) < minute_us

        log.info("nothing is dispatched before %s", format_us(minute_us))
        await self._sleep_until(minute_us, supervisor, "waiting for the next minute", is_put_back)
        if is_put_back():
            return await self._skip_first_run(settings, supervisor)
        return settings.with_first_run(minute_us)

    async def _check_clock(self, ledger: Ledger, options: Options) -> None:
        """A machine without a battery clock starts in the past: wait until the clock is right."""
        highest_us = await ledger.run(highest_time.of_schedulers)
        changed_us = await ledger.run(highest_time.of_changes)
        now_us = self.clock.now_us()
        if max(highest_us, changed_us) <= now_us:
            return
        if not options.accept_clock and highest_us - now_us > owners.CLOCK_TOLERANCE_US:
            log.warning(
                "the clock says %s, but this database has seen %s: waiting for the clock to be "
                "set; if it is right, start with --accept-clock",
                *(format_us(now_us), format_us(highest_us)),
            )
            believed_us = highest_us - owners.CLOCK_TOLERANCE_US
            await self._sleep_until(believed_us, options.supervisor, "waiting for the clock")
            if self._stop_requested:
                return
        await ledger.run(set_back.pull_back, self.clock.now_us())

    async def _sleep_until(
        self,
        until_us: int,
        supervisor: Supervisor,
        why: str,
        is_in_vain: Callable[[], bool] = lambda: False,
    ) -> None:
        def is_over() -> bool:
            supervisor.alive(self.clock.monotonic(), lambda: why)
            return self._stop_requested or is_in_vain()

        while self.clock.now_us() < until_us and not is_over():
            self._wakeup.clear()
            await self.clock.wait(until_us, self._wakeup, is_over)


async def _end(source: ScheduleSource) -> None:
    try:
        async with asyncio.timeout(END_SECONDS):
            await source.shutdown()
    except Exception as error:
        log.error("%s did not shut down: %s", type(source).__name__, error or "no answer")


def _check_parts(broker: object, sources: object, merge_func: object) -> None:
    """Say at once what is of the wrong kind, not when the run begins."""
    if not isinstance(broker, Broker):
        raise BrokerError(
            f"the broker is of type {type(broker).__name__}; give a sqlsched Broker (TaskiqBroker "
            "and CeleryBroker make one of taskiq's and Celery's)"
        )
    if not isinstance(sources, Sequence):
        raise SqlschedError(f"sources is of type {type(sources).__name__}; give a list of sources")
    for source in sources:
        if not isinstance(source, ScheduleSource):
            raise SqlschedError(
                f"{shorten(source)} is no ScheduleSource (TaskiqScheduleSource makes one of "
                "taskiq's sources)"
            )
    if not callable(merge_func) or inspect.iscoroutinefunction(merge_func):
        raise SqlschedError(f"merge_func {shorten(merge_func)}: give a plain function of two lists")

"""What a scheduler serves: its sources, merged, copied into the ledger, and asked before a send."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlsched.abc import ClaimingSource, ScheduleSource
from sqlsched.clock import Clock
from sqlsched.engine.feeds import Asked, Circumstances, ClaimFeed, Feed
from sqlsched.exceptions import (
    ScheduledTaskCancelledError,
    ScheduleNotFoundError,
    SendTaskError,
    StorageError,
)
from sqlsched.instants import from_us
from sqlsched.merge_functions import preserve_all
from sqlsched.run_context import running
from sqlsched.scheduled_task import ScheduledTask, TaskMessage
from sqlsched.storage import mirror, schedules
from sqlsched.storage.ledger import Ledger
from sqlsched.storage.turn import Started

log = logging.getLogger("sqlsched")

OWN = ""
"""The name of schedules that the ledger itself holds."""
MERGED = "merge_func"
"""The name of schedules that only the merge function knows."""
_SETTLE_SECONDS = 5
HOOK_SECONDS = 60
"""How long a source may take before or after a send."""

MergeFunction = Callable[[list[ScheduledTask], list[ScheduledTask]], list[ScheduledTask]]
"""Called source by source, in order, with what was merged so far and what the next one lists."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """Why a run is not sent after all."""

    reason: str
    text: str | None = None


class Intake:
    """The sources of one scheduler while it runs."""

    def __init__(
        self,
        sources: Sequence[ScheduleSource],
        merge_func: MergeFunction,
        ledger: Ledger,
        clock: Clock,
        start: Callable[[ScheduleSource], Awaitable[None]],
        *,
        resend: bool,
    ) -> None:
        self._ledger = ledger
        self._merge_func = merge_func
        self._whole = merge_func is not preserve_all
        self._sources: dict[str, ScheduleSource] = {}
        self._order: list[str] = []
        self._lists: dict[str, Feed] = {}
        self._claims: dict[str, ClaimFeed] = {}
        self._known: dict[str, ScheduledTask] = {}
        self._named: set[tuple[str, str]] = set()
        self._stopped = asyncio.Event()
        self.merged_out: frozenset[str] = frozenset()
        self.news = self._whole
        """Whether there is something to `apply`."""
        for source in sources:
            name = self._name(source)
            self._order.append(name)
            self._sources.setdefault(name, source)
            if isinstance(source, ClaimingSource):
                self._claims[name] = ClaimFeed(source, name, clock, start, ledger, resend=resend)
            if name != OWN and (self._whole or name not in self._claims):
                self._lists[name] = Feed(source, name, clock, start)
        self.names = tuple(dict.fromkeys([OWN, *self._order, *([MERGED] if self._whole else [])]))
        """Whose schedules this scheduler serves."""

    def _name(self, source: ScheduleSource) -> str:
        if source.database is not None and source.database.resolve() == self._ledger.path.resolve():
            return OWN
        wanted = name = source.name or type(source).__name__
        number = 1
        while name in self._sources or name in (OWN, MERGED):
            number += 1
            name = f"{wanted}-{number}"
        return name

    # -- from beginning to end ------------------------------------------------------------------

    @property
    def _asked(self) -> list[Asked]:
        return [*self._lists.values(), *self._claims.values()]

    async def begin(self, circumstances: Circumstances, *, once: bool) -> None:
        """Ask every source from now on. For `once`, StorageError if one does not answer."""

        def on_news() -> None:
            self.news = True
            circumstances.on_news()

        noticing = replace(circumstances, on_news=on_news, served=frozenset(self.names))
        for asked in self._asked:
            asked.begin(noticing)
        if once or self._whole:
            await self._settle(None if once else _SETTLE_SECONDS)
        for asked in self._asked:
            if self._stopped.is_set():
                return
            if once and asked.error is not None:
                raise StorageError(f"{asked.name} cannot be asked for schedules: {asked.error}")

    async def _settle(self, seconds: float | None) -> None:
        async def all_settled() -> None:
            for asked in self._asked:
                await asked.settled.wait()

        waiting: asyncio.Task[Any] = asyncio.create_task(all_settled())
        stopped: asyncio.Task[Any] = asyncio.create_task(self._stopped.wait())
        done, _ = await asyncio.wait(
            [waiting, stopped], timeout=seconds, return_when="FIRST_COMPLETED"
        )
        for task in (waiting, stopped):
            task.cancel()
        if not done:
            log.warning("merging without the schedules of sources that have not answered yet")

    def stop(self) -> None:
        """Wait for no source any more."""
        self._stopped.set()

    async def end(self) -> None:
        """Ask no more, and give back what was claimed and not started."""
        for asked in self._asked:
            await asked.end()

    def is_idle(self) -> bool:
        """Whether every source has answered, and none has anything to come."""
        if self.news or any(asked.error or not asked.settled.is_set() for asked in self._asked):
            return False
        return not any(claim.outstanding for claim in self._claims.values()) and not self.due_by(
            2**62 - 1
        )

    def due_by(self, until_us: int) -> bool:
        """Whether a source that is claimed from has something due by then."""
        return any(claim.next_us <= until_us for claim in self._claims.values())

    def ledger_changed(self) -> None:
        """Somebody wrote to the ledger: what is merged of its own schedules may be another."""
        self.news = self.news or self._whole or bool(self._named)

    def runs_ended(self) -> None:
        """The ends of some runs are on record now."""
        for claim in self._claims.values():
            claim.runs_ended()

    def clock_set_back(self) -> None:
        """The clock was put back."""
        for asked in self._asked:
            asked.clock_set_back()

    # -- what is served -------------------------------------------------------------------------

    async def apply(self, now_us: int) -> None:
        """Merge what the sources list, and bring the copies in the ledger up to date."""
        self.news = False
        try:
            await self._apply(now_us)
        except BaseException:
            self.news = True
            raise

    async def _apply(self, now_us: int) -> None:
        if self._whole:
            await self._apply_merged(now_us)
        else:
            taken: set[str] = set()
            for name, feed in self._lists.items():
                if feed.schedules is not None:
                    await self._sync(name, self._not_in(taken, name, feed.schedules), now_us)

    async def _apply_merged(self, now_us: int) -> None:
        lists = [(name, await self._list(name)) for name in self._order]
        try:
            merged = self._merge(lists)
        except Exception:
            log.exception("the merge function failed; what was merged before stays")
            return
        owners = _attribute(merged, lists)
        indexed = {OWN, *self._claims}
        ids = {schedule.schedule_id for schedule in merged}
        everything = [s.schedule_id for name, found in lists if name in indexed for s in found]
        self.merged_out = frozenset(everything) - ids
        for claim in self._claims.values():
            claim.merged_out = self.merged_out
        self._warn_of_changes(owners, indexed, {id(s) for _, found in lists for s in found})
        taken: set[str] = set()
        for name in [*self._lists, MERGED]:
            if name not in indexed:
                mine = [schedule for schedule, owner in owners if owner == name]
                await self._sync(name, self._not_in(taken, name, mine), now_us)

    def _warn_of_changes(
        self, owners: Iterable[tuple[ScheduledTask, str]], indexed: set[str], listed: set[int]
    ) -> None:
        """What a source keeps itself can be left out, not changed."""
        for schedule, owner in owners:
            if owner in indexed and id(schedule) not in listed:
                key = ("changed", schedule.schedule_id)
                if key not in self._named:
                    self._named.add(key)
                    log.warning(
                        "the merge function changed schedule %s, which is served as %s has it: "
                        "such a schedule can be left out, not changed",
                        *(schedule.schedule_id, owner or "the database"),
                    )

    async def _list(self, name: str) -> list[ScheduledTask]:
        feed = self._lists.get(name)
        if feed is not None and feed.schedules is not None:
            return feed.schedules
        return await self._ledger.run(mirror.copied, name)

    def _merge(self, lists: Iterable[tuple[str, list[ScheduledTask]]]) -> list[ScheduledTask]:
        merged: list[ScheduledTask] = []
        for _, found in lists:
            merged = list(self._merge_func(merged, list(found)))
        wrong = [schedule for schedule in merged if not isinstance(schedule, ScheduledTask)]
        if wrong:
            raise TypeError(f"it returned {wrong[0]!r}, which is no ScheduledTask")
        return merged

    def _not_in(
        self, taken: set[str], name: str, found: Iterable[ScheduledTask]
    ) -> list[ScheduledTask]:
        """Those whose id is not taken: where two sources have one id, the first one's stands."""
        result = []
        for schedule in found:
            if schedule.schedule_id in taken:
                self._warn_of_twin(name, schedule.schedule_id)
            else:
                taken.add(schedule.schedule_id)
                result.append(schedule)
        return result

    async def _sync(self, name: str, wanted: list[ScheduledTask], now_us: int) -> None:
        synced = await self._ledger.run(mirror.sync, name, wanted, now_us)
        self._known.update((schedule.schedule_id, schedule) for schedule in wanted)
        for schedule_id in synced.refused:
            self._warn_of_twin(name, schedule_id)
        for schedule_id in synced.removed:
            self._known.pop(schedule_id, None)
        if synced.added or synced.changed or synced.removed:
            log.info(
                "%s: %d schedules added, %d changed, %d removed",
                *(name, len(synced.added), len(synced.changed), len(synced.removed)),
            )

    def _warn_of_twin(self, name: str, schedule_id: str) -> None:
        if (name, schedule_id) not in self._named:
            self._named.add((name, schedule_id))
            log.warning("%s: schedule %s is passed over, its id is taken", name, schedule_id)

    # -- before and after a send ----------------------------------------------------------------

    async def before_send(self, run: Started, message: TaskMessage) -> NotSent | None:
        """Ask the run's source whether it may go; SendTaskError if it cannot be asked."""
        source = self._sources.get(run.source)
        if isinstance(source, ClaimingSource) and run.attempt == 1 and not run.manual_key:
            try:
                reason = await source.start(run.schedule_id, run.scheduled_us)
            except Exception as error:
                raise SendTaskError(f"{run.source} cannot be asked: {error}") from error
            if reason == "removed":
                await self._ledger.run(mirror.forget, [run.schedule_id], run.due_us)
            if reason is not None:
                return NotSent(reason)
        if source is not None and _overrides(source, "pre_send"):
            try:
                await self._call(source.pre_send, run, message)
            except ScheduledTaskCancelledError as error:
                return NotSent("pre-send", str(error) or None)
        return None

    async def after_send(self, run: Started, message: TaskMessage) -> None:
        """Tell the run's source; what it makes of it is its own affair."""
        source = self._sources.get(run.source)
        if source is not None and _overrides(source, "post_send"):
            try:
                await self._call(source.post_send, run, message)
            except Exception:
                log.exception("run %d: post_send of %s failed", run.run_id, _title(source))

    async def _call(
        self,
        hook: Callable[[ScheduledTask], Awaitable[None] | None],
        run: Started,
        message: TaskMessage,
    ) -> None:
        schedule = await self._schedule(run, message)
        with running(message):
            try:
                answer = hook(schedule)
                if inspect.isawaitable(answer):
                    async with asyncio.timeout(HOOK_SECONDS):
                        await answer
            except SystemExit as error:  # it ends no scheduler, as it ends none from a task
                raise RuntimeError(f"it called exit({error.code})") from error

    async def _schedule(self, run: Started, message: TaskMessage) -> ScheduledTask:
        if run.schedule_id in self._known:
            return self._known[run.schedule_id]
        try:
            return (await self._ledger.run(schedules.get, run.schedule_id)).schedule
        except ScheduleNotFoundError:  # removed a moment ago: what is left of it is this firing
            return ScheduledTask(
                task_name=message.task_name,
                args=message.args,
                kwargs=message.kwargs,
                schedule_id=run.schedule_id,
                time=from_us(run.scheduled_us),
            )


def _attribute(
    merged: Iterable[ScheduledTask], lists: Sequence[tuple[str, list[ScheduledTask]]]
) -> list[tuple[ScheduledTask, str]]:
    """Each merged schedule with the source it came from: by identity, else by its id."""
    exact = {id(schedule): name for name, found in reversed(lists) for schedule in found}
    by_id = {s.schedule_id: name for name, found in reversed(lists) for s in found}
    return [(s, exact.get(id(s)) or by_id.get(s.schedule_id, MERGED)) for s in merged]


def _overrides(source: ScheduleSource, hook: str) -> bool:
    return getattr(type(source), hook) is not getattr(ScheduleSource, hook)


def _title(source: ScheduleSource) -> str:
    return source.name or type(source).__name__

"""The sources beside the ledger's own: each asked in a task of its own, so that a slow or failing
one keeps its last known schedules and holds up nobody.

`Feed` asks a source for its whole list, each whole minute. `ClaimFeed` asks one that several
machines share for the firings that are due, each second. What they bring is copied into the
ledger, where the loop finds what is due.
"""

import asyncio
import contextvars
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlsched import cancellation
from sqlsched.abc import ClaimingSource, ScheduleSource
from sqlsched.clock import Clock
from sqlsched.exceptions import SqlschedError
from sqlsched.instants import SECOND_US, next_minute_us
from sqlsched.planner import Claim, Moment
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.serialization import shorten
from sqlsched.storage import mirror
from sqlsched.storage.claims import AHEAD_US, FOREVER_US
from sqlsched.storage.ledger import Ledger

log = logging.getLogger("sqlsched")

ASK_SECONDS = 60
"""How long a source may take to answer."""
MAX_BACKOFF_S = 30
END_SECONDS = 5
_POLLS = 2
"""A clock polls at once, and then within each second: a source that claims is asked then."""
_NO_ROOM_US = SECOND_US // 20


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What feeds need to know of the loop they feed."""

    moment: Callable[[], Moment]
    room: Callable[[], int]
    """How many more firings may be claimed."""
    until_us: int | None
    """Firings at or after this are left alone."""
    on_news: Callable[[], None]
    served: frozenset[str] = frozenset()
    """The names of all sources of this scheduler."""


class Asked(ABC):
    """One source, and the task that asks it."""

    def __init__(
        self,
        source: ScheduleSource,
        name: str,
        clock: Clock,
        start: Callable[[ScheduleSource], Awaitable[None]],
    ) -> None:
        self.source = source
        self.name = name
        self.settled = asyncio.Event()
        """Set once the source has answered, or failed to."""
        self.error: Exception | None = None
        """Why it did not answer, the last time."""
        self._clock = clock
        self._start = start
        self._failures = 0
        self._ending = False
        self._wakeup = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, circumstances: Circumstances) -> None:
        """Ask from now on."""
        # In a context of its own: what waits here is not part of the work that started it.
        self._task = asyncio.create_task(
            self._serve(circumstances),
            name=f"schedules of {self.name}",
            context=contextvars.Context(),
        )

    async def end(self) -> None:
        """Ask no more."""
        self._ending = True  # a source may swallow the cancellation
        if self._task is not None:
            self._task.cancel()
            _, stuck = await asyncio.wait([self._task], timeout=END_SECONDS)
            if stuck:
                log.error("%s does not end, and is left behind", self.name)
            self._task = None

    async def _serve(self, circumstances: Circumstances) -> None:
        while not self._ending:
            self._wakeup.clear()
            with self._clock.busy():
                wake_us = await self._ask_once(circumstances)
            if wake_us is None or self._ending:
                return
            polls = iter(range(_POLLS))
            await self._clock.wait(
                wake_us,
                self._wakeup,
                lambda: self._polled(next(polls, _POLLS)),  # noqa: B023
            )

    def _polled(self, count: int) -> bool:  # noqa: ARG002
        return False

    def clock_set_back(self) -> None:
        """The clock was put back: the time for which this waits is far off, so it asks now."""
        self._wakeup.set()

    async def _ask_once(self, circumstances: Circumstances) -> int | None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._start(self.source)
                wake_us = await self._ask(circumstances)
        except asyncio.CancelledError:
            if self._ending or cancellation.is_asked_for():
                raise
            wake_us = self._fail(RuntimeError("it was cancelled"))
        except SystemExit as error:  # it ends no scheduler, as it ends none from a task
            wake_us = self._fail(RuntimeError(f"it called exit({error.code})"))
        except Exception as error:
            wake_us = self._fail(error)
        else:
            if self._failures:
                log.info("%s answers again", self.name)
            self._failures, self.error = 0, None
        if not self.settled.is_set():
            self.settled.set()
            circumstances.on_news()
        return wake_us

    def _fail(self, error: Exception) -> int:
        """Keep what is known, and say so: once, and again when the waiting has become long."""
        if isinstance(error, TimeoutError):
            error = TimeoutError(f"no answer within {ASK_SECONDS} s")
        text = " ".join(str(error).split()) or "no reason given"
        what = text if isinstance(error, SqlschedError) else f"{type(error).__name__}: {text}"
        delay_s: int = min(2**self._failures, MAX_BACKOFF_S)
        if self._failures == 0 or delay_s == MAX_BACKOFF_S:
            log.error(
                "%s cannot be asked for schedules, what is known of them stays; trying again, "
                "next in %d s: %s",
                *(self.name, delay_s, shorten(what, 500).strip("'\"")),
            )
        self._failures += 1
        self.error = error
        return self._clock.now_us() + delay_s * SECOND_US

    @abstractmethod
    async def _ask(self, circumstances: Circumstances) -> int | None:
        """Ask; when to ask again, or None for never."""


class Feed(Asked):
    """A source that is asked for its whole list."""

    schedules: list[ScheduledTask] | None = None
    """What it listed last; None before the first answer."""

    async def _ask(self, circumstances: Circumstances) -> int | None:
        listed = [_checked(schedule) for schedule in await self.source.get_schedules()]
        if listed != self.schedules:
            self.schedules = listed
            circumstances.on_news()
        return next_minute_us(self._clock.now_us()) if self.source.asked_again else None


def _checked(schedule: object) -> ScheduledTask:
    if isinstance(schedule, ScheduledTask):
        return schedule
    raise TypeError(f"get_schedules gave {shorten(schedule)}, which is no ScheduledTask")


class ClaimFeed(Asked):
    """A source that several machines share: firings are claimed from it as they come due."""

    next_us = FOREVER_US
    """When something of it is due next, as far as it said."""

    def __init__(
        self,
        source: ClaimingSource,
        name: str,
        clock: Clock,
        start: Callable[[ScheduleSource], Awaitable[None]],
        ledger: Ledger,
        *,
        resend: bool,
    ) -> None:
        super().__init__(source, name, clock, start)
        self._shared = source
        self._ledger = ledger
        self._resend = resend
        self._joined = False
        self._unwritten: list[Claim] = []
        """Claims that are not in the ledger yet."""
        self._clashing: set[str] = set()
        self._set_back = False
        self.merged_out: frozenset[str] = frozenset()

    @property
    def outstanding(self) -> bool:
        """Whether firings of it are going on here, as far as it knows."""
        return bool(self._shared.outstanding)

    async def end(self) -> None:
        """Ask no more, and let others have what was not started."""
        await super().end()
        if self._joined:
            self._joined = False
            try:
                async with asyncio.timeout(END_SECONDS):
                    await self._tend()
                    await self._shared.leave()
            except Exception as error:
                log.warning("%s: claims are left to expire: %s", self.name, error)

    def _polled(self, count: int) -> bool:
        return count >= _POLLS - 1 and not self._failures

    async def _ask(self, circumstances: Circumstances) -> int:
        if not self._joined or self._failures:
            await self._join()
        if self._set_back:
            await self._shared.pull_back(self._clock.now_us())
            self._set_back = False
        await self._tend()
        claimed, room = 0, circumstances.room()
        now_us = self._clock.now_us()
        last_us = now_us + AHEAD_US
        if circumstances.until_us is not None:
            last_us = min(last_us, circumstances.until_us - 1)
        if room > 0:
            claimed = await self._claim(circumstances, last_us, room)
        next_us = await self._shared.next_due_us()
        self.next_us = FOREVER_US if next_us is None else next_us
        if claimed >= room > 0:
            return now_us
        return max(self.next_us - AHEAD_US, now_us + _NO_ROOM_US)

    async def _join(self) -> None:
        owner = await self._ledger.run(mirror.ledger_id)
        await self._shared.join(owner, resend=self._resend)
        known = await self._ledger.run(mirror.shared, self.name)
        if gone := await self._shared.missing(known):
            await self._ledger.run(mirror.forget, gone, self._clock.now_us())
        self._joined = True

    async def _claim(self, circumstances: Circumstances, last_us: int, room: int) -> int:
        moment = circumstances.moment()
        claims = await self._shared.claim(moment, last_us, room, self._clashing)
        self._unwritten += claims
        if self._unwritten:
            refused = await self._ledger.run(
                mirror.adopt,
                self.name,
                self._unwritten,
                moment.now_us,
                served=circumstances.served - {self.name},
                merged_out=self.merged_out,
            )
            self._unwritten = []
            circumstances.on_news()
            if refused:
                await self._leave_to_others(refused)
        return sum(len(claim.firings) for claim in claims)

    async def _leave_to_others(self, ids: list[str]) -> None:
        """Ids that are taken in this ledger are claimed no more, and what was is given back."""
        for schedule_id in sorted(set(ids) - self._clashing):
            log.warning(
                "%s: schedule %s is left to other machines, its id is taken here",
                *(self.name, schedule_id),
            )
        self._clashing |= set(ids)
        await self._shared.leave()

    async def _tend(self) -> None:
        outstanding = set(self._shared.outstanding)
        live = await self._ledger.run(mirror.live, outstanding) if outstanding else set()
        now_us = self._clock.now_us()
        abandoned = await self._shared.tend(outstanding - live, now_us)
        if abandoned:
            await self._ledger.run(mirror.record_abandoned, self.name, abandoned, now_us)
        for schedule, _ in abandoned:
            log.warning(
                "a run of %s is abandoned: the machine that ran it is gone", schedule.schedule_id
            )

    def runs_ended(self) -> None:
        """Runs have ended, maybe of this source: let it know soon."""
        if self._shared.outstanding:
            self._wakeup.set()

    def clock_set_back(self) -> None:
        """The same, and the source is told of it."""
        self._set_back = True
        super().clock_set_back()

"""The loop: what time is it, what is due, start it, wait.

One turn is one transaction (`storage.claims.turn`); between turns the loop waits for the earliest
of the next firing, the end of a run, and a change of the database by someone else.
"""

import asyncio
import logging
from dataclasses import replace
from math import inf

from sqlsched.clock import Clock
from sqlsched.engine.backlog import Backlog
from sqlsched.engine.dispatcher import Dispatcher
from sqlsched.engine.events import describe, tell
from sqlsched.engine.feeds import Circumstances
from sqlsched.engine.flights import Report
from sqlsched.engine.intake import Intake
from sqlsched.engine.notifier import Notifier
from sqlsched.engine.retention import Retention
from sqlsched.engine.settings import Settings
from sqlsched.engine.steps import Steps
from sqlsched.engine.takeover import Peers
from sqlsched.engine.trouble import Trouble
from sqlsched.exceptions import StorageError
from sqlsched.instants import MINUTE_US, SECOND_US, from_us
from sqlsched.observer import Observer
from sqlsched.planner import Moment
from sqlsched.storage import claims, recovery, set_back
from sqlsched.storage.claims import FOREVER_US
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.ledger import Ledger
from sqlsched.storage.turn import Armed, Request, Turn
from sqlsched.supervisor import Supervisor

log = logging.getLogger("sqlsched")

GIVE_UP_SECONDS = 10.0


class Loop:
    """Serves one database until it is told to stop or has nothing left to do."""

    def __init__(
        self,
        ledger: Ledger,
        dispatcher: Dispatcher,
        peers: Peers,
        intake: Intake,
        clock: Clock,
        steps: Steps,
        settings: Settings,
        wakeup: asyncio.Event,
        notifier: Notifier,
        observer: Observer,
        supervisor: Supervisor,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._peers = peers
        self._intake = intake
        self._clock = clock
        self._settings = settings
        self._wakeup = wakeup
        self._notifier = notifier
        self._observer = observer
        self._supervisor = supervisor
        observer.begin(lambda: dispatcher.going, lambda: len(self._backlog))
        self._stopping = self._hurried = False
        self._backlog = Backlog()
        self._next_us = FOREVER_US
        """When the ledger has something due for us, as far as we know."""
        self._stale = True
        """Whether the ledger may have changed since it was asked."""
        self._looked = False
        """Whether the wait ended with a look."""
        self._seen_us = 0
        self._started_us = clock.now_us()
        self._serving_since_us = min(self._started_us, settings.not_before_us or FOREVER_US)
        self._steps = steps
        self._trouble = Trouble()
        self._retention = Retention(ledger, settings)

    def stop(self) -> None:
        """Claim and start nothing more; `serve` returns, and `drain` hurries."""
        self._stopping = self._hurried = True
        self._intake.stop()
        self._wakeup.set()

    async def serve(self) -> None:
        """Now, claim, dispatch, wait; until there is a reason to end."""
        await self._intake.begin(
            Circumstances(self._moment, self._room_ahead_or_now, self._limit_us(), self._refresh),
            once=self._settings.once,
        )
        while not self._stopping:
            self._wakeup.clear()
            await self._mend_clock()
            now_us = self._clock.now_us()
            if not self._looked:
                self._look(now_us)  # so that no turn claims what a source has just changed
            self._looked = False
            if self._is_time(now_us):
                await self._take_turn(now_us)
            if self._is_over(now_us) or await self._is_idle():
                return
            await self._clock.wait(self._wake_us(now_us), self._wakeup, self._poll)

    async def drain(self, seconds: float) -> None:
        """Start nothing more; wait for what runs, and record how it ended.

        Who was told to stop waits for so many seconds, then stops what still runs. What cannot be
        recorded within ten seconds of that is left to recovery.
        """
        self._stopping = True
        # On the monotonic clock: setting the other one neither cuts a drain short nor extends it.
        stop_at = give_up_at = inf
        while self._dispatcher.going or self._dispatcher.ended:
            self._wakeup.clear()
            await self._mend_clock()
            elapsed, now_us = self._clock.monotonic(), self._clock.now_us()
            if self._hurried:
                stop_at, self._hurried = elapsed + seconds, False
            if elapsed >= stop_at:
                self._dispatcher.stop_all("shutdown")
                stop_at, give_up_at = inf, elapsed + GIVE_UP_SECONDS
            if elapsed >= give_up_at:
                self._dispatcher.give_up()
                if self._trouble or not self._dispatcher.ended:
                    return
            if self._is_time(now_us):
                await self._take_turn(now_us)
                continue
            left_us = round(min(stop_at - elapsed, give_up_at - elapsed, 1e9) * SECOND_US)
            retry_us = self._trouble.retry_us if self._trouble else FOREVER_US
            await self._clock.wait(min(now_us + left_us, retry_us), self._wakeup, self._poll)

    # -- one turn -------------------------------------------------------------------------------

    async def _take_turn(self, now_us: int) -> None:
        report = self._dispatcher.take_report()
        request = self._request(now_us, report)
        self._stale = False  # what comes while it is under way makes it stale again
        try:
            if self._peers.somebody_died():
                await self._peers.take_over(now_us)
            if self._intake.news and not self._stopping:
                await self._intake.apply(now_us)
                request = replace(request, merged_out=self._intake.merged_out)
            turn = await self._ledger.run(claims.turn, request)
        except DamagedDatabaseError:
            raise
        except StorageError as error:
            self._stale = True
            self._dispatcher.give_back(report)
            self._backlog.arm(Armed(run_id, now_us) for run_id in request.due)
            self._trouble.note(now_us, error)
        else:
            self._apply(turn)
            if request.finished:
                self._intake.runs_ended()
            if request.heartbeat:
                self._seen_us = now_us
            if self._retention.is_due(now_us) and not self._steps.since_us():
                await self._retention.sweep(now_us, self._is_pressed)

    def _request(self, now_us: int, report: Report) -> Request:
        return Request(
            owner=self._peers.owner,
            token=self._peers.token,
            moment=self._moment(now_us),
            room=0 if self._stopping else self._dispatcher.room,
            ahead=-1 if self._stopping else self._room_ahead(),
            known_us=None if self._stale else self._next_us,
            alone=self._peers.alone,
            lead_us=self._clock.lead_us,
            due=self._take_due(now_us),
            finished=report.finished,
            printed=report.printed,
            processes=report.processes,
            refused=report.refused,
            heartbeat=now_us - self._seen_us >= MINUTE_US,
            reports_completion=self._dispatcher.reports_completion,
            until_us=self._limit_us(),
            sources=self._intake.names,
            merged_out=self._intake.merged_out,
        )

    def _moment(self, now_us: int | None = None) -> Moment:
        return Moment(
            self._clock.now_us() if now_us is None else now_us,
            self._serving_since_us,
            self._settings.not_before_us,
            self._settings.catchup_window,
        )

    def _refresh(self) -> None:
        """A source has news."""
        self._stale = True
        self._wakeup.set()

    def _apply(self, turn: Turn) -> None:
        if self._trouble:
            log.info("%s: writing again", self._ledger.path)
        self._trouble = Trouble()
        if turn.others is not None:
            self._peers.observe(turn.others)
        self._next_us = FOREVER_US if turn.next_us is None else turn.next_us
        if (limit_us := self._limit_us()) is not None and self._next_us >= limit_us:
            self._next_us = FOREVER_US
        self._backlog.arm(turn.armed)
        self._backlog.wait_for_room(turn.roomless)
        self._backlog.revoke(turn.revoked)
        tell(turn, self._observer)
        self._dispatcher.launch(turn.started)
        self._notifier.started(turn.started)
        if turn.untold:
            self._notifier.tell()
        for run_id, reason in turn.cancels:
            self._dispatcher.stop(run_id, reason)

    def _is_pressed(self) -> bool:
        """Whether something else is to be done in a moment."""
        next_us = min(self._next_us, self._start_us())
        return next_us - self._clock.now_us() < claims.AHEAD_US or self._wakeup.is_set()

    # -- when -----------------------------------------------------------------------------------

    def _is_time(self, now_us: int) -> bool:
        """Whether there is anything to do: a turn costs a commit."""
        if self._trouble:
            return now_us >= self._trouble.retry_us
        if self._stale or self._dispatcher.ended or self._dispatcher.dirty():
            return True
        return not self._stopping and min(self._claim_us(now_us), self._start_us()) <= now_us

    def _wake_us(self, now_us: int) -> int:
        """When it will be time, if nothing happens until then."""
        if self._trouble:
            return self._trouble.retry_us
        if self._stale:
            return now_us
        until_us = self._settings.until_us
        wake_us = min(self._claim_us(now_us), self._start_us())
        return wake_us if until_us is None or until_us <= now_us else min(wake_us, until_us)

    def _start_us(self) -> int:
        """When a claimed run is to be started, or told that it may not be."""
        return self._backlog.start_us(self._dispatcher.room) - self._clock.lead_us

    def _claim_us(self, now_us: int) -> int:
        """When to claim: ahead of the time while there is room to, at the time otherwise."""
        if self._settings.early and self._next_us > now_us and self._room_ahead():
            return self._next_us - claims.AHEAD_US
        return self._next_us if self._dispatcher.room else FOREVER_US

    def _room_ahead(self) -> int:
        room = self._backlog.room_ahead(self._dispatcher.concurrency, self._peers.alone)
        return 0 if self._settings.once else room

    def _room_ahead_or_now(self) -> int:
        return 0 if self._stopping else max(self._room_ahead(), self._dispatcher.room)

    def _limit_us(self) -> int | None:
        return self._started_us + 1 if self._settings.once else self._settings.until_us

    def _take_due(self, now_us: int) -> list[int]:
        soon_us, room = now_us + self._clock.lead_us, max(0, self._dispatcher.room)
        return [] if self._stopping else self._backlog.take(soon_us, room)

    def _poll(self) -> bool:
        """Whether something happened that no timer tells of. Microseconds to ask."""
        now_us = self._clock.now_us()
        self._look(now_us)
        self._looked = bool(self._steps.since_us()) or self._is_time(now_us)
        return self._looked

    def _look(self, now_us: int) -> None:
        self._supervisor.alive(self._clock.monotonic(), self._describe)
        try:
            if self._ledger.changed():
                self._stale = True
                self._intake.ledger_changed()
            self._stale = self._stale or self._peers.somebody_died()
        except StorageError as error:
            self._trouble.note(now_us, error)
        if now_us - self._seen_us >= MINUTE_US:
            self._stale = True

    def _describe(self) -> str:
        next_us = min(self._next_us, self._backlog.start_us(1))
        return describe(self._dispatcher.going, next_us, in_trouble=bool(self._trouble))

    # -- reasons to end -------------------------------------------------------------------------

    def _is_over(self, now_us: int) -> bool:
        # What came due before the time still runs, however long it has to wait for room.
        is_time = now_us >= (self._settings.until_us or FOREVER_US)
        return is_time and not self._backlog and self._next_us == FOREVER_US

    async def _is_idle(self) -> bool:
        if not (self._settings.once or self._settings.until_idle):
            return False
        if self._dispatcher.going or self._dispatcher.ended or self._trouble:
            return False
        if self._backlog or not self._notifier.idle:
            return False
        if self._settings.once:
            due = self._intake.due_by(self._started_us) or self._next_us <= self._started_us
            return not (due or self._intake.news)
        if self._next_us != FOREVER_US or not self._intake.is_idle():
            return False
        try:
            return await self._ledger.run(recovery.idle, self._intake.names)
        except StorageError as error:
            self._trouble.note(self._clock.now_us(), error)
            return False

    # -- the clock ------------------------------------------------------------------------------

    async def _mend_clock(self) -> None:
        """Notice that the clock was set: back, and nothing may be parked in the future; forward
        (or a suspend), and what was due meanwhile was missed."""
        while step_us := self._steps.take_us():  # none may be left when it is read next
            now_us = self._clock.now_us()  # not before: it could still be the time before the step
            step_s = step_us / SECOND_US
            log.warning("the clock was set by %+.1f s: it is %s now", step_s, from_us(now_us))
            self._stale, self._trouble.retry_us = True, 0
            if step_us > 0:
                self._serving_since_us = now_us
                self._retention.doubt(now_us)
            elif not await self._pull_back(now_us):
                self._steps.give_back(step_us)
                return

    async def _pull_back(self, now_us: int) -> bool:
        self._serving_since_us = min(self._serving_since_us, now_us)
        self._started_us = min(self._started_us, now_us)
        self._settings = self._settings.set_back(now_us)
        self._seen_us = 0
        self._intake.clock_set_back()
        try:
            await self._ledger.run(set_back.pull_back, now_us)
            self._backlog.rearm(await self._ledger.run(set_back.claimed, self._peers.owner))
        except DamagedDatabaseError:
            raise
        except StorageError as error:
            self._trouble.note(now_us, error)
            return False
        return True

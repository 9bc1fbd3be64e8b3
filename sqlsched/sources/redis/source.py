"""`RedisScheduleSource`: what a scheduler, and who adds schedules, calls."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlsched.abc import Claim, ClaimingSource, Identity
from sqlsched.clock import Clock, SystemClock
from sqlsched.instants import SECOND_US
from sqlsched.planner import Firing, Moment
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.redis import decisions, rows
from sqlsched.sources.redis.connection import Connection
from sqlsched.sources.redis.decisions import Planned
from sqlsched.sources.redis.rows import DAMAGED, Row
from sqlsched.sources.redis.store import Store

SKEW_US = 5 * SECOND_US
"""Machines' clocks differ by less; a clock that is further behind was put back."""


@dataclass(frozen=True, slots=True)
class _Expired:
    """A firing that was claimed by one who did not start it, and may be claimed by us."""

    row: Row
    scheduled_us: int
    due_us: int
    trigger: str
    dispatched: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """One step of claiming."""

    plans: list[Planned]
    expired: list[_Expired]

    def arguments(self, only_ask: bool) -> list[str]:
        """What the script is to be told."""
        result = [str(int(only_ask)), str(len(self.plans))]
        for found in self.plans:
            result += [found.row.schedule_id, found.row.text, rows.written_state(found.state)]
            wake_us = rows.wake_us(found.row.schedule, found.state)
            result += [_number(wake_us), found.state.version, str(len(found.firings))]
            for firing in found.firings:
                result += [str(firing.scheduled_us), str(firing.due_us), firing.trigger]
        return result + _flat((old.row.schedule_id, old.scheduled_us) for old in self.expired)


class RedisScheduleSource(ClaimingSource):
    """Schedules in one Redis, under keys that begin with `{prefix}:`.

    Schedulers that share it dispatch each firing once between them, whatever machines they run
    on. What is stored is as durable as Redis's append-only file is set to be. The connection
    belongs to one event loop at a time. What fails raises StorageError, and may be called again.
    """

    def __init__(self, url: str, prefix: str = "sqlsched", *, clock: Clock | None = None) -> None:
        self.clock = clock
        self.name = f"redis:{prefix}"
        self._connection = Connection(url, prefix)
        self._store = Store(self._connection)
        self._resend = False
        self._outstanding: dict[Identity, bool] = {}
        """What this process has claimed, and whether it has started it."""
        self._let_go: set[Identity] = set()
        """What was taken over from others, is over, and Redis has not been told."""
        self._unanswered: _Batch | None = None
        """A step of claiming whose outcome is not known."""

    async def startup(self) -> None:
        """Connect; StorageError if there is no Redis, or the keys are somebody else's."""
        await self._connection.open()

    async def shutdown(self) -> None:
        """Disconnect. What was claimed stays claimed as long as its lease lasts: see `leave`."""
        await self._connection.close()

    async def get_schedules(self) -> list[ScheduledTask]:
        """Every schedule that is not done, in the order of their making."""
        found = [row async for page in self._store.pages() for row in page]
        found.sort(key=lambda row: row.state.created_us)
        return [row.schedule for row in found]

    async def add_schedule(self, schedule: ScheduledTask, replace: bool = False) -> None:
        """Store a schedule; it is as durable as Redis is set to be when this returns."""
        await self._store.add(schedule, self._now_us(), replace_other=replace)

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule; firings of it that are running are left alone."""
        await self._store.remove(schedule_id)

    # -- claiming -------------------------------------------------------------------------------

    @property
    def outstanding(self) -> Collection[Identity]:
        """What this process has claimed or started, and has not been told the end of."""
        return list(self._outstanding)

    async def join(self, owner: str, *, resend: bool) -> None:
        """Claim as `owner`; mend the schedules if Redis has seen a later time than it is.

        Called again, it gives back what was claimed and not started: the caller may have failed
        to write it down, and the next claim has it again.
        """
        self._resend = resend
        if owner != self._connection.owner:
            self._connection.owner = owner
            self._connection.member = rows.token() + rows.token()
            self._outstanding, self._unanswered = {}, None
        self._let_go = set()
        await self.leave()
        now_us = self._now_us()
        if int(await self._connection.run("join")) - now_us > SKEW_US:
            await self.pull_back(now_us)

    async def claim(
        self, moment: Moment, until_us: int, limit: int, without: Collection[str] = ()
    ) -> list[Claim]:
        """Claim up to `limit` firings that are due by `until_us`, planned for `moment`."""
        if not self._connection.owner:
            raise RuntimeError("nobody claims without an owner: call join first")
        if self._unanswered is not None and (claims := await self._send(moment, only_ask=True)):
            return claims
        if limit <= 0:
            return []
        # What is left to others must not crowd out the rest.
        wanted = str(limit + len(without))
        now_ms, expired, due = await self._connection.run("look", str(until_us), wanted)
        expired = [entry for entry in expired if entry[0] not in without]
        due = [entry for entry in due if entry[0] not in without]
        old = [found for entry in expired if (found := self._old(*entry)) is not None][:limit]
        plans = await self._plans(due, moment, limit - len(old), int(now_ms))
        if not (old or plans):
            return []
        self._unanswered = _Batch(plans, old)
        return await self._send(moment)

    async def start(self, schedule_id: str, scheduled_us: int) -> str | None:
        """Start a claimed firing: None if it is ours, else the reason why not."""
        reason: str = await self._connection.run("start", schedule_id, str(scheduled_us))
        if reason:
            return reason
        self._outstanding[schedule_id, scheduled_us] = True
        return None

    async def tend(
        self, over: Collection[Identity], now_us: int
    ) -> list[tuple[ScheduledTask, int]]:
        """Show that this owner lives; returns what others had started before they died."""
        gone = {*over, *self._let_go}
        kept = [it for it, started in self._outstanding.items() if not started and it not in gone]
        news = await self._connection.run(
            "tend", str(now_us), str(int(self._resend)), *_flat(gone), *_flat(kept)
        )
        self._let_go -= gone
        for identity in gone:
            self._outstanding.pop(identity, None)
        return self._abandoned(news)

    async def leave(self) -> None:
        """Let others have at once what this process claimed and did not start."""
        given = [identity for identity, started in self._outstanding.items() if not started]
        if given:
            await self._connection.run("leave", *_flat(given))
        for identity in given:
            self._outstanding.pop(identity, None)

    async def missing(self, ids: Collection[str]) -> set[str]:
        """Those of these ids that no schedule has any more."""
        return await self._store.missing(ids)

    async def next_due_us(self) -> int | None:
        """When something is due next; None if nothing ever is."""
        due_us, wait_ms = await self._connection.run("next")
        if due_us is not None:
            return int(float(due_us))
        return None if wait_ms is None else self._now_us() + int(wait_ms) * 1000

    async def pull_back(self, now_us: int) -> None:
        """After the clock was put back: no schedule waits beyond its natural next firing."""
        async for page in self._store.pages():
            moves: list[str] = []
            for row in page:
                try:
                    state = decisions.pulled_back(row, now_us)
                    if state is not None:
                        wake_us = rows.wake_us(row.schedule, state)
                        moves += [row.schedule_id, row.text, rows.written_state(state)]
                        moves.append(_number(wake_us))
                except DAMAGED as error:
                    self._store.name(row.schedule_id, error)
            await self._connection.run("pull_back", str(now_us), str(len(moves) // 4), *moves)

    # -- one step of claiming -------------------------------------------------------------------

    def _old(
        self, schedule_id: str, content: str, state: str, dispatched: int, *firing: str
    ) -> _Expired | None:
        scheduled_us, due_us, trigger = firing
        identity = schedule_id, int(scheduled_us)
        if identity in self._outstanding or identity in self._let_go:
            return None
        row = self._store.row(schedule_id, content, state)
        if row is None:
            return None
        return _Expired(row, identity[1], int(due_us), trigger, dispatched)

    async def _plans(
        self, due: Sequence[Any], moment: Moment, limit: int, now_ms: int
    ) -> list[Planned]:
        result: list[Planned] = []
        aside: list[str] = []
        for schedule_id, content, state, dispatched, pending in due:
            if limit <= 0:
                break
            try:
                row = rows.read_row(schedule_id, content, state)
                found = decisions.planned(row, dispatched, pending, moment, limit, now_ms)
            except DAMAGED as error:  # the row is put aside, and stops nothing else
                self._store.name(schedule_id, error)
                aside += [schedule_id, content or "", state or ""]
                continue
            if found is not None:
                result.append(found)
                limit -= len(found.firings)
        if aside:
            await self._connection.run("aside", str(len(aside) // 3), *aside)
        return result

    async def _send(self, moment: Moment, only_ask: bool = False) -> list[Claim]:
        """Claim what was planned, or ask what became of it after an answer was lost."""
        batch = self._unanswered
        assert batch is not None
        planned, expired = await self._connection.run("claim", *batch.arguments(only_ask))
        self._unanswered = None
        new = [
            found
            for found, ours in zip(batch.plans, planned, strict=True)
            if ours and (found.firings or found.stretches)
        ]
        old = [found for found, ours in zip(batch.expired, expired, strict=True) if ours]
        return [self._claimed(found) for found in new] + [
            self._taken_over(found, moment) for found in old
        ]

    def _claimed(self, found: Planned) -> Claim:
        for firing in found.firings:
            self._outstanding[found.row.schedule_id, firing.scheduled_us] = False
        return Claim(
            schedule=found.row.schedule,
            anchor_us=found.state.anchor_us,
            firings=found.firings,
            stretches=found.stretches,
            next_us=found.state.next_us,
            dispatched=found.dispatched,
        )

    def _taken_over(self, old: _Expired, moment: Moment) -> Claim:
        identity = old.row.schedule_id, old.scheduled_us
        fate = decisions.fate(old.row, old.scheduled_us, old.due_us, old.trigger, moment)
        if isinstance(fate, Firing):
            self._outstanding[identity] = False
        else:
            self._let_go.add(identity)
        return Claim(
            schedule=old.row.schedule,
            anchor_us=old.row.state.anchor_us,
            firings=[fate] if isinstance(fate, Firing) else [],
            stretches=[] if isinstance(fate, Firing) else [fate],
            next_us=old.row.state.next_us,
            dispatched=old.dispatched,
        )

    def _abandoned(self, news: Sequence[Any]) -> list[tuple[ScheduledTask, int]]:
        """What processes that died had started: of those of our own ledger it knows the end."""
        result = []
        for schedule_id, scheduled_us, state, content in news:
            identity = schedule_id, int(scheduled_us)
            if state == "started":
                self._outstanding[identity] = True
                continue
            self._let_go.add(identity)
            try:
                result.append((rows.read_schedule(schedule_id, content), identity[1]))
            except DAMAGED as error:
                self._store.name(schedule_id, error)
        return result

    def _now_us(self) -> int:
        return (self.clock or SystemClock()).now_us()


def _number(us: int | None) -> str:
    return "" if us is None else str(us)


def _flat(identities: Iterable[Identity]) -> list[str]:
    """How many there are, and each as two texts."""
    texts = [text for schedule_id, us in identities for text in (schedule_id, str(us))]
    return [str(len(texts) // 2), *texts]

"""Policies as pure decisions: what is due, what is missed, what comes next.

Nothing here reads a clock or a database: `now_us` and the facts are arguments, and the answer is
a value that storage writes down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlsched.instants import SECOND_US
from sqlsched.trigger import Trigger

if TYPE_CHECKING:
    from sqlsched.scheduled_task import ScheduledTask

DEFAULT_CATCHUP_S = 60
DEFAULT_RETRY_DELAY_S = 10
MAX_RETRY_DELAY_S = 30 * 86_400
MAX_REFUSAL_DELAY_S = 30
"""A broker that refuses a run is asked again within this time."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What decides when a schedule's firings are dispatched."""

    trigger: Trigger
    jitter_s: int | None = None
    catchup_window: int | str | None = None
    coalesce: str | None = None
    max_runs: int | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """One firing to claim: its identity is `scheduled_us`; it is dispatched at `due_us`."""

    scheduled_us: int
    due_us: int
    trigger: Literal["schedule", "catchup"] = "schedule"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Firings that never ran, as one record."""

    first_us: int
    last_us: int
    count: int
    status: Literal["skipped", "missed", "cancelled"]
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to claim, what to record as not run, and the next nominal firing."""

    firings: list[Firing]
    stretches: list[Stretch]
    next_us: int | None


Identity = tuple[str, int]
"""A firing: the id of its schedule, and its nominal time in microseconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Firings of one schedule that a source shared by several machines gave to this one, and what
    else was decided with them.

    `stretches` are firings that never run, to be recorded; `next_us` is the next nominal firing,
    `dispatched` how many were started before, of those that `max_runs` counts.
    """

    schedule: "ScheduledTask"
    anchor_us: int
    firings: Sequence[Firing] = ()
    stretches: Sequence[Stretch] = ()
    next_us: int | None = None
    dispatched: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """The circumstances of a claim."""

    now_us: int
    serving_since_us: int
    """What was due before this had been missed, and is caught up."""
    not_before_us: int | None = None
    """`skip_first_run`: recurring firings before this are not run."""
    catchup_window: int | str | None = None
    """The default for schedules that have none of their own."""


def jittered_us(schedule_id: str, timing: Timing, scheduled_us: int) -> int:
    """When a firing is dispatched: its nominal time plus its jitter.

    The delay is a function of the firing's identity, so every process computes the same one, and
    is scaled to end before the next firing.
    """
    if timing.jitter_s is None:
        return scheduled_us
    span = timing.jitter_s * SECOND_US
    following = timing.trigger.next_us(scheduled_us)
    if following is not None:
        span = min(span, following - scheduled_us)
    import hashlib  # it brings OpenSSL, and only jitter needs it

    digest = hashlib.sha256(f"{schedule_id}@{scheduled_us}".encode()).digest()
    return scheduled_us + span * int.from_bytes(digest[:6]) // 2**48


def window_us(timing: Timing, default: int | str | None) -> int | None:
    """How old a firing may be and still run, in microseconds; None is without limit."""
    window = timing.catchup_window
    if window is None:
        if not timing.trigger.recurring:
            return None
        window = DEFAULT_CATCHUP_S if default is None else default
    if window == "unlimited":
        return None
    return (1 if window == "none" else int(window)) * SECOND_US


def still_runs(timing: Timing, due_us: int, now_us: int, default: int | str | None) -> bool:
    """Whether a firing is younger than its catch-up window."""
    window = window_us(timing, default)
    return window is None or now_us - due_us < window


def plan(schedule_id: str, timing: Timing, next_us: int, moment: Moment, limit: int) -> Plan:
    """Decide about a schedule whose next firing is due, or is about to be.

    At most `limit` firings are claimed; with `coalesce=all` more may remain, and then `next_us`
    of the plan is one of them.
    """
    return _Planning(schedule_id, timing, moment).plan(next_us, limit)


class Decisions:
    """Decisions of one moment. Schedules that share a timing are due together: one serves all."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self._made: dict[tuple[int, int], tuple[Timing, Plan]] = {}

    def plan(self, schedule_id: str, timing: Timing, next_us: int, limit: int) -> Plan:
        """The same as `plan`."""
        if timing.jitter_s is not None or timing.coalesce == "all":  # then each has its own
            return plan(schedule_id, timing, next_us, self._moment, limit)
        key = (id(timing), next_us)  # a hash of what is in it would cost as much as the rest
        if key not in self._made:
            made = plan(schedule_id, timing, next_us, self._moment, limit)
            self._made[key] = (timing, made)
        return self._made[key][1]


def without_firings(planned: Plan) -> Plan:
    """The same, with what was to run skipped: a merge function has left the schedule out."""
    skipped = [
        Stretch(firing.scheduled_us, firing.scheduled_us, 1, "skipped", "merged")
        for firing in planned.firings
    ]
    return Plan([], planned.stretches + skipped, planned.next_us)


def settle(
    trigger: Trigger,
    next_us: int | None,
    until_us: int,
    status: Literal["skipped", "missed", "cancelled"],
    reason: str,
) -> list[Stretch]:
    """Account for the firings up to `until_us`, included, that will not run any more."""
    if next_us is None or next_us > until_us:
        return []
    last = trigger.previous_us(until_us + 1)
    last = next_us if last is None else max(last, next_us)
    return [Stretch(next_us, last, trigger.count(next_us, last), status, reason)]


def resume(
    trigger: Trigger, next_us: int | None, paused_us: int, now_us: int
) -> tuple[list[Stretch], int | None]:
    """Account for a pause: what it swallowed, and the next firing. A one-shot is kept."""
    if next_us is None or next_us > now_us or not trigger.recurring:
        return [], next_us
    # Should the clock have been put back since, the pause lies in the future.
    before_us = min(paused_us - 1, now_us)
    before = settle(trigger, next_us, before_us, "missed", "outside-catchup-window")
    first = trigger.next_us(before[0].last_us) if before else next_us
    return before + settle(trigger, first, now_us, "skipped", "paused"), trigger.next_us(now_us)


def retry_due_us(
    retries: int | None, retry_delay_s: int | None, attempt: int, now_us: int
) -> int | None:
    """When the next attempt of a failed run starts; None if it was the last one.

    The delay doubles with each attempt, up to 30 days.
    """
    if attempt > (retries or 0):
        return None
    delay = (retry_delay_s or DEFAULT_RETRY_DELAY_S) << min(attempt - 1, 40)
    return now_us + min(delay, max(MAX_RETRY_DELAY_S, retry_delay_s or 0)) * SECOND_US


class _Planning:
    """One decision, with its circumstances at hand."""

    def __init__(self, schedule_id: str, timing: Timing, moment: Moment) -> None:
        self._id = schedule_id
        self._timing = timing
        self._trigger = timing.trigger
        self._moment = moment
        self._stretches: list[Stretch] = []

    def plan(self, next_us: int, limit: int) -> Plan:
        if not self._trigger.recurring:
            return self._one_shot(next_us)
        first = self._after_first_run(next_us)
        if first is None or (first > next_us and self._due_us(first) > self._moment.now_us):
            return Plan([], self._stretches, first)
        last = self._last_due(first)
        if last == first and self._in_window(first):
            return Plan([self._firing(first)], self._stretches, self._trigger.next_us(first))
        return self._several(first, last, limit)

    def _one_shot(self, next_us: int) -> Plan:
        if self._in_window(next_us):
            return Plan([self._firing(next_us)], [], None)
        missed = settle(self._trigger, next_us, next_us, "missed", "outside-catchup-window")
        return Plan([], missed, None)

    def _after_first_run(self, next_us: int) -> int | None:
        """The first firing that `skip_first_run` lets through."""
        limit = self._moment.not_before_us
        if limit is None or next_us >= limit:
            return next_us
        self._stretches += settle(self._trigger, next_us, limit - 1, "skipped", "first-run")
        return self._trigger.next_us(limit - 1)

    def _due_us(self, scheduled_us: int) -> int:
        return jittered_us(self._id, self._timing, scheduled_us)

    def _in_window(self, scheduled_us: int) -> bool:
        due, moment = self._due_us(scheduled_us), self._moment
        return still_runs(self._timing, due, moment.now_us, moment.catchup_window)

    def _last_due(self, first: int) -> int:
        """The latest firing that is due now, or `first` itself when that is still ahead."""
        if first > self._moment.now_us:
            return first
        last = self._trigger.previous_us(self._moment.now_us + 1)
        if last is not None and last > first and self._due_us(last) > self._moment.now_us:
            last = self._trigger.previous_us(last)
        return first if last is None else max(first, last)

    def _several(self, first: int, last: int, limit: int) -> Plan:
        """Some firings were missed: those outside the window are gone, the others coalesce."""
        eligible = self._first_in_window(first)
        if eligible is None or eligible > last:
            self._record(first, last, "outside-catchup-window")
            return Plan([], self._stretches, self._trigger.next_us(last))
        if eligible > first:
            before = self._trigger.previous_us(eligible)
            self._record(first, first if before is None else before, "outside-catchup-window")
        if self._timing.coalesce == "all":
            return self._all(eligible, last, limit)
        return self._one_of(eligible, last)

    def _first_in_window(self, first: int) -> int | None:
        window = window_us(self._timing, self._moment.catchup_window)
        if window is None:
            return first
        oldest = self._moment.now_us - window
        candidate = self._trigger.previous_us(oldest + 1)
        if candidate is None or self._due_us(candidate) <= oldest:
            candidate = self._trigger.next_us(oldest)
        return None if candidate is None else max(first, candidate)

    def _one_of(self, eligible: int, last: int) -> Plan:
        if eligible < last and self._timing.coalesce == "earliest":
            chosen = eligible
            following = self._trigger.next_us(eligible)
            self._record(last if following is None else following, last, "coalesced")
        else:
            chosen = last
            if eligible < last:
                before = self._trigger.previous_us(last)
                self._record(eligible, eligible if before is None else before, "coalesced")
        firings = [self._firing(chosen, missed=eligible < last)]
        return Plan(firings, self._stretches, self._trigger.next_us(last))

    def _all(self, eligible: int, last: int, limit: int) -> Plan:
        firings: list[Firing] = []
        cursor: int | None = eligible
        while cursor is not None and cursor <= last and len(firings) < limit:
            firings.append(self._firing(cursor, missed=eligible < last))
            cursor = self._trigger.next_us(cursor)
        return Plan(firings, self._stretches, cursor)

    def _firing(self, scheduled_us: int, missed: bool = False) -> Firing:
        due = self._due_us(scheduled_us)
        # With `all`, the last of a backlog is one of those that run in a row, even if it is
        # claimed by itself because the others were claimed before it.
        behind = self._timing.coalesce == "all" and self._moment.now_us - due >= SECOND_US
        late = missed or behind or due < self._moment.serving_since_us
        return Firing(scheduled_us, due, "catchup" if late else "schedule")

    def _record(self, first: int, last: int, reason: str) -> None:
        count = self._trigger.count(first, last)
        self._stretches.append(Stretch(first, last, count, "missed", reason))

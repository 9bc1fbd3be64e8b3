"""Decisions about a schedule that lies in Redis: what is claimed of it, and what a change makes of
its state. All without talking to Redis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlsched.exceptions import DuplicateScheduleError, InvalidScheduleError
from sqlsched.planner import Firing, Moment, Stretch, plan, still_runs
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.redis.prelude import DAY_MS
from sqlsched.sources.redis.rows import Row, Span, State, token
from sqlsched.trigger import Trigger

MAX_SPANS = 32


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be claimed of a schedule, and how that changes it."""

    row: Row
    state: State
    firings: Sequence[Firing]
    stretches: Sequence[Stretch]
    dispatched: int


# -- claiming ------------------------------------------------------------------------------------


def planned(
    row: Row, dispatched: int, pending: int, moment: Moment, limit: int, now_ms: int
) -> Planned | None:
    """Decide about a schedule that is due; None if there is nothing to decide.

    `pending` firings are claimed and not started; they count towards `max_runs`, since they will
    be. `now_ms` is the server's time. May raise one of DAMAGED.
    """
    state, trigger = row.state, row.trigger
    if state.next_us is None:
        raise InvalidScheduleError("it is due, but has no next firing")
    if state.max_runs is not None:
        limit = min(limit, state.max_runs - dispatched - pending)
    if limit <= 0:
        return None
    found = plan(row.schedule_id, row.timing, state.next_us, moment, limit)
    firings = [firing for firing in found.firings if not state.has_claimed(firing.scheduled_us)]
    claimed = _with_claims(state.claimed, trigger, firings, now_ms)
    moved = state.moved(next_us=found.next_us, claimed=claimed)
    return Planned(row, moved, firings, found.stretches, dispatched)


def recent(claimed: Sequence[Span], now_ms: int) -> tuple[Span, ...]:
    """The spans of the last day."""
    return tuple(span for span in claimed if now_ms - span[2] < DAY_MS)


def _with_claims(
    claimed: Sequence[Span], trigger: Trigger, firings: Sequence[Firing], now_ms: int
) -> tuple[Span, ...]:
    """The spans of the last day, with these firings."""
    spans = list(recent(claimed, now_ms))
    for firing in firings:
        us = firing.scheduled_us
        for place, (first, last, _) in enumerate(spans):
            if trigger.next_us(last) == us:
                spans[place] = (first, us, now_ms)
                break
        else:
            spans.append((us, us, now_ms))
    spans.sort()
    while len(spans) > MAX_SPANS:  # what lies between two of them counts as claimed, too
        (first, _, _), (_, last, at) = spans[:2]
        spans[:2] = [(first, last, at)]
    return tuple(spans)


def fate(row: Row, scheduled_us: int, due_us: int, word: str, moment: Moment) -> Firing | Stretch:
    """A firing that was claimed before, by one who did not start it: it runs, or is too old."""

    def never(status: Literal["missed", "skipped"], reason: str) -> Stretch:
        return Stretch(scheduled_us, scheduled_us, 1, status, reason)

    if not still_runs(row.timing, due_us, moment.now_us, moment.catchup_window):
        return never("missed", "outside-catchup-window")
    if row.trigger.recurring and scheduled_us < (moment.not_before_us or 0):
        return never("skipped", "first-run")
    late = word == "catchup" or due_us < moment.now_us
    return Firing(scheduled_us, due_us, "catchup" if late else "schedule")


def pulled_back(row: Row, now_us: int) -> State | None:
    """The state of a schedule that waits for a time beyond its natural next one, mended; None
    if it need not be."""
    if row.state.next_us is None or not row.trigger.recurring:
        return None
    natural = row.trigger.next_us(now_us)
    if natural is None or natural >= row.state.next_us:
        return None
    return row.state.moved(next_us=natural)


# -- adding and changing -------------------------------------------------------------------------


def inserted(schedule: ScheduledTask, now_us: int, claimed: Sequence[Span]) -> State:
    """The state of a schedule that is made now, under an id whose firings were `claimed`."""
    next_us = schedule.trigger(now_us).first_us(now_us)
    if next_us is None:
        raise _never(schedule)
    state = State(
        version=token(),
        created_us=now_us,
        anchor_us=now_us,
        next_us=next_us,
        paused_us=now_us if schedule.paused else None,
        max_runs=schedule.max_runs,
        claimed=tuple(claimed),
    )
    _check_not_run(schedule, state)
    return state.moved()


def changed(
    row: Row, schedule: ScheduledTask, dispatched: int, unstarted: Sequence[int], now_us: int
) -> State:
    """The state of a schedule that is replaced now.

    Firings that were claimed and not started are given back. It is paused if
    `schedule` is.
    """
    same = _without_end(row.schedule) == _without_end(schedule)
    anchor = row.state.anchor_us if same else now_us
    trigger = schedule.trigger(anchor)
    due = [*unstarted] if row.state.next_us is None else [*unstarted, row.state.next_us]
    was_next = min(due, default=None)
    # An overdue one-shot whose time stays as it was is still to run, and one that ran is done.
    kept = was_next if same else trigger.time_us
    next_us = trigger.next_us(now_us) if trigger.recurring else kept
    if schedule.max_runs is not None and dispatched >= schedule.max_runs:
        next_us = None
    if next_us is None and was_next is not None:
        raise _never(schedule)
    state = row.state.moved(
        version=token(),
        anchor_us=anchor,
        next_us=next_us,
        paused_us=(row.state.paused_us or now_us) if schedule.paused else None,
        max_runs=schedule.max_runs,
        claimed=_without(row.state.claimed, row.trigger, unstarted),
    )
    _check_not_run(schedule, state)
    return state


def _without(
    claimed: Sequence[Span], trigger: Trigger, given_back: Sequence[int]
) -> tuple[Span, ...]:
    """The spans without some firings, which may be claimed again."""
    spans = list(claimed)
    for us in given_back:
        kept: list[Span] = []
        for first, last, at in spans:
            if not first <= us <= last:
                kept.append((first, last, at))
                continue
            before, after = trigger.previous_us(us), trigger.next_us(us)
            kept += [(first, before, at)] if before is not None and before >= first else []
            kept += [(after, last, at)] if after is not None and after <= last else []
        spans = kept
    return tuple(spans)


def _without_end(schedule: ScheduledTask) -> Trigger:
    return replace(schedule.trigger(0), end_us=None)


def _never(schedule: ScheduledTask) -> InvalidScheduleError:
    bounds = [f"end {schedule.end.isoformat()}"] if schedule.end else []
    bounds += [f"max_runs {schedule.max_runs}"] if schedule.max_runs else []
    return InvalidScheduleError(
        f"{' and '.join(bounds) or 'the trigger'} leaves no firing from now on; widen the bounds"
    )


def _check_not_run(schedule: ScheduledTask, state: State) -> None:
    """Refuse a one-shot that could never run: its id and time have been a firing before."""
    if schedule.time is not None and state.next_us is not None and state.has_claimed(state.next_us):
        raise DuplicateScheduleError(
            f"{schedule.schedule_id!r} has had a firing at that time already, and no firing "
            "runs twice; use another id, or another time"
        )

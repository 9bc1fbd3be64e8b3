"""Whatever the schedule and the outage: no firing is lost, none is accounted for twice."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sqlsched.instants import DAY_US, SECOND_US, to_us
from sqlsched.planner import Moment, Plan, Timing, jittered_us, plan, resume, settle, still_runs
from sqlsched.trigger import Trigger

# Around the end of summer time in Berlin, whose night is in reach of the outages.
START = to_us(datetime(2026, 10, 24, 12, tzinfo=UTC))
CRONS = ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */2 * * *", "15,45 1-3 * * *", "0 0 25 10 *"]
ZONES = [None, "Europe/Berlin", "Australia/Lord_Howe", timedelta(hours=-3)]


def after(origin_us: int, seconds: int) -> st.SearchStrategy[int]:
    """An instant within so many seconds of another. (Of a range as wide as that in microseconds,
    Hypothesis would hardly ever leave the first few.)"""
    whole = st.integers(0, seconds).map(lambda n: origin_us + n * SECOND_US)
    return st.builds(int.__add__, whole, st.sampled_from([0, 1, SECOND_US - 1]))


DAY_S = 86_400
starts = after(START, DAY_S)
ends = st.one_of(st.none(), after(START + DAY_US, DAY_S))
intervals = st.integers(30, 7200).flatmap(
    lambda step: st.builds(
        Trigger,
        *(st.none(), st.none(), st.none(), st.just(step), st.one_of(st.none(), starts), ends),
        after(START - DAY_US, DAY_S),
    )
)
crons = st.builds(
    Trigger,
    *(st.sampled_from(CRONS), st.sampled_from(ZONES), st.none(), st.none()),
    *(st.one_of(st.none(), starts), ends, st.just(0)),
)
triggers = st.one_of(intervals, crons)
timings = st.builds(
    Timing,
    triggers,
    jitter_s=st.one_of(st.none(), st.integers(1, 4000)),
    catchup_window=st.one_of(st.sampled_from([None, "none", "unlimited"]), st.integers(1, 20_000)),
    coalesce=st.sampled_from([None, "latest", "earliest", "all"]),
)
outages = st.one_of(after(0, 3), after(0, DAY_S))


def firings(trigger: Trigger, from_us: int | None) -> Iterator[int]:
    """Every firing from one on, one by one."""
    while from_us is not None:
        yield from_us
        from_us = trigger.next_us(from_us)


def account(found: Plan, due: list[int]) -> dict[int, list[str]]:
    """For each firing, where it went."""
    claimed = [firing.scheduled_us for firing in found.firings]
    return {
        nominal: ["claimed"] * claimed.count(nominal)
        + [x.reason for x in found.stretches if x.first_us <= nominal <= x.last_us]
        for nominal in due
    }


@settings(max_examples=400, deadline=None)
@given(timings, starts, outages, st.booleans(), st.integers(1, 5))
def test_every_firing_up_to_now_is_claimed_or_in_one_record_and_the_rest_is_to_come(
    timing: Timing, after_us: int, outage_us: int, skip_first: bool, limit: int
) -> None:
    next_us = timing.trigger.next_us(after_us)
    assume(next_us is not None)
    assert next_us is not None
    now_us = jittered_us("job", timing, next_us) + outage_us
    not_before_us = now_us - outage_us // 2 if skip_first else None
    found = plan("job", timing, next_us, Moment(now_us, now_us, not_before_us), limit)

    horizon_us = now_us + 1
    due = list(takewhile(lambda us: us < horizon_us, firings(timing.trigger, next_us)))
    went = account(found, due)
    done = [nominal for nominal in due if went[nominal]]
    assert all(len(places) <= 1 for places in went.values())
    assert done == due[: len(done)]
    assert found.next_us == timing.trigger.next_us(done[-1])
    assert all(firing.due_us <= now_us for firing in found.firings)
    assert sum(x.count for x in found.stretches) + len(found.firings) == len(done)
    assert all(jittered_us("job", timing, nominal) > now_us for nominal in due[len(done) :]) or (
        timing.coalesce == "all" and len(found.firings) == limit
    )


@settings(max_examples=200, deadline=None)
@given(timings, starts, outages)
def test_what_is_called_outside_the_window_is_and_nothing_else_is(
    timing: Timing, after_us: int, outage_us: int
) -> None:
    next_us = timing.trigger.next_us(after_us)
    assume(next_us is not None)
    assert next_us is not None
    now_us = jittered_us("job", timing, next_us) + outage_us
    found = plan("job", timing, next_us, Moment(now_us, now_us), 10_000)
    due = list(takewhile(lambda us: us <= now_us, firings(timing.trigger, next_us)))
    for nominal, places in account(found, due).items():
        runs = still_runs(timing, jittered_us("job", timing, nominal), now_us, None)
        assert not places or runs == (places != ["outside-catchup-window"])


@settings(max_examples=200, deadline=None)
@given(timings, starts, after(0, DAY_S // 8), st.integers(1, 5))
def test_going_on_with_coalesce_all_runs_each_missed_firing_once_in_order(
    timing: Timing, after_us: int, outage_us: int, limit: int
) -> None:
    trigger = timing.trigger
    timing = Timing(trigger, catchup_window="unlimited", coalesce="all")
    next_us = first_us = trigger.next_us(after_us)
    assume(first_us is not None)
    assert first_us is not None
    now_us = first_us + outage_us
    claimed: list[int] = []
    while next_us is not None and next_us <= now_us:
        found = plan("job", timing, next_us, Moment(now_us, now_us), limit)
        assert 1 <= len(found.firings) <= limit
        claimed += [firing.scheduled_us for firing in found.firings]
        next_us = found.next_us
    assert claimed == list(takewhile(lambda us: us <= now_us, firings(trigger, first_us)))


@settings(max_examples=200, deadline=None)
@given(triggers, starts, outages)
def test_settling_counts_what_enumerating_counts(
    trigger: Trigger, after_us: int, outage_us: int
) -> None:
    next_us = trigger.next_us(after_us)
    assume(next_us is not None)
    assert next_us is not None
    until_us = next_us + outage_us
    due = list(takewhile(lambda us: us <= until_us, firings(trigger, next_us)))
    (stretch,) = settle(trigger, next_us, until_us, "missed", "edited")
    assert (stretch.first_us, stretch.last_us, stretch.count) == (due[0], due[-1], len(due))


@settings(max_examples=200, deadline=None)
@given(triggers, starts, outages, st.floats(-0.5, 1.5))
def test_resuming_accounts_for_each_firing_of_the_pause_once(
    trigger: Trigger, after_us: int, outage_us: int, paused: float
) -> None:
    next_us = trigger.next_us(after_us)
    assume(next_us is not None)
    assert next_us is not None
    now_us = next_us + outage_us
    paused_us = next_us + round(outage_us * paused)
    stretches, following_us = resume(trigger, next_us, paused_us, now_us)
    due = list(takewhile(lambda us: us <= now_us, firings(trigger, next_us)))
    went = account(Plan([], stretches, following_us), due)
    assert list(went.values()) == [
        ["outside-catchup-window" if nominal < paused_us else "paused"] for nominal in due
    ]
    assert sum(x.count for x in stretches) == len(due)
    assert following_us == trigger.next_us(now_us)

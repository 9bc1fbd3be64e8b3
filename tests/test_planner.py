"""Policies without a clock: what is claimed, what is on record as not run, what comes next."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sqlsched.instants import SECOND_US, to_us
from sqlsched.planner import (
    Firing,
    Moment,
    Plan,
    Stretch,
    Timing,
    jittered_us,
    plan,
    resume,
    retry_due_us,
    settle,
    still_runs,
    window_us,
)
from sqlsched.trigger import Trigger

NOON = to_us(datetime(2027, 1, 15, 12, tzinfo=UTC))
DAY_S = 86_400


def s(seconds: float) -> int:
    """So many seconds after noon."""
    return NOON + round(seconds * SECOND_US)


def every(seconds: int, **bounds: int) -> Trigger:
    """An interval whose first firing is at noon, unless `start_us` says otherwise."""
    return Trigger(
        None, None, None, seconds, **({"start_us": NOON, "end_us": None} | bounds), anchor_us=0
    )


def once_at(us: int) -> Trigger:
    return Trigger(None, None, us, None, None, None, 0)


def cron(text: str) -> Trigger:
    return Trigger(text, None, None, None, None, None, 0)


MINUTELY = Timing(every(60))
UNLIMITED = replace(MINUTELY, catchup_window="unlimited")


def decide(
    timing: Timing,
    next_us: int,
    now_us: int,
    *,
    since: int | None = None,
    limit: int = 100,
    not_before: int | None = None,
    window: int | str | None = None,
) -> Plan:
    moment = Moment(now_us, now_us if since is None else since, not_before, window)
    return plan("job", timing, next_us, moment, limit)


def claimed(plan: Plan) -> list[int]:
    return [(firing.scheduled_us - NOON) // SECOND_US for firing in plan.firings]


def unrun(plan: Plan) -> list[tuple[int, int, int, str]]:
    """(first, last, count, reason), in seconds after noon."""
    return [
        ((x.first_us - NOON) // SECOND_US, (x.last_us - NOON) // SECOND_US, x.count, x.reason)
        for x in plan.stretches
    ]


# -- one firing -----------------------------------------------------------------------------------


def test_a_firing_due_now_is_claimed_and_the_next_comes_from_its_nominal_time() -> None:
    decided = decide(MINUTELY, s(0), s(7), since=s(-100))
    assert decided == Plan([Firing(s(0), s(0), "schedule")], [], s(60))


def test_a_firing_of_the_next_second_is_claimed_ahead() -> None:
    assert decide(MINUTELY, s(60), s(59.5)) == Plan([Firing(s(60), s(60))], [], s(120))


def test_what_was_due_before_the_scheduler_served_is_caught_up() -> None:
    assert decide(MINUTELY, s(0), s(7), since=s(5)).firings == [Firing(s(0), s(0), "catchup")]


def test_the_last_firing_within_the_bounds_has_no_next() -> None:
    assert decide(Timing(every(60, end_us=s(60))), s(60), s(60)).next_us is None


def test_the_end_itself_still_fires_and_nothing_after_it_does() -> None:
    timing = replace(UNLIMITED, trigger=every(60, end_us=s(120)), coalesce="all")
    decided = decide(timing, s(0), s(500))
    assert (claimed(decided), decided.next_us) == ([0, 60, 120], None)


# -- catch-up window ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "window", "runs"),
    [
        (59.999999, None, True),
        (60, None, False),
        (299.9, 300, True),
        (300, 300, False),
        (0.999999, "none", True),
        (1, "none", False),
        (10 * DAY_S, "unlimited", True),
    ],
)
def test_a_missed_firing_runs_while_it_is_younger_than_the_window(
    age_s: float, window: int | str | None, runs: bool
) -> None:
    timing = Timing(every(100 * DAY_S), catchup_window=window)
    decided = decide(timing, s(0), s(age_s))
    assert claimed(decided) == ([0] if runs else [])
    assert unrun(decided) == ([] if runs else [(0, 0, 1, "outside-catchup-window")])
    assert decided.next_us == s(100 * DAY_S)


def test_a_schedule_without_a_window_takes_the_one_of_the_run() -> None:
    timing = Timing(every(DAY_S))
    assert claimed(decide(timing, s(0), s(3000), window=3600)) == [0]
    assert claimed(decide(timing, s(0), s(30), window="none")) == []
    assert claimed(decide(replace(timing, catchup_window=10), s(0), s(30), window=3600)) == []


def test_a_one_shot_has_no_window_unless_it_asks_for_one() -> None:
    timing = Timing(once_at(s(0)))
    late = s(400 * DAY_S)
    assert window_us(timing, 60) is None
    assert decide(timing, s(0), late, window=60) == Plan([Firing(s(0), s(0), "catchup")], [], None)
    missed = decide(replace(timing, catchup_window=60), s(0), late)
    assert (missed.firings, missed.next_us) == ([], None)
    assert unrun(missed) == [(0, 0, 1, "outside-catchup-window")]


def test_age_is_counted_from_when_a_firing_was_due_not_from_its_nominal_time() -> None:
    timing = Timing(every(DAY_S), jitter_s=3600)
    due = jittered_us("job", timing, s(0))
    assert due > s(60)
    assert still_runs(timing, due, due + 59 * SECOND_US, None)
    assert claimed(decide(timing, s(0), due + 59 * SECOND_US)) == [0]
    assert claimed(decide(timing, s(0), due + 60 * SECOND_US)) == []


# -- coalescing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coalesce", "runs", "gone"),
    [
        (None, [300], [(0, 240, 5, "coalesced")]),
        ("latest", [300], [(0, 240, 5, "coalesced")]),
        ("earliest", [0], [(60, 300, 5, "coalesced")]),
        ("all", [0, 60, 120, 180, 240, 300], []),
    ],
)
def test_of_several_missed_firings_coalesce_says_which_run(
    coalesce: str | None, runs: list[int], gone: list[tuple[int, int, int, str]]
) -> None:
    decided = decide(replace(UNLIMITED, coalesce=coalesce), s(0), s(330), since=s(-1))
    assert (claimed(decided), unrun(decided), decided.next_us) == (runs, gone, s(360))
    assert {firing.trigger for firing in decided.firings} == {"catchup"}


def test_what_the_window_excludes_is_on_record_apart_from_what_is_coalesced() -> None:
    decided = decide(replace(MINUTELY, catchup_window=200), s(0), s(630))
    assert claimed(decided) == [600]
    assert unrun(decided) == [
        (0, 420, 8, "outside-catchup-window"),
        (480, 540, 2, "coalesced"),
    ]


def test_an_outage_of_a_year_is_one_record_that_counts_every_minute_of_it() -> None:
    decided = decide(Timing(cron("* * * * *")), s(0), s(365 * DAY_S) + 30 * SECOND_US)
    minutes = 365 * 1440
    assert unrun(decided) == [(0, (minutes - 1) * 60, minutes, "outside-catchup-window")]
    assert claimed(decided) == [minutes * 60]


def test_with_coalesce_all_what_exceeds_the_limit_is_claimed_the_next_time() -> None:
    timing = replace(UNLIMITED, coalesce="all")
    first = decide(timing, s(0), s(330), limit=4)
    assert (claimed(first), first.next_us) == ([0, 60, 120, 180], s(240))
    assert first.next_us is not None
    second = decide(timing, first.next_us, s(330), limit=4)
    assert (claimed(second), second.next_us) == ([240, 300], s(360))


# -- skip first run -------------------------------------------------------------------------------


def test_skip_first_run_records_what_was_due_before_the_minute_and_goes_on_from_it() -> None:
    decided = decide(UNLIMITED, s(0), s(300), not_before=s(300))
    assert unrun(decided) == [(0, 240, 5, "first-run")]
    assert {stretch.status for stretch in decided.stretches} == {"skipped"}
    assert (claimed(decided), decided.next_us) == ([300], s(360))


def test_skip_first_run_claims_nothing_that_is_not_due_yet() -> None:
    decided = decide(Timing(every(DAY_S)), s(0), s(300), not_before=s(300))
    assert (claimed(decided), decided.next_us) == ([], s(DAY_S))
    assert unrun(decided) == [(0, 0, 1, "first-run")]


def test_skip_first_run_lets_an_overdue_one_shot_go() -> None:
    assert claimed(decide(Timing(once_at(s(0))), s(0), s(300), not_before=s(300))) == [0]


def test_skip_first_run_ends_a_schedule_whose_last_firing_it_skipped() -> None:
    decided = decide(Timing(every(60, end_us=s(30))), s(0), s(60), not_before=s(60))
    assert (claimed(decided), decided.next_us) == ([], None)


# -- jitter ---------------------------------------------------------------------------------------


def test_jitter_is_the_same_for_the_same_firing_and_differs_between_firings() -> None:
    timing = Timing(every(600), jitter_s=300)
    delays = {jittered_us("job", timing, s(600 * n)) - s(600 * n) for n in range(20)}
    assert len(delays) == 20
    assert jittered_us("job", timing, s(0)) == jittered_us("job", replace(timing), s(0))
    assert jittered_us("job", timing, s(0)) != jittered_us("other", timing, s(0))
    assert all(0 <= delay < 300 * SECOND_US for delay in delays)


def test_jitter_longer_than_the_interval_never_reaches_the_following_firing() -> None:
    timing = Timing(every(1), jitter_s=3600)
    for n in range(2000):
        assert s(n) <= jittered_us("job", timing, s(n)) < s(n + 1)


def test_a_firing_that_jitter_still_holds_back_is_not_claimed_with_the_missed_ones() -> None:
    timing = replace(UNLIMITED, jitter_s=60, coalesce="all")
    now = jittered_us("job", timing, s(180)) - 1
    assert now >= s(180)
    decided = decide(timing, s(0), now)
    assert (claimed(decided), decided.next_us) == ([0, 60, 120], s(180))


# -- accounting -----------------------------------------------------------------------------------


def test_settling_counts_what_was_due_up_to_and_including_an_instant() -> None:
    stretch = settle(every(60), s(0), s(180), "missed", "edited")
    assert stretch == [Stretch(s(0), s(180), 4, "missed", "edited")]
    assert settle(every(60), s(0), s(179), "missed", "edited")[0].count == 3


def test_there_is_nothing_to_settle_before_the_next_firing_or_without_one() -> None:
    assert settle(every(60), s(60), s(59), "missed", "edited") == []
    assert settle(every(60), None, s(59), "missed", "edited") == []


def test_resuming_records_what_the_pause_swallowed_and_goes_on_from_now() -> None:
    stretches, next_us = resume(every(60), s(60), s(30), s(200))
    assert stretches == [Stretch(s(60), s(180), 3, "skipped", "paused")]
    assert next_us == s(240)


def test_what_was_overdue_before_the_pause_was_missed_not_paused() -> None:
    stretches, _ = resume(every(60), s(0), s(90), s(200))
    assert stretches == [
        Stretch(s(0), s(60), 2, "missed", "outside-catchup-window"),
        Stretch(s(120), s(180), 2, "skipped", "paused"),
    ]


def test_a_pause_that_swallowed_nothing_leaves_no_record() -> None:
    assert resume(every(60), s(60), s(30), s(59)) == ([], s(60))


def test_a_one_shot_whose_time_passed_during_a_pause_is_kept() -> None:
    assert resume(once_at(s(60)), s(60), s(30), s(200)) == ([], s(60))


def test_a_pause_that_outlasted_the_end_leaves_no_next_firing() -> None:
    stretches, next_us = resume(every(60, end_us=s(120)), s(60), s(30), s(600))
    assert (stretches, next_us) == ([Stretch(s(60), s(120), 2, "skipped", "paused")], None)


def test_a_pause_that_the_clock_says_is_yet_to_come_accounts_for_no_future_firing() -> None:
    stretches, next_us = resume(every(60), s(0), s(600), s(90))
    assert [(x.last_us, x.count) for x in stretches] == [(s(60), 2)]
    assert next_us == s(120)


# -- retries --------------------------------------------------------------------------------------


def test_the_delay_doubles_with_each_retry() -> None:
    delays = [retry_due_us(9, 3, attempt, NOON) for attempt in range(1, 6)]
    assert delays == [s(3), s(6), s(12), s(24), s(48)]


def test_after_the_last_retry_there_is_none() -> None:
    assert retry_due_us(2, 1, 2, NOON) == s(2)
    assert retry_due_us(2, 1, 3, NOON) is None
    assert retry_due_us(None, 1, 1, NOON) is None
    assert retry_due_us(0, None, 1, NOON) is None


def test_the_first_retry_comes_after_ten_seconds_unless_told_otherwise() -> None:
    assert retry_due_us(1, None, 1, NOON) == s(10)


def test_delays_stop_doubling_at_thirty_days_but_a_longer_one_is_kept() -> None:
    assert retry_due_us(10**6, 10, 10**5, NOON) == s(30 * DAY_S)
    assert retry_due_us(9, 90 * DAY_S, 4, NOON) == s(90 * DAY_S)

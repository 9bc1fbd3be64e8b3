"""Nominal firings: the grid of an interval, bounds, and counting without enumerating."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import SECOND_US, to_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.trigger import Trigger

NOON = to_us(datetime(2027, 1, 15, 12, tzinfo=UTC))
DAY_S = 86_400


def s(seconds: float) -> int:
    """So many seconds after noon."""
    return NOON + round(seconds * SECOND_US)


def at(seconds: float) -> datetime:
    return datetime(2027, 1, 15, 12, tzinfo=UTC) + timedelta(seconds=seconds)


def trigger(*, anchor_us: int = NOON, **fields: Any) -> Trigger:
    return ScheduledTask(task_name="m:f", **fields).trigger(anchor_us)


def first(found: Trigger, count: int, after_us: int = NOON) -> list[float | None]:
    """The next firings, in seconds after noon."""
    result: list[float | None] = []
    us: int | None = after_us
    while us is not None and len(result) < count:
        us = found.next_us(us)
        result.append(None if us is None else (us - NOON) / SECOND_US)
    return result


def test_an_interval_first_fires_one_interval_after_its_anchor() -> None:
    assert first(trigger(interval=90), 3) == [90, 180, 270]
    assert trigger(interval=90).previous_us(s(90)) is None


def test_an_interval_with_a_start_first_fires_at_the_start_itself() -> None:
    found = trigger(interval=90, start=at(30))
    assert first(found, 3) == [30, 120, 210]
    assert found.previous_us(s(31)) == s(30)


def test_an_interval_keeps_its_grid_whenever_it_is_asked() -> None:
    found = trigger(interval=90)
    assert first(found, 1, s(1000.5)) == [1080]
    assert first(found, 1, s(990)) == [1080]
    assert found.previous_us(s(990)) == s(900)


def test_an_interval_far_before_its_start_waits_for_it() -> None:
    assert first(trigger(interval=1, start=at(10**6)), 2) == [10**6, 10**6 + 1]


def test_start_and_end_are_inclusive() -> None:
    found = trigger(cron="* * * * *", start=at(60), end=at(180))
    assert first(found, 4) == [60, 120, 180, None]
    assert found.previous_us(s(10**6)) == s(180)
    assert found.previous_us(s(61)) == s(60)
    assert found.previous_us(s(60)) is None


def test_a_cron_whose_start_is_not_on_its_grid_fires_after_it() -> None:
    assert first(trigger(cron="* * * * *", start=at(61), end=at(179)), 2) == [120, None]


def test_a_one_shot_fires_once() -> None:
    found = trigger(time=at(60))
    assert not found.recurring
    assert first(found, 2) == [60, None]
    assert (found.previous_us(s(61)), found.previous_us(s(60))) == (s(60), None)
    assert found.count(s(60), s(60)) == 1


def test_a_one_shot_made_after_its_time_is_still_to_fire() -> None:
    assert trigger(time=at(-60)).first_us(NOON) == s(-60)
    assert trigger(interval=60).first_us(NOON) == s(60)


def test_the_same_trigger_of_two_schedules_is_equal_whatever_else_they_are() -> None:
    assert trigger(interval=60, args=[1]) == trigger(interval=60, note="other")
    assert trigger(cron="* * * * *", anchor_us=1) == trigger(cron="* * * * *", anchor_us=2)
    assert trigger(interval=60, start=at(0), anchor_us=1) == trigger(interval=60, start=at(0))
    assert trigger(interval=60, anchor_us=1) != trigger(interval=60)


def test_a_time_zone_matters_only_to_cron() -> None:
    berlin = trigger(cron="0 9 * * *", cron_offset="Europe/Berlin")
    assert first(berlin, 1) == [20 * 3600]
    assert trigger(interval=60, cron_offset="Europe/Berlin") == trigger(interval=60)


def test_counting_the_minutes_of_a_century_takes_no_enumeration() -> None:
    found = trigger(cron="* * * * *")
    assert found.count(s(60), s(60 * 52_594_560)) == 52_594_560
    assert trigger(interval=1).count(s(1), s(10**9)) == 10**9


@pytest.mark.parametrize(
    "fields",
    [
        {"cron": "0 0 1 1 *", "start": at(0), "end": at(3600)},
        {"interval": 60, "start": at(60), "end": at(0)},
        {"time": at(0), "start": at(1)},
        {"time": at(0), "end": at(-1)},
        {"cron": "* * * * *", "end": datetime(1969, 12, 31, tzinfo=UTC)},
    ],
)
def test_bounds_that_exclude_every_firing_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidScheduleError, match=r"\A[^\n]*(start|end) [^\n]*\Z"):
        trigger(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"interval": 60, "start": at(0), "end": at(0)},
        {"cron": "0 12 15 1 *", "start": at(0), "end": at(0)},
        {"time": at(0), "start": at(0), "end": at(0)},
        {"interval": 60, "start": datetime(1970, 1, 1, tzinfo=UTC)},
        {"time": datetime(1970, 1, 1, tzinfo=UTC), "end": at(0)},
    ],
)
def test_bounds_that_leave_a_single_firing_or_begin_with_1970_are_fine(
    fields: dict[str, Any],
) -> None:
    assert trigger(**fields).previous_us(s(1)) is not None


triggers = st.one_of(
    st.builds(
        Trigger,
        *(st.none(), st.none(), st.none(), st.integers(1, 10_000)),
        *(st.one_of(st.none(), st.integers(s(-5000), s(5000))), st.none()),
        st.integers(s(-5000), s(0)),
    ),
    st.builds(
        Trigger,
        st.sampled_from(["*/5 * * * *", "30 2 * * *", "0 0 1 * *", "7 */3 * * MON-FRI"]),
        st.sampled_from([None, "Europe/Berlin", "America/St_Johns", timedelta(hours=5)]),
        *(st.none(), st.none(), st.one_of(st.none(), st.integers(s(-5000), s(5000)))),
        *(st.none(), st.just(0)),
    ),
)


@settings(max_examples=300, deadline=None)
@given(triggers, st.integers(s(-400 * DAY_S), s(400 * DAY_S)), st.integers(1, 40))
def test_next_previous_and_count_tell_of_the_same_firings(
    found: Trigger, after_us: int, length: int
) -> None:
    firings: list[int] = []
    us: int | None = after_us
    while us is not None and len(firings) < length:
        us = found.next_us(us)
        assume(us is not None)
        assert us is not None
        firings.append(us)
    assert firings[0] > after_us
    assert all(found.previous_us(later) == earlier for earlier, later in pairwise(firings))
    assert all(found.previous_us(us + 1) == us for us in firings)
    assert found.count(firings[0], firings[-1]) == length

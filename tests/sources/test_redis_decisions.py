"""What is decided about a schedule in Redis, without one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import SECOND_US, to_us
from sqlsched.planner import Moment, Stretch
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.redis.decisions import MAX_SPANS, changed, fate, inserted, planned
from sqlsched.sources.redis.prelude import DAY_MS
from sqlsched.sources.redis.rows import Row, read_row, written_schedule, written_state

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOON_US = to_us(NOON)


def row_of(now_us: int = NOON_US, **fields: Any) -> Row:
    """A schedule that was just added, each minute unless said otherwise."""
    if not {"cron", "time", "interval"} & fields.keys():
        fields["cron"] = "* * * * *"
    schedule = ScheduledTask(task_name="app:f", schedule_id="a", **fields)
    return stored(schedule, inserted(schedule, now_us, ()))


def stored(schedule: ScheduledTask, state: Any) -> Row:
    return read_row("a", written_schedule(schedule), written_state(state))


def claimed_at(row: Row, seconds: float, now_ms: int = 0) -> Row:
    """The same, after what was due so many seconds after noon was claimed."""
    now_us = NOON_US + round(seconds * SECOND_US)
    found = planned(row, 0, 0, Moment(now_us, NOON_US), 1000, now_ms)
    assert found is not None
    return stored(row.schedule, found.state)


def spans(row: Row) -> list[tuple[int, int]]:
    """What counts as claimed, in seconds after noon."""
    return [
        ((a - NOON_US) // SECOND_US, (b - NOON_US) // SECOND_US) for a, b, _ in row.state.claimed
    ]


def test_firings_claimed_in_a_row_are_one_span() -> None:
    row = row_of()
    for minute in range(1, 100):
        row = claimed_at(row, minute * 60)
    assert spans(row) == [(60, 99 * 60)]
    row = claimed_at(row, 110 * 60)  # ten minutes nobody was there
    assert spans(row) == [(60, 99 * 60), (110 * 60, 110 * 60)]


def test_a_day_later_a_span_is_forgotten() -> None:
    row = claimed_at(row_of(), 60, now_ms=1)
    row = claimed_at(row, 600, now_ms=DAY_MS)
    assert spans(row) == [(60, 60), (600, 600)]
    row = claimed_at(row, 1200, now_ms=DAY_MS + 1)
    assert spans(row) == [(600, 600), (1200, 1200)]


def test_spans_do_not_grow_without_end_and_forget_nothing() -> None:
    row, firings = row_of(), []
    for number in range(1, 3 * MAX_SPANS):
        row = claimed_at(row, number * 180)
        firings.append(NOON_US + number * 180 * SECOND_US)
    assert len(row.state.claimed) == MAX_SPANS
    assert all(row.state.has_claimed(us) for us in firings)
    assert not row.state.has_claimed(firings[-1] - 60 * SECOND_US)


def test_a_change_gives_back_only_what_was_not_started() -> None:
    row = row_of()
    for minute in range(1, 6):
        row = claimed_at(row, minute * 60)
    given_back = [NOON_US + minute * 60 * SECOND_US for minute in (1, 3, 5)]
    other = replace(row.schedule, args=[1])
    row = stored(other, changed(row, other, 2, given_back, NOON_US + 301 * SECOND_US))
    assert spans(row) == [(120, 120), (240, 240)]


def test_a_change_to_fewer_runs_than_there_were_is_refused() -> None:
    row = row_of()
    with pytest.raises(InvalidScheduleError, match="max_runs 3 leaves no firing from now on"):
        changed(row, replace(row.schedule, max_runs=3), 3, [], NOON_US)
    assert changed(row, replace(row.schedule, max_runs=4), 3, [], NOON_US).next_us is not None


def test_each_state_is_unlike_every_other() -> None:
    row = row_of()
    assert row.state.moved() != row.state.moved()
    other = replace(row.schedule, args=[1])
    assert changed(row, other, 0, [], NOON_US).version != row.state.version


@pytest.mark.parametrize(
    ("now_s", "not_before_s", "word"),
    [(0, None, "schedule"), (1, None, "catchup"), (59, None, "catchup"), (1, 0, "catchup")],
)
def test_what_is_taken_over_in_time_runs(now_s: int, not_before_s: int | None, word: str) -> None:
    not_before_us = None if not_before_s is None else NOON_US + not_before_s * SECOND_US
    moment = Moment(NOON_US + now_s * SECOND_US, NOON_US, not_before_us)
    found = fate(row_of(), NOON_US, NOON_US, "schedule", moment)
    assert not isinstance(found, Stretch)
    assert (found.scheduled_us, found.due_us, found.trigger) == (NOON_US, NOON_US, word)


@pytest.mark.parametrize(
    ("now_s", "not_before_s", "end"),
    [(60, None, ("missed", "outside-catchup-window")), (1, 60, ("skipped", "first-run"))],
)
def test_what_is_taken_over_too_late_or_too_early_is_recorded(
    now_s: int, not_before_s: int | None, end: tuple[str, str]
) -> None:
    not_before_us = None if not_before_s is None else NOON_US + not_before_s * SECOND_US
    moment = Moment(NOON_US + now_s * SECOND_US, NOON_US, not_before_us)
    found = fate(row_of(), NOON_US, NOON_US, "schedule", moment)
    assert found == Stretch(NOON_US, NOON_US, 1, *end)  # type: ignore[arg-type]


def test_a_one_shot_that_is_taken_over_runs_however_late() -> None:
    moment = Moment(NOON_US + 10**12, NOON_US, NOON_US + 10**12)
    found = fate(row_of(time=NOON - timedelta(days=1)), NOON_US, NOON_US, "schedule", moment)
    assert not isinstance(found, Stretch)

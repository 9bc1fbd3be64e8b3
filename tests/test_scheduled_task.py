"""`ScheduledTask` and `TaskMessage`: checked once, at the door, and never changed after."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sqlsched.exceptions import InvalidScheduleError, SqlschedError
from sqlsched.field_checks import check_schedule_id
from sqlsched.output import OutputBuffer
from sqlsched.scheduled_task import (
    FIELD_NAMES,
    ScheduledTask,
    TaskMessage,
    derive_task_id,
    new_schedule_id,
    schedule_to_json,
)

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


def task(**fields: Any) -> ScheduledTask:
    given: dict[str, Any] = {"task_name": "shop.jobs:send", "interval": 60}
    return ScheduledTask(**given | fields)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "none of them"),
        ({"cron": "* * * * *", "interval": 60}, "cron and interval"),
        ({"cron": "* * * * *", "interval": 60, "time": NOON}, "cron and time and interval"),
    ],
)
def test_a_schedule_has_exactly_one_trigger(given: dict[str, Any], found: str) -> None:
    with pytest.raises(InvalidScheduleError, match=f"exactly one.*'m:f' has {found}"):
        ScheduledTask(task_name="m:f", **given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_name", ""),
        ("task_name", "shop.jobs:"),
        ("task_name", "shop..jobs:send"),
        ("task_name", "shop jobs:send"),
        ("task_name", "m:" + "x" * 300),
        ("task_name", 7),
        ("args", {"a": 1}),
        ("args", "text"),
        ("args", [object()]),
        ("kwargs", [1]),
        ("kwargs", {1: 2}),
        ("labels", {"a": float("nan")}),
        ("task_id", ""),
        ("schedule_id", "has space"),
        ("schedule_id", "x" * 65),
        ("schedule_id", "ünïcode"),
        ("schedule_id", "line\nbreak"),
        ("start", "2027-01-15"),
        ("start", datetime(1960, 1, 1, tzinfo=UTC)),
        ("max_runs", 0),
        ("max_runs", True),
        ("max_runs", 2**31),
        ("jitter", 0),
        ("jitter", 1.5),
        ("jitter", timedelta(milliseconds=1500)),
        ("interval", 36_526 * 86_400),
        ("catchup_window", "never"),
        ("catchup_window", -1),
        ("coalesce", "some"),
        ("coalesce", ["all"]),
        ("overlap", "queue"),
        ("timeout", "60"),
        ("retries", -1),
        ("paused", 1),
        ("note", b"bytes"),
        ("note", "\ud800"),
        ("cron_offset", "Mars/Olympus"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name: str, value: object) -> None:
    with pytest.raises(InvalidScheduleError) as refused:
        task(**{name: value})
    message = str(refused.value)
    assert name in message
    assert message.isprintable()
    assert isinstance(refused.value, ValueError)
    assert isinstance(refused.value, SqlschedError)


def test_a_bad_cron_expression_is_refused_and_so_is_one_that_is_no_text() -> None:
    for value in ("61 * * * *", "", 5, b"* * * * *"):
        with pytest.raises(InvalidScheduleError, match="cron"):
            ScheduledTask(task_name="m:f", cron=value)  # type: ignore[arg-type]


def test_durations_are_held_as_seconds_and_times_in_utc() -> None:
    made = task(
        interval=timedelta(minutes=5),
        jitter=timedelta(seconds=3),
        start=datetime(2027, 1, 15, 13, tzinfo=timezone(timedelta(hours=1))),
        end=datetime(2027, 1, 16),  # noqa: DTZ001 - a naive time is UTC
    )
    assert (made.interval, made.jitter, made.start) == (300, 3, NOON)
    assert made.start is not None
    assert made.start.tzinfo is UTC
    assert made.end == datetime(2027, 1, 16, tzinfo=UTC)


def test_a_schedule_cannot_be_changed_and_shares_nothing_with_its_caller() -> None:
    labels = {"queue": ["low"]}
    made = task(labels=labels, args=(1, (2,)))
    labels["queue"].append("high")
    assert made.labels == {"queue": ["low"]}
    assert made.args == [1, [2]]
    with pytest.raises(FrozenInstanceError):
        made.paused = True  # type: ignore[misc]


def test_content_is_everything_but_the_id_and_the_state() -> None:
    assert task(schedule_id="a", paused=True).content() == task(schedule_id="b").content()
    assert task(interval=timedelta(minutes=1)).content() == task(interval=60).content()
    for change in ({"args": [1]}, {"note": "x"}, {"interval": 61}, {"jitter": 1}, {"retries": 0}):
        assert task(**change).content() != task().content()


def test_json_has_every_field_and_makes_the_same_schedule_again() -> None:
    made = ScheduledTask(
        task_name="m:f",
        cron="0 9 * * *",
        cron_offset=timedelta(hours=-3, minutes=-30),
        start=NOON,
        catchup_window="unlimited",
        retries=2,
    )
    written = schedule_to_json(made)
    assert tuple(written) == FIELD_NAMES
    assert written["start"] == "2027-01-15T12:00:00+00:00"
    assert written["cron_offset"] == "-03:30"
    assert ScheduledTask(**(written | {"start": NOON})) == made


def test_new_ids_are_valid_and_differ() -> None:
    ids = {new_schedule_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(check_schedule_id(text) == text for text in ids)


def test_the_same_firing_always_has_the_same_task_id_and_no_other_has_it() -> None:
    # Written down: a queue may hold a message over an upgrade of this package.
    assert derive_task_id("job", 1_800_000_000_000_000) == "f04af66f4c8de2d2102fc9e4bc8c4136"
    ids = {
        derive_task_id("job", 1),
        derive_task_id("job", 2),
        derive_task_id("job2", 1),
        derive_task_id("job", 1, 7),
        derive_task_id("job", 1, 8),
    }
    assert len(ids) == 5


def test_a_message_is_equal_to_another_whatever_has_been_printed() -> None:
    message = TaskMessage(task_id="a", task_name="m:f")
    assert message == TaskMessage(task_id="a", task_name="m:f", output=OutputBuffer())
    assert (message.args, message.kwargs, message.labels, message.attempt) == ([], {}, {}, 1)

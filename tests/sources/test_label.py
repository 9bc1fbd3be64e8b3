"""Schedules declared on tasks."""

import copy
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sqlsched.brokers.in_process import InProcessBroker
from sqlsched.exceptions import BrokerError
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.label import LabelScheduleSource

HOURLY = {"cron": "0 * * * *"}


def declaring(*entries: Any, broker: InProcessBroker | None = None, **labels: Any) -> Any:
    """A source whose broker has one task, `app:f`, with these schedules."""
    broker = broker or InProcessBroker()
    broker.task("app:f", list(entries), **labels)(lambda: None)
    return LabelScheduleSource(broker)


async def only(source: LabelScheduleSource) -> ScheduledTask:
    [schedule] = await source.get_schedules()
    return schedule


async def test_an_entry_becomes_a_schedule_with_all_it_says() -> None:
    entry: dict[str, Any] = {
        "cron": "0 9 * * 1-5",
        "cron_offset": "Europe/Berlin",
        "args": [1],
        "kwargs": {"a": {"b": True}},
        "labels": {"tenant": "acme"},
        "schedule_id": "mornings",
        "retries": 3,
        "overlap": "allow",
        "timeout": timedelta(minutes=5),
        "jitter": 10,
        "max_runs": 7,
        "start": datetime(2026, 1, 1, tzinfo=UTC),
        "paused": True,
        "note": "by hand",
    }
    schedule = await only(declaring(entry, queue="low", tenant="none"))
    expected = entry | {"task_name": "app:f", "labels": {"queue": "low", "tenant": "acme"}}
    assert schedule == ScheduledTask(**expected)


@pytest.mark.parametrize(
    ("entry", "field", "value"),
    [
        ({"interval": 30}, "interval", 30),
        ({"interval": timedelta(minutes=1)}, "interval", 60),
        ({"time": datetime(2026, 3, 2, 12)}, "time", datetime(2026, 3, 2, 12, tzinfo=UTC)),  # noqa: DTZ001
        ({"cron": "0 9 * * *", "cron_offset": timedelta(hours=2)}, "cron_offset", "+02:00"),
        ({"interval": 30, "args": None, "labels": None, "schedule_id": None}, "args", []),
        ({"interval": 30, "args": (1, (2,))}, "args", [1, [2]]),
    ],
)
async def test_every_kind_of_value_is_read(entry: Any, field: str, value: Any) -> None:
    schedule = await only(declaring(entry))
    expected = ScheduledTask(task_name="app:f", **{**entry, field: value})
    assert getattr(schedule, field) == getattr(expected, field)


async def test_ids_are_the_same_at_every_start_and_follow_the_content() -> None:
    entries = [HOURLY, HOURLY | {"args": [1]}, HOURLY | {"args": [2]}]
    first = [schedule.schedule_id for schedule in await declaring(*entries).get_schedules()]
    again = [s.schedule_id for s in await declaring(*reversed(entries)).get_schedules()]
    assert again == first[::-1]
    assert len(set(first)) == 3
    # Written out: one that changed with a new version would make every schedule a new one.
    assert first[0] == "e351b7abdba1d976b5b5e5ab"


async def test_the_same_entry_of_two_tasks_is_two_schedules() -> None:
    broker = InProcessBroker()
    broker.task("app:g", [HOURLY])(lambda: None)
    schedules = await declaring(HOURLY, broker=broker).get_schedules()
    assert len({schedule.schedule_id for schedule in schedules}) == 2


async def test_what_was_declared_and_the_labels_stay_as_they_were() -> None:
    entry: dict[str, Any] = HOURLY | {"args": [[1]], "kwargs": {"a": {}}, "labels": {"x": []}}
    before = copy.deepcopy(entry)
    source = declaring(entry, queue="low")
    schedule = await only(source)
    schedule.args[0].append(2)
    schedule.kwargs["a"]["b"] = 1
    schedule.labels["x"].append(3)
    assert entry == before
    assert source.broker.tasks["app:f"].schedule == [before]
    assert source.broker.tasks["app:f"].labels == {"queue": "low"}
    assert (await only(source)).labels == {"queue": "low", "x": []}


async def test_what_becomes_of_the_dict_later_changes_no_schedule() -> None:
    entry: dict[str, Any] = HOURLY | {"args": [1]}
    source = declaring(entry)
    entry["args"].append(2)
    entry["cron"] = "nonsense"
    assert (await only(source)).args == [1]


class Hostile:
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError("no thanks")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (HOURLY | {"when": 1}, "unknown key 'when': give any of args, kwargs, labels, task_id,"),
        (HOURLY | {"task_name": "a:b"}, "unknown key 'task_name': give any of args,"),
        (HOURLY | {3: 1}, "unknown key 3: give any of args,"),
        ({"cron": "61 * * * *"}, "61"),
        ({"cron": "0 9 * * *", "cron_offset": "Mars/North"}, "cron_offset 'Mars/North'"),
        (HOURLY | {"interval": 30}, "exactly one of cron, time and interval"),
        ({}, "exactly one of cron, time and interval"),
        ("0 9 * * *", "'0 9 * * *': give a dict, like {\"cron\": "),
        (None, "None: give a dict"),
        ({"interval": 0}, "interval 0"),
        ({"time": "noon"}, "time 'noon': give a datetime"),
        (HOURLY | {"labels": [1]}, "labels is an array: give a JSON object"),
        (HOURLY | {"args": {1}}, "args has a set"),
        (HOURLY | {"args": [threading.Lock()]}, "args has a lock"),
        (HOURLY | {"args": [Hostile()]}, "no thanks"),
        (HOURLY | {"schedule_id": "a b"}, "schedule_id 'a b'"),
        (HOURLY | {"retries": -1}, "retries -1"),
    ],
)
async def test_a_wrong_entry_is_named_once_and_stops_only_itself(
    entry: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = declaring({"interval": 7}, entry, {"interval": 9})
    for _ in range(2):
        assert [s.interval for s in await source.get_schedules()] == [7, 9]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("sqlsched", logging.ERROR)
    said = record.getMessage()
    assert said.startswith("schedule[1] of app:f is left out: ")
    assert problem in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("schedule", "shown"),
    [(HOURLY | {"args": ["secret"]}, "an object"), ("0 9 * * *", "'0 9 * * *'"), (5, "5")],
)
async def test_schedules_that_are_no_list_are_named_and_stop_only_themselves(
    schedule: Any, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = InProcessBroker()
    broker.task("app:wrong", schedule)(lambda: None)
    await only(declaring(HOURLY, broker=broker))
    [said] = caplog.messages
    assert said.startswith(f"schedule of app:wrong is left out: {shown}: give a list")


@pytest.mark.parametrize("entry", [HOURLY, HOURLY | {"schedule_id": "mine"}])
async def test_of_two_with_one_id_the_second_is_named_and_left_out(
    entry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await only(declaring(entry, entry))
    [said] = caplog.messages
    assert "schedule[1] of app:f is left out: schedule_id" in said
    assert "taken by one of app:f; give another schedule_id" in said


async def test_plain_functions_and_tasks_without_schedules_declare_nothing() -> None:
    broker = InProcessBroker()

    def plain() -> None: ...

    plain.schedule = [HOURLY]  # type: ignore[attr-defined]
    broker.tasks["t:plain"] = plain
    broker.task("t:none")(plain)
    assert await LabelScheduleSource(broker).get_schedules() == []


async def test_a_task_of_two_names_declares_its_schedules_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = declaring(HOURLY)
    source.broker.tasks["alias"] = source.broker.tasks["app:f"]
    await only(source)
    assert caplog.messages == []


async def test_a_task_declared_after_the_source_was_made_is_found() -> None:
    broker = InProcessBroker()
    source = LabelScheduleSource(broker, name="labels of app")
    declaring(HOURLY, broker=broker)
    assert len(await source.get_schedules()) == 1
    assert source.name == "labels of app"


async def test_it_is_no_place_to_add_to() -> None:
    source = declaring(HOURLY)
    with pytest.raises(Exception, match="LabelScheduleSource takes no schedules"):
        await source.broker.tasks["app:f"].schedule_by_interval(source, 30)
    with pytest.raises(Exception, match="LabelScheduleSource removes no schedules"):
        await source.delete_schedule("a")


def test_something_that_is_no_broker_is_named() -> None:
    with pytest.raises(BrokerError, match=r"LabelScheduleSource of 'app': give the Broker whose"):
        LabelScheduleSource("app")  # type: ignore[arg-type]

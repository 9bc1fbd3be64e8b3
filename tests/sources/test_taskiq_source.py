"""`TaskiqScheduleSource` over taskiq's own sources, labels and Redis lists, and made-up ones."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import taskiq
from pydantic import BaseModel
from taskiq import InMemoryBroker
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.exceptions import ScheduledTaskCancelledError as TaskiqCancelledError
from taskiq.schedule_sources import LabelScheduleSource
from taskiq.serializers import JSONSerializer
from taskiq_redis import ListRedisScheduleSource

from sqlsched import InProcessBroker, Scheduler
from sqlsched.exceptions import (
    DuplicateScheduleError,
    InvalidScheduleError,
    ScheduledTaskCancelledError,
    ScheduleNotFoundError,
)
from sqlsched.instants import SECOND_US
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.taskiq import TaskiqScheduleSource
from sqlsched.storage import runs
from sqlsched.storage.connection import open_for_reading
from tests.servers import RedisServer

SECOND = timedelta(seconds=1)
DAILY: dict[str, Any] = {"task_name": "shop:count", "cron": "0 9 * * *"}


class Listed(taskiq.ScheduleSource):
    """A taskiq source in memory, which notes what it is told."""

    def __init__(self, *schedules: taskiq.ScheduledTask) -> None:
        self.schedules = list(schedules)
        self.calls: list[Any] = []
        self.cancels = False

    async def startup(self) -> None:
        self.calls.append("startup")

    async def shutdown(self) -> None:
        self.calls.append("shutdown")

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        return list(self.schedules)

    async def add_schedule(self, schedule: taskiq.ScheduledTask) -> None:
        self.schedules.append(schedule)

    async def delete_schedule(self, schedule_id: str) -> None:
        self.calls.append(("delete", schedule_id))
        self.schedules = [s for s in self.schedules if s.schedule_id != schedule_id]

    async def pre_send(self, task: taskiq.ScheduledTask) -> None:
        self.calls.append(("pre", task))
        if self.cancels:
            raise TaskiqCancelledError

    def post_send(self, task: taskiq.ScheduledTask) -> None:
        self.calls.append(("post", task))


def theirs(schedule_id: str = "x", **fields: Any) -> taskiq.ScheduledTask:
    plain = {"task_name": "shop:count", "labels": {}, "args": [], "kwargs": {}}
    return taskiq.ScheduledTask(schedule_id=schedule_id, **plain | fields)


async def served(*schedules: taskiq.ScheduledTask) -> list[ScheduledTask]:
    return await TaskiqScheduleSource(Listed(*schedules)).get_schedules()


# -- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "ours"),
    [
        ({"cron": "*/5 * * * 1-5"}, {"cron": "*/5 * * * 1-5"}),
        (
            {"cron": "0 9 * * *", "cron_offset": "Europe/Berlin"},
            {"cron": "0 9 * * *", "cron_offset": "Europe/Berlin"},
        ),
        (
            {"cron": "0 9 * * *", "cron_offset": timedelta(hours=-3)},
            {"cron": "0 9 * * *", "cron_offset": timedelta(hours=-3)},
        ),
        ({"interval": 30}, {"interval": 30}),
        ({"interval": timedelta(minutes=2)}, {"interval": 120}),
        (
            {"time": datetime(2030, 1, 1, 12)},  # noqa: DTZ001
            {"time": datetime(2030, 1, 1, 12, tzinfo=UTC)},
        ),
        (
            {"time": datetime.fromisoformat("2030-01-01T12:00+02:00")},
            {"time": datetime(2030, 1, 1, 10, tzinfo=UTC)},
        ),
    ],
)
async def test_every_trigger_of_taskiq_means_here_what_it_means_there(
    trigger: dict[str, Any], ours: dict[str, Any]
) -> None:
    [found] = await served(theirs(**trigger))
    assert found == ScheduledTask(task_name="shop:count", schedule_id="x", **ours)


async def test_arguments_labels_and_ids_come_along() -> None:
    given: dict[str, Any] = {
        "args": [1, [2]],
        "kwargs": {"a": {"b": None}},
        "labels": {"n": 7},
        "task_id": "t7",
    }
    [found] = await served(theirs(cron="@daily", **given))
    assert found == ScheduledTask(task_name="shop:count", schedule_id="x", cron="@daily", **given)


async def test_models_and_dataclasses_become_what_taskiq_would_send() -> None:
    class Model(BaseModel):
        day: datetime

    @dataclass
    class Data:
        size: int

    day = datetime(2030, 1, 1, tzinfo=UTC)
    [found] = await served(theirs(interval=5, args=[Model(day=day)], kwargs={"data": Data(3)}))
    assert (found.args, found.kwargs) == ([{"day": "2030-01-01T00:00:00Z"}], {"data": {"size": 3}})


async def test_labels_that_are_not_json_become_their_text() -> None:
    labels = {"delta": SECOND, "types_of_exceptions": (ValueError,), "list": [1]}
    [found] = await served(theirs(interval=5, labels=labels))
    assert found.labels == {"delta": "0:00:01", "list": [1]}


async def test_a_wrong_schedule_is_named_once_and_stops_only_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "six-fields": {"cron": "0 0 9 * * *"},
        "no-cron": {"cron": "every day"},
        "two-triggers": {"cron": "0 9 * * *", "time": datetime(2030, 1, 1, tzinfo=UTC)},
        "no-json": {"interval": 5, "args": [object()]},
        "no-zone": {"cron": "0 9 * * *", "cron_offset": "Mars/Base"},
        "no-name": {"interval": 5, "task_name": "two words"},
    }
    source = TaskiqScheduleSource(
        Listed(*(theirs(name, **fields) for name, fields in wrong.items()), theirs(interval=5))
    )
    for _ in range(2):
        assert [found.schedule_id for found in await source.get_schedules()] == ["x"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(wrong)
    for name, line in zip(wrong, said, strict=True):
        assert line.startswith(f"Listed: schedule '{name}' of ")
        assert "\n" not in line


async def test_an_id_with_other_characters_becomes_one_that_is_always_the_same() -> None:
    [first] = await served(theirs("käse:1", interval=5))
    [again] = await served(theirs("käse:1", interval=9))
    [other] = await served(theirs("käse:2", interval=5))
    assert first.schedule_id == again.schedule_id != other.schedule_id


async def test_what_is_listed_twice_is_served_once(caplog: pytest.LogCaptureFixture) -> None:
    assert len(await served(theirs(interval=5), theirs(interval=5))) == 1
    assert caplog.records == []
    found = await served(theirs(interval=5), theirs(interval=6))
    assert [each.interval for each in found] == [5]
    [record] = caplog.records
    assert "the id is taken" in record.getMessage()


async def test_nothing_of_theirs_is_changed_or_shared() -> None:
    original = theirs(interval=5, args=[[1]], labels={"a": [1]})
    before = original.model_copy(deep=True)
    [found] = await served(original)
    found.args[0].append(2)
    found.labels["a"].append(2)
    assert original == before


def test_only_a_taskiq_source_is_wrapped() -> None:
    with pytest.raises(TypeError, match="give a ScheduleSource of taskiq"):
        TaskiqScheduleSource("redis://")  # type: ignore[arg-type]


# -- schedules on taskiq's tasks ------------------------------------------------------------------


def count(number: int = 0) -> None: ...


def labelled() -> TaskiqScheduleSource:
    broker = InMemoryBroker()
    entries = [
        {"cron": "0 9 * * *", "args": [1]},
        {"cron": "0 9 * * *", "args": [1]},
        {"interval": 30, "schedule_id": "mine"},
        {"interval": 30, "schedule_id": "mine: 2"},
    ]
    broker.task("shop:count", schedule=entries, queue="low")(count)
    return TaskiqScheduleSource(LabelScheduleSource(broker))


async def test_declared_schedules_have_the_same_ids_at_every_start() -> None:
    source = labelled()
    first = await source.get_schedules()
    await source.shutdown()
    again = await source.get_schedules()
    other = await labelled().get_schedules()
    ids = [each.schedule_id for each in first]
    assert ids == [each.schedule_id for each in again] == [each.schedule_id for each in other]
    assert len(set(ids)) == 4
    assert ids[2] == "mine"
    assert first[0].labels == {"queue": "low"}


async def test_a_declared_one_shot_that_was_sent_is_not_listed_again() -> None:
    broker = InMemoryBroker()
    broker.task("shop:count", schedule=[{"time": datetime(2020, 1, 1, tzinfo=UTC)}])(count)
    source = TaskiqScheduleSource(LabelScheduleSource(broker))
    [found] = await source.get_schedules()
    await source.post_send(found)
    assert await source.get_schedules() == []


async def test_declared_schedules_are_not_deleted() -> None:
    with pytest.raises(ScheduleNotFoundError):
        await labelled().delete_schedule("nonesuch")
    with pytest.raises(NotImplementedError):
        await labelled().delete_schedule("mine")


# -- what goes in ---------------------------------------------------------------------------------


async def test_a_schedule_that_is_added_is_theirs() -> None:
    inner = Listed()
    schedule = ScheduledTask(
        task_name="shop:count", cron="0 9 * * *", cron_offset=timedelta(hours=2), args=[[1]]
    )
    source = TaskiqScheduleSource(inner)
    await source.add_schedule(schedule)
    assert inner.schedules == [
        theirs(schedule.schedule_id, cron="0 9 * * *", cron_offset=timedelta(hours=2), args=[[1]])
    ]
    assert await source.get_schedules() == [schedule]


@pytest.mark.parametrize(
    "policy",
    [
        {"max_runs": 3},
        {"jitter": 5},
        {"end": datetime(2031, 1, 1, tzinfo=UTC)},
        {"retries": 2},
        {"overlap": "allow"},
        {"paused": True},
        {"note": "ours"},
    ],
)
async def test_a_policy_that_taskiq_does_not_know_is_refused_by_name(
    policy: dict[str, Any],
) -> None:
    inner = Listed()
    with pytest.raises(InvalidScheduleError, match=f"^{next(iter(policy))} .*cannot hold it"):
        await TaskiqScheduleSource(inner).add_schedule(ScheduledTask(**DAILY, **policy))
    assert inner.schedules == []


async def test_the_same_is_added_once_and_another_only_to_replace_it() -> None:
    inner = Listed()
    source = TaskiqScheduleSource(inner)
    first = ScheduledTask(schedule_id="x", task_name="shop:count", interval=5)
    other = ScheduledTask(schedule_id="x", task_name="shop:count", interval=6)
    await source.add_schedule(first)
    await source.add_schedule(first)
    with pytest.raises(DuplicateScheduleError, match="'x'"):
        await source.add_schedule(other)
    assert await source.get_schedules() == [first]
    await source.add_schedule(other, replace=True)
    assert inner.schedules == [theirs(interval=6)]


async def test_deleting_uses_their_id() -> None:
    inner = Listed(theirs("käse:1", interval=5))
    source = TaskiqScheduleSource(inner)
    [found] = await source.get_schedules()
    await source.delete_schedule(found.schedule_id)
    assert inner.calls[-1] == ("delete", "käse:1")


# -- hooks and the life of a source ---------------------------------------------------------------


async def test_the_hooks_get_their_own_schedule() -> None:
    original = theirs("käse:1", interval=5)
    inner = Listed(original)
    source = TaskiqScheduleSource(inner)
    [found] = await source.get_schedules()
    inner.schedules.clear()
    await source.get_schedules()  # it is not listed any more, and its send comes to its end
    await source.pre_send(found)
    await source.post_send(found)
    (pre, first), (post, second) = inner.calls[-2:]
    assert (pre, post) == ("pre", "post")
    assert first is second is original


async def test_a_hook_for_what_was_never_listed_here_gets_the_same_content() -> None:
    inner = Listed()
    schedule = ScheduledTask(schedule_id="x", task_name="shop:count", interval=5, args=[1])
    await TaskiqScheduleSource(inner).post_send(schedule)
    assert inner.calls == [("post", theirs(interval=5, args=[1]))]


async def test_a_firing_that_they_cancel_is_cancelled_here() -> None:
    inner = Listed(theirs(interval=5))
    source = TaskiqScheduleSource(inner)
    [found] = await source.get_schedules()
    inner.cancels = True
    with pytest.raises(ScheduledTaskCancelledError, match="Listed cancelled x"):
        await source.pre_send(found)


async def test_it_is_started_and_shut_down_once_and_can_be_started_again() -> None:
    inner = Listed()
    source = TaskiqScheduleSource(inner)
    await source.shutdown()
    for _ in range(2):
        await source.startup()
        await source.startup()
        await source.shutdown()
        await source.shutdown()
    assert inner.calls == ["startup", "shutdown"] * 2


# -- with taskiq-redis and our engine -------------------------------------------------------------


class World:
    """Redis' list of schedules, our ledger, and what ran."""

    def __init__(self, url: str, ledger: Path, serializer: TaskiqSerializer | None) -> None:
        self.redis = ListRedisScheduleSource(url, serializer=serializer)
        self.ledger = ledger
        self.ran: list[Any] = []

    def source(self) -> TaskiqScheduleSource:
        return TaskiqScheduleSource(self.redis)

    async def run(self, seconds: float = 0) -> None:
        """Serve for a while, as a scheduler that was started just now."""
        broker = InProcessBroker()
        broker.tasks["shop:count"] = lambda *args: self.ran.append(args)
        scheduler = Scheduler(broker, [self.source()], database=self.ledger)
        running = asyncio.create_task(scheduler.run())
        async with asyncio.timeout(20):
            count = len(self.ran)
            while seconds == 0 and len(self.ran) == count:  # noqa: ASYNC110 - a thread's doing
                await asyncio.sleep(0.01)
            await asyncio.sleep(seconds)
        scheduler.stop()
        await running

    def nominal(self, schedule_id: str) -> list[int]:
        database = open_for_reading(self.ledger)
        rows = [row.scheduled_us for row in runs.history(database, schedule_id=schedule_id)]
        database.close()
        return rows

    async def listed(self) -> list[str]:
        return [each.schedule_id for each in await self.redis.get_schedules()]


@pytest.fixture(params=[JSONSerializer, None], ids=["json", "its-default"])
async def world(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[World]:
    serializer = request.param() if request.param else None
    world = World(redis_server.url, tmp_path / "ledger.db", serializer)
    yield world
    await world.redis._connection_pool.disconnect()


async def test_a_one_shot_in_redis_runs_once_and_goes(world: World) -> None:
    past = datetime.now(UTC) - timedelta(minutes=90)
    await world.redis.add_schedule(theirs("late", time=past, args=[1]))
    await world.redis.add_schedule(theirs("daily", cron="0 0 1 1 *", args=[2]))
    await world.run()
    assert world.ran == [(1,)]
    assert await world.listed() == ["daily"]
    await world.run(seconds=0.3)
    assert world.ran == [(1,)]


async def test_a_one_shot_that_redis_still_lists_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(ListRedisScheduleSource, "post_send", fails)
    past = datetime.now(UTC) - timedelta(minutes=90)
    await world.redis.add_schedule(theirs("late", time=past, args=[1]))
    await world.run()
    assert await world.listed() == ["late"]
    await world.run(seconds=0.3)
    assert world.ran == [(1,)]


async def test_an_interval_in_redis_keeps_its_pace_over_a_restart(world: World) -> None:
    await world.redis.add_schedule(theirs("often", interval=1))
    await world.run()
    await world.run()
    moments = world.nominal("often")
    assert len(moments) == len(set(moments)) >= 2
    assert {moment % SECOND_US for moment in moments} == {moments[0] % SECOND_US}
    assert await world.listed() == ["often"]


async def test_schedules_go_into_redis_and_come_out_as_they_were(world: World) -> None:
    source = world.source()
    soon = datetime.now(UTC) + 30 * SECOND
    for trigger in ({"cron": "0 9 * * *", "cron_offset": timedelta(hours=-3)}, {"interval": 90}):
        schedule = ScheduledTask(task_name="shop:count", args=[1], labels={"a": True}, **trigger)
        await source.add_schedule(schedule)
        await source.add_schedule(schedule)
        assert schedule in await source.get_schedules()
        await source.delete_schedule(schedule.schedule_id)
        assert await world.listed() == []
    later = ScheduledTask(task_name="shop:count", time=soon + timedelta(hours=3))
    await source.add_schedule(later)
    assert await source.get_schedules() == []
    await source.delete_schedule(later.schedule_id)

"""A sqlsched database served by taskiq: through a real `taskiq scheduler`, and step by step."""

import json
import random
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pycron  # type: ignore[import-untyped]
import pytest
import redis
import taskiq
from taskiq.exceptions import ScheduledTaskCancelledError

from sqlsched.cron import parse_cron
from sqlsched.exceptions import (
    DuplicateScheduleError,
    InvalidScheduleError,
    ScheduleNotFoundError,
    StorageError,
)
from sqlsched.integrations.taskiq import SqliteScheduleSource, plain_cron
from sqlsched.scheduled_task import SHELL_TASK, ScheduledTask
from sqlsched.sources import sqlite
from sqlsched.storage import changes, runs
from sqlsched.storage.connection import open_for_reading, open_for_writing
from tests.servers import Program, RedisServer, wait_for

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)

APP = """
import json
import redis.asyncio
from taskiq import Context, TaskiqDepends, TaskiqScheduler
from taskiq_redis import ListQueueBroker
from sqlsched.integrations.taskiq import SqliteScheduleSource

broker = ListQueueBroker("URL")
scheduler = TaskiqScheduler(broker, [SqliteScheduleSource("app.db")])

@broker.task("shop:count")
async def count(*args, context: Context = TaskiqDepends()) -> None:
    async with redis.asyncio.Redis.from_url("URL") as client:
        await client.rpush("seen", json.dumps([context.message.labels, args]))
"""


class World:
    """A database, as sqlsched writes to it and as taskiq reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = sqlite.SqliteScheduleSource(path)
        self.source = SqliteScheduleSource(path)

    async def add(self, **fields: Any) -> ScheduledTask:
        schedule = ScheduledTask(**{"task_name": "shop:count"} | fields)
        await self.own.add_schedule(schedule)
        return schedule

    async def ids(self) -> list[str]:
        return [each.schedule_id for each in await self.source.get_schedules()]

    def change(self, change: Callable[..., None], schedule_id: str) -> None:
        database = open_for_writing(self.path)
        change(database, [schedule_id], 1)
        database.close()

    def history(self) -> list[tuple[str, str]]:
        database = open_for_reading(self.path)
        rows = [(row.schedule_id, row.status) for row in runs.history(database)]
        database.close()
        return rows


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "app.db")
    yield world
    await world.source.shutdown()
    await world.own.shutdown()


async def test_taskiqs_scheduler_sends_and_its_worker_runs(
    world: World, redis_server: RedisServer, tmp_path: Path, start_program: Callable[..., Program]
) -> None:
    (tmp_path / "app.py").write_text(APP.replace("URL", redis_server.url))
    often = await world.add(interval=1, args=[1], labels={"number": 7}, timeout=30)
    once = await world.add(time=NOON.replace(year=2020), args=[2])
    paused = await world.add(interval=1, args=[3], paused=True)
    worker = start_program("taskiq", "worker", "app:broker", "--workers", "1")
    scheduler = start_program("taskiq", "scheduler", "app:scheduler", "--update-interval", "1")
    with redis.Redis.from_url(redis_server.url) as client:
        wait_for(lambda: int(client.llen("seen")) >= 4)
        for program in (scheduler, worker):
            program.stop(signal.SIGKILL)
        raw: Any = client.lrange("seen", 0, -1)
    seen = [json.loads(item) for item in raw]
    labels = {"number": 7, "timeout": 30, "schedule_id": often.schedule_id}
    assert seen.count([labels, [1]]) == len(seen) - 1
    assert seen.count([{"schedule_id": once.schedule_id}, [2]]) == 1
    assert world.history() == [(once.schedule_id, "sent")]
    assert await world.ids() == [often.schedule_id]
    assert {each.schedule_id for each in await world.own.get_schedules()} == {
        often.schedule_id,
        paused.schedule_id,
    }


@pytest.mark.parametrize(
    "trigger",
    [
        {"cron": "*/5 9 * * *", "cron_offset": "Europe/Berlin"},
        {"cron": "0 9 * * 1", "cron_offset": timedelta(hours=-3)},
        {"interval": 30},
        {"time": NOON},
    ],
)
async def test_what_taskiq_adds_sqlsched_has_and_taskiq_gets_back(
    world: World, trigger: dict[str, Any]
) -> None:
    given = taskiq.ScheduledTask(
        task_name="shop:count", labels={"a": 1}, args=[[1]], kwargs={"b": 2}, **trigger
    )
    await world.source.add_schedule(given)
    await world.source.add_schedule(given)
    [held] = await world.own.get_schedules()
    assert (held.args, held.kwargs, held.labels) == ([[1]], {"b": 2}, {"a": 1})
    [back] = await world.source.get_schedules()
    expanded = {"cron": plain_cron(trigger["cron"])} if "cron" in trigger else {}
    assert back == given.model_copy(update=expanded)
    await world.source.delete_schedule(given.schedule_id)
    assert await world.own.get_schedules() == []


async def test_other_content_under_an_id_is_refused(world: World) -> None:
    given = taskiq.ScheduledTask(
        task_name="shop:count", labels={}, args=[], kwargs={}, schedule_id="odd id", interval=5
    )
    await world.source.add_schedule(given)
    with pytest.raises(DuplicateScheduleError):
        await world.source.add_schedule(given.model_copy(update={"interval": 6}))
    await world.source.delete_schedule("odd id")
    with pytest.raises(ScheduleNotFoundError):
        await world.source.delete_schedule("odd id")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"end": NOON}, "it knows no end"),
        ({"max_runs": 3}, "it knows no max_runs, which is 3"),
        ({"jitter": 5}, "it knows no jitter"),
        ({"retries": 2}, "it knows no retries"),
        ({"overlap": "skip"}, "it knows no overlap, which is skip"),
        ({"interval": None, "cron": "0 9 L * *"}, "its cron has no day-of-month l"),
        ({"interval": None, "cron": "0 9 * * 1#2"}, "its cron has no day-of-week 1#2"),
        ({"interval": None, "cron": "0 9 */2 * 1"}, "its cron has no */2 on 1"),
        ({"task_name": SHELL_TASK, "args": ["true"]}, "a queue runs no commands"),
    ],
)
async def test_what_taskiq_cannot_serve_is_named_once_and_left_out(
    world: World, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], said: str
) -> None:
    await world.add(**{"schedule_id": "odd", "interval": 60} | fields)
    await world.add(schedule_id="plain", interval=60, overlap="allow")
    assert await world.ids() == await world.ids() == ["plain"]
    [line] = [record.getMessage() for record in caplog.records if record.name == "sqlsched"]
    assert line.startswith(f"taskiq cannot serve schedule odd, it is left out: {said}")


@pytest.mark.parametrize(
    "cron",
    [
        *("* * * * *", "@daily", "*/7 */5 * * *", "5/10 3 * * *", "0  9\t* * sun", "0 9 * * 7"),
        *(
            "0 9 ? * mon-fri",
            "0 9 1-31 * 1",
            "0 9 13 * fri",
            "30 4 1,15 jan-jun/2 *",
            "0 0 */2 * *",
        ),
        *("0 9 * * */2", "0 9 * * 5-7", "0 9 10-20/3 * *", "0 9 * * 1-5/2", "0 0 31 12 ?"),
    ],
)
def test_a_plain_cron_means_the_same_to_pycron(cron: str) -> None:
    chance, expression, plain = random.Random(cron), parse_cron(cron), plain_cron(cron)
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    for _ in range(200):
        moment += timedelta(minutes=chance.randrange(1, 4000))
        fire = expression.next_fire(moment - timedelta(minutes=1), UTC)
        assert fire is not None
        assert pycron.is_now(plain, moment) == (fire == moment), moment
        assert pycron.is_now(plain, fire), fire


async def test_a_schedule_paused_or_removed_since_taskiq_asked_is_not_sent(world: World) -> None:
    first, second, third = [await world.add(interval=60) for _ in range(3)]
    listed = {each.schedule_id: each for each in await world.source.get_schedules()}
    world.change(changes.pause, first.schedule_id)
    world.change(changes.remove, second.schedule_id)
    for gone in (first, second):
        with pytest.raises(ScheduledTaskCancelledError):
            await world.source.pre_send(listed[gone.schedule_id])
    await world.source.pre_send(listed[third.schedule_id])
    await world.source.post_send(listed[third.schedule_id])
    await world.source.post_send(listed[second.schedule_id])
    assert await world.ids() == [third.schedule_id]


async def test_a_one_shot_that_was_sent_is_done_and_cannot_run_again(world: World) -> None:
    schedule = await world.add(time=NOON)
    [listed] = await world.source.get_schedules()
    await world.source.pre_send(listed)
    await world.source.post_send(listed)
    await world.source.post_send(listed)
    assert await world.ids() == []
    assert world.history() == [(schedule.schedule_id, "sent")]
    with pytest.raises(ScheduledTaskCancelledError):
        await world.source.pre_send(listed)
    await world.own.add_schedule(schedule)
    assert await world.own.get_schedules() == []


async def test_a_database_that_cannot_be_read_keeps_what_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = await world.add(interval=60)
    assert await world.ids() == [schedule.schedule_id]

    async def fails(*_: object) -> list[ScheduledTask]:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(sqlite.SqliteScheduleSource, "get_schedules", fails)
    assert await world.ids() == [schedule.schedule_id]
    assert "the disk is gone" in caplog.text


async def test_what_sqlsched_cannot_hold_is_refused(world: World) -> None:
    given = taskiq.ScheduledTask(
        task_name="shop:count", labels={}, args=[object()], kwargs={}, interval=5
    )
    with pytest.raises(InvalidScheduleError, match="args has a object"):
        await world.source.add_schedule(given)


async def test_it_can_be_started_and_shut_down_again_and_again(world: World) -> None:
    for _ in range(2):
        await world.source.startup()
        await world.source.startup()
        assert await world.ids() == []
        await world.source.shutdown()
        await world.source.shutdown()

"""The clock is set while the engine runs, or was set while nothing ran."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from sqlsched import (
    InProcessBroker,
    RunOutcome,
    ScheduledTask,
    Scheduler,
    ScheduleSource,
    SendTaskError,
)
from sqlsched.engine.steps import Steps
from sqlsched.scheduled_task import TaskMessage
from sqlsched.storage import changes, runs, set_back
from sqlsched.storage.connection import Database
from tests.engine.conftest import START, World

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@asynccontextmanager
async def served(
    world: World, scheduler: Scheduler | None = None, **how: Any
) -> AsyncIterator[Scheduler]:
    """Serve while the test goes on, and stops or sets the clock."""
    scheduler = scheduler or world.scheduler()
    serving = asyncio.create_task(scheduler.run(**how))
    for _ in range(5):  # until it is at work, and time stands still
        await asyncio.sleep(0)
    yield scheduler
    scheduler.stop()
    await serving


class Reluctant(InProcessBroker):
    """Takes nothing until it is told to."""

    takes = False

    async def kick(self, message: TaskMessage) -> RunOutcome:
        if not self.takes:
            raise SendTaskError("not yet")
        return await super().kick(message)


class Listed(ScheduleSource):
    def __init__(self) -> None:
        self.asked: list[datetime] = []

    async def get_schedules(self) -> list[ScheduledTask]:
        assert self.clock is not None
        self.asked.append(self.clock.now())
        return []


async def test_a_refused_run_is_offered_again_though_the_clock_is_put_back(world: World) -> None:
    world.broker = broker = Reluctant()
    world.task("note", world._note)
    await world.add(time=START)
    async with served(world):
        await world.clock.sleep(7200)
        world.clock.set_back(HOUR)
        await world.clock.sleep(40)
        broker.takes = True
        await world.clock.sleep(40)
    assert [row.status for row in world.history()] == ["succeeded"]


async def test_a_refused_run_that_was_given_back_is_offered_again_too(world: World) -> None:
    world.broker = broker = Reluctant()
    world.task("note", world._note)
    await world.add(time=START)
    async with served(world):
        await world.clock.sleep(7200)
    world.clock.set_back(HOUR)
    broker.takes = True
    async with served(world):
        await world.clock.sleep(5)
    assert [row.status for row in world.history()] == ["succeeded"]


async def test_a_retry_is_not_parked_by_a_step_back_in_the_moment_that_its_run_fails(
    world: World,
) -> None:
    async def fail() -> None:
        world.calls.append(("fail", world.clock.now()))
        if len(world.calls) == 1:
            asyncio.get_running_loop().call_soon(world.clock.set_back, DAY)
            raise RuntimeError("not yet")

    world.task("fail", fail)
    await world.add("t:fail", time=START + MINUTE, retries=1, retry_delay=30)
    async with served(world):
        await world.clock.sleep(100)
    assert [row.status for row in world.history()] == ["failed", "succeeded"]


async def test_no_run_ends_before_it_began(world: World) -> None:
    async def set_back() -> None:
        world.clock.set_back(HOUR)

    world.task("set_back", set_back)
    await world.add("t:set_back", time=START + MINUTE)
    await world.run()
    (row,) = world.history()
    assert row.started_us == row.finished_us


async def test_skip_first_run_skips_no_more_than_its_minute_when_the_clock_is_put_back(
    world: World,
) -> None:
    await world.add(cron="* * * * *")
    async with served(world, skip_first_run=True):
        await world.clock.sleep(100)
        world.clock.set_back(2 * DAY)
        await world.clock.sleep(120)
    assert [f"{moment:%d %H:%M}" for _, moment in world.calls] == [
        *("02 12:01", "02 12:02"),
        *("28 12:03", "28 12:04"),
    ]


async def test_the_minute_of_skip_first_run_is_waited_for_no_longer_when_the_clock_is_put_back(
    world: World,
) -> None:
    await world.add(interval=1)
    async with served(world, skip_first_run=True):
        await world.clock.sleep(10)
        world.clock.set_back(DAY)
        await world.clock.sleep(62)
    assert world.calls


async def test_sources_are_asked_each_minute_though_the_clock_is_put_back(world: World) -> None:
    source = Listed()
    scheduler = Scheduler(world.broker, [world.source, source], clock=world.clock)
    async with served(world, scheduler):
        await world.clock.sleep(100)
        assert len(source.asked) == 3
        world.clock.set_back(DAY)
        await world.clock.sleep(61)
    assert [f"{moment:%d %H:%M:%S}" for moment in source.asked[3:]] == [
        "01 12:02:10",
        "01 12:03:00",
    ]


@pytest.mark.parametrize("fields", [{"cron": "* * * * *"}, {"interval": 60}])
async def test_a_schedule_added_by_a_clock_that_was_ahead_is_not_parked(
    world: World, fields: dict[str, Any]
) -> None:
    world.clock.set_forward(400 * DAY)
    await world.add(**fields)
    world.clock.set_back(400 * DAY)
    await world.run(10 * MINUTE)
    assert len(world.calls) == (10 if "cron" in fields else 9)


async def test_one_resumed_edited_or_triggered_by_a_clock_that_was_ahead_is_not_parked(
    world: World,
) -> None:
    for name in ("resumed", "edited", "triggered"):
        cron = "0 0 1 1 *" if name == "triggered" else "* * * * *"
        await world.add(cron=cron, schedule_id=name, args=[name], paused=name == "resumed")
    world.clock.set_forward(30 * DAY)
    database, now_us = world.writing(), world.clock.now_us()
    changes.resume_all(database, ["resumed"], now_us)
    changes.edit(database, "edited", lambda schedule: schedule, now_us)
    runs.trigger(database, "triggered", now_us)
    database.close()
    world.clock.set_back(30 * DAY)
    await world.run(MINUTE)
    assert sorted(name for name, _ in world.calls) == ["edited", "resumed", "triggered"]


async def test_a_restart_after_a_step_back_that_was_served_waits_for_nothing(world: World) -> None:
    await world.add(cron="* * * * *")
    world.clock.set_forward(400 * DAY)
    await world.run(MINUTE)
    async with served(world):
        await world.clock.sleep(10)
        world.clock.set_back(400 * DAY)
        await world.clock.sleep(10)
    calls = len(world.calls)
    async with served(world):
        await world.clock.sleep(61)
    assert len(world.calls) == calls + 1


async def test_who_is_stopped_while_it_waits_for_the_clock_believes_nothing(world: World) -> None:
    await world.add(cron="* * * * *")
    await world.run(2 * MINUTE)
    world.clock.set_back(20_000 * DAY)
    for _ in range(2):
        async with served(world):
            await world.clock.sleep(10)
    world.clock.set_forward(20_000 * DAY)
    await world.run(2 * MINUTE)
    assert {row.status for row in world.history()} == {"succeeded"}


async def test_history_is_not_judged_by_a_clock_that_was_put_forward_a_moment_ago(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_back, loop = set_back.pull_back, asyncio.get_running_loop()

    def pull_back_while_the_clock_is_set(database: Database, now_us: int) -> int:
        loop.call_soon_threadsafe(world.clock.set_forward, 400 * DAY)
        return pull_back(database, now_us)

    monkeypatch.setattr(set_back, "pull_back", pull_back_while_the_clock_is_set)
    await world.add(interval=600)
    async with served(world):
        await world.clock.sleep(7000)
        world.clock.set_back(HOUR)
        await world.clock.sleep(10)
    assert len([row for row in world.history() if row.status == "succeeded"]) == 11


async def test_a_step_back_in_the_moment_that_it_is_looked_for_parks_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_us = Steps.take_us
    moments = iter([False, False, True])

    def set_and_take_us(self: Steps) -> int:
        if next(moments, False):
            world.clock.set_back(DAY)
        return take_us(self)

    monkeypatch.setattr(Steps, "take_us", set_and_take_us)
    await world.add(interval=10)
    async with served(world):
        await world.clock.sleep(65)
    assert len(world.calls) >= 5

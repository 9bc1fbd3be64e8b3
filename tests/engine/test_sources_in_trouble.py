"""Sources, hooks and merge functions that misbehave: nothing is lost, and nobody hangs."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from sqlsched import (
    Broker,
    BrokerError,
    InProcessBroker,
    RunOutcome,
    ScheduledTask,
    Scheduler,
    ScheduleSource,
    SendTaskError,
    SqliteScheduleSource,
    SqlschedError,
    StorageError,
    TaskMessage,
)
from sqlsched.engine.scheduler import Options
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import to_us
from sqlsched.sources.redis import RedisScheduleSource
from sqlsched.storage import changes, mirror, set_back
from tests.engine.conftest import START, World
from tests.engine.test_several_sources import Listed, calls, copies, every_minute
from tests.servers import RedisServer

MINUTE = timedelta(minutes=1)
NAIVE = datetime(2026, 3, 2, 12, 1, 30)  # noqa: DTZ001 - what is UTC then


def scheduler(world: World, *sources: ScheduleSource, **arguments: Any) -> Scheduler:
    given = {"broker": world.broker, "clock": world.clock, "database": world.path} | arguments
    return Scheduler(given.pop("broker"), sources, **given)


async def test_a_list_that_could_not_be_written_is_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, tries = mirror.sync, iter([True])

    def flaky(*arguments: Any) -> mirror.Synced:
        if next(tries, False):
            raise StorageError("no space is left on the disk")
        return sync(*arguments)

    monkeypatch.setattr(mirror, "sync", flaky)
    await scheduler(world, Listed(every_minute("a"))).run(until=START + 2 * MINUTE)
    assert "a 12:01:00" in calls(world)


async def test_an_id_that_becomes_free_is_served(world: World) -> None:
    await world.add(cron="0 0 1 1 *", schedule_id="x", args=["own"])
    world.task("free", lambda: world.source.delete_schedule("x"))
    await world.add("t:free", time=START + MINUTE)
    await scheduler(world, world.source, Listed(every_minute("x"))).run(until=START + 3 * MINUTE)
    assert "x 12:03:00" in calls(world)


class Queue(Broker):
    """Takes messages while it is up; a send hangs until then."""

    reports_completion = False

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.sent: list[TaskMessage] = []

    async def kick(self, message: TaskMessage) -> None:
        await self.up.wait()
        self.sent.append(message)


async def test_a_timeout_is_the_workers_to_keep_and_no_send_is_lost_by_it(world: World) -> None:
    queue = Queue()
    await world.add(time=START, timeout=2, schedule_id="one")
    running = asyncio.create_task(scheduler(world, broker=queue).run(until_idle=True))
    await asyncio.sleep(0.3)
    world.clock.advance(10)
    await asyncio.sleep(0.1)
    queue.up.set()
    await running
    assert [message.timeout for message in queue.sent] == [2]
    assert world.statuses() == [("12:00:30", "sent")]


@pytest.mark.parametrize(
    ("delivery", "statuses"), [("at-least-once", ["sent"]), ("at-most-once", ["abandoned"])]
)
async def test_a_send_that_a_shutdown_cut_off_follows_the_delivery_rule(
    world: World, delivery: str, statuses: list[str]
) -> None:
    queue = Queue()
    options = Options(drain_seconds=1, delivery=delivery)
    await world.add(time=START, schedule_id="one")
    serving = scheduler(world, broker=queue)
    running = asyncio.create_task(serving.run(options=options))
    await asyncio.sleep(0.3)
    serving.stop()
    await asyncio.sleep(0.1)
    world.clock.advance(5)
    await running
    queue.up.set()
    await scheduler(world, broker=queue).run(once=True, options=options)
    assert [row.status for row in world.history()] == statuses
    assert len(queue.sent) == statuses.count("sent")


async def test_a_run_whose_source_was_being_asked_at_a_shutdown_is_not_lost(world: World) -> None:
    class Slow(Listed):
        asked_to_send = 0

        async def pre_send(self, task: ScheduledTask) -> None:  # noqa: ARG002
            self.asked_to_send += 1
            if self.asked_to_send == 1:
                await asyncio.sleep(3600)

    source = Slow(every_minute("a", cron=None, time=START))
    serving = scheduler(world, source)
    running = asyncio.create_task(serving.run(options=Options(drain_seconds=1)))
    while not source.asked_to_send:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.01)
    serving.stop()
    await asyncio.sleep(0.1)
    world.clock.advance(5)
    await running
    await scheduler(world, source).run(once=True)
    assert [name for name, _ in world.calls] == ["a"]


async def test_a_post_send_that_hangs_does_not_undo_the_run(world: World) -> None:
    class Hanging(Listed):
        async def post_send(self, task: ScheduledTask) -> None:  # noqa: ARG002
            await asyncio.sleep(3600)

    source = Hanging(every_minute("a", cron=None, time=START, timeout=1, retries=2))
    serving = scheduler(world, source)
    running = asyncio.create_task(serving.run(options=Options(drain_seconds=1)))
    while not world.calls:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.01)
    serving.stop()
    await asyncio.sleep(0.1)
    world.clock.advance(5)
    await running
    assert world.statuses() == [("12:00:30", "succeeded")]


async def test_a_source_whose_startup_hangs_holds_up_nobody(world: World) -> None:
    class Hanging(Listed):
        async def startup(self) -> None:
            await asyncio.sleep(3600)

    await world.add(time=START, schedule_id="own", args=["own"])
    running = asyncio.create_task(scheduler(world, world.source, Hanging()).run())
    async with asyncio.timeout(5):
        while not world.calls:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    assert calls(world) == ["own 12:00:30"]


async def test_a_cancellation_from_within_a_source_is_a_failure_to_answer(world: World) -> None:
    class Cancelled(Listed):
        async def get_schedules(self) -> list[ScheduledTask]:
            if self.asked == 0:
                self.asked = 1
                raise asyncio.CancelledError
            return await super().get_schedules()

    with pytest.raises(StorageError, match="it was cancelled"):
        await scheduler(world, Cancelled(every_minute("a"))).run(once=True)
    await scheduler(world, Cancelled(every_minute("a"))).run(until=START + MINUTE)
    assert "a 12:00:31" in calls(world)


async def test_a_source_that_calls_exit_ends_no_scheduler(world: World) -> None:
    class Leaving(Listed):
        async def get_schedules(self) -> list[ScheduledTask]:
            raise SystemExit(3)

    await world.add(cron="* * * * *", schedule_id="own", args=["own"])
    sources = [world.source, Leaving()]
    await scheduler(world, *sources).run(until=START + MINUTE)
    assert calls(world) == ["own 12:01:00"]


async def test_a_one_shot_that_is_listed_no_more_still_goes_out(world: World) -> None:
    class Forgetful(Listed):
        refusals = 8

        def pre_send(self, task: ScheduledTask) -> None:
            self.schedules.clear()
            self.refusals -= 1
            if self.refusals > 0:
                raise SendTaskError(f"not yet: {task.schedule_id}")

    source = Forgetful(every_minute("a", cron=None, time=START))
    await scheduler(world, source).run(until=START + 5 * MINUTE)
    assert [name for name, _ in world.calls] == ["a"]
    assert copies(world) == {}


async def test_a_merge_function_may_return_any_iterable(world: World) -> None:
    await world.add(cron="* * * * *", schedule_id="own", args=["own"])
    lazy: Any = lambda old, new: filter(None, [*old, *new])  # noqa: E731
    sources = [world.source, Listed(every_minute("a"))]
    await scheduler(world, *sources, merge_func=lazy).run(until=START + MINUTE)
    assert sorted(calls(world)) == ["a 12:00:30", "a 12:01:00", "own 12:01:00"]


async def test_a_merge_function_that_changes_what_the_database_holds_is_told_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.add(cron="* * * * *", schedule_id="own", args=["own"])

    def merge(old: list[ScheduledTask], new: list[ScheduledTask]) -> list[ScheduledTask]:
        return old + [replace(schedule, args=["changed"]) for schedule in new]

    await scheduler(world, world.source, merge_func=merge).run(until=START + MINUTE)
    assert calls(world) == ["own 12:01:00"]
    assert "can be left out, not changed" in caplog.text


async def test_a_shutdown_that_fails_or_hangs_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlsched.engine.scheduler.END_SECONDS", 0.1)
    ended: list[str] = []

    class Failing(Listed):
        async def shutdown(self) -> None:
            raise RuntimeError("no")

    class Hanging(Listed):
        async def shutdown(self) -> None:
            await asyncio.sleep(3600)

    class Told(InProcessBroker):
        async def shutdown(self) -> None:
            ended.append("broker")
            await super().shutdown()

    await scheduler(world, Failing(), Hanging(), broker=Told()).run(until=START + MINUTE)
    assert ended == ["broker"]


async def test_a_source_that_swallows_cancellation_is_left_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlsched.engine.feeds.END_SECONDS", 0.1)
    free = asyncio.Event()

    class Stubborn(Listed):
        async def get_schedules(self) -> list[ScheduledTask]:
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue
            return []

    running = asyncio.create_task(scheduler(world, Stubborn()).run())
    await asyncio.sleep(0.2)
    running.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([running])
    free.set()
    await asyncio.sleep(0.05)


async def test_once_can_be_stopped_while_a_source_is_asked(world: World) -> None:
    source = Listed()
    source.answers.clear()
    running = asyncio.create_task(scheduler(world, source).run(once=True))
    await asyncio.sleep(0.2)
    running.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([running])


async def test_a_scheduler_runs_once_at_a_time_and_hears_an_early_stop(world: World) -> None:
    serving = scheduler(world)
    first = asyncio.create_task(serving.run())
    await asyncio.sleep(0.1)
    with pytest.raises(SqlschedError, match="runs already"):
        await serving.run()
    serving.stop()
    await first
    early = asyncio.create_task(serving.run())
    serving.stop()
    async with asyncio.timeout(5):
        await early


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((object(), []), "type object; give a sqlsched Broker"),
        ((InProcessBroker(), Listed), "type ABCMeta; give a list"),
        ((InProcessBroker(), [SqliteScheduleSource]), "is no ScheduleSource"),
        ((InProcessBroker(), [], "only_unique"), "merge_func 'only_unique'"),
    ],
)
def test_parts_of_the_wrong_kind_are_named_at_once(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(SqlschedError, match=named):
        Scheduler(*arguments)


async def test_until_may_be_naive_and_is_utc_then(world: World) -> None:
    await scheduler(world, Listed(every_minute("a"))).run(until=NAIVE)
    assert world.clock.now() == datetime(2026, 3, 2, 12, 1, 30, tzinfo=UTC)


async def test_an_outcome_that_is_none_is_a_failed_run(world: World) -> None:
    class Wrong(InProcessBroker):
        async def kick(self, message: TaskMessage) -> RunOutcome:  # noqa: ARG002
            return True  # type: ignore[return-value]

    await world.add(time=START)
    await scheduler(world, broker=Wrong()).run(until_idle=True)
    assert [row.error for row in world.history()] == [
        "the broker returned a bool, and no RunOutcome"
    ]
    with pytest.raises(BrokerError, match="status 'success'"):
        RunOutcome("success")  # type: ignore[arg-type]


# -- a shared source ------------------------------------------------------------------------------

Share = Callable[..., RedisScheduleSource]


@pytest.fixture
async def share(world: World, shared_redis: RedisServer) -> Share:
    async with Redis.from_url(shared_redis.url) as client:
        await client.flushall()
    return lambda prefix="a": RedisScheduleSource(shared_redis.url, prefix, clock=world.clock)


async def put(source: RedisScheduleSource, *schedules: ScheduledTask) -> None:
    await source.startup()
    for schedule in schedules:
        await source.add_schedule(schedule)
    await source.shutdown()


async def test_another_shared_source_before_it_changes_nothing(world: World, share: Share) -> None:
    await put(share(), every_minute("a"))
    await scheduler(world, share()).run(until=START + MINUTE + timedelta(seconds=1))
    await scheduler(world, share("b"), share()).run(until=START + 3 * MINUTE)
    assert calls(world) == ["a 12:01:00", "a 12:02:00", "a 12:03:00"]


async def test_an_id_that_is_taken_here_is_left_to_other_machines(
    world: World, share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await put(share(), every_minute("x"))
    await world.add(cron="0 0 1 1 *", schedule_id="x", args=["own"])
    here = scheduler(world, world.source, share())
    there = scheduler(world, share(), database=tmp_path / "other.db")
    await here.run(until=START + timedelta(seconds=31))
    assert calls(world) == []
    await there.run(until=START + timedelta(seconds=91))
    assert calls(world) == ["x 12:01:01", "x 12:02:00"]
    assert "is left to other machines, its id is taken here" in caplog.text


async def test_what_machines_share_is_paused_and_removed_there(world: World, share: Share) -> None:
    await put(share(), every_minute("a"))
    await scheduler(world, share()).run(until=START + MINUTE + timedelta(seconds=1))
    database = world.writing()
    now_us = to_us(world.clock.now())
    for refused in (changes.pause, changes.resume_all, changes.remove):
        with pytest.raises(InvalidScheduleError, match="comes from redis:a"):
            refused(database, ["a"], now_us)
    assert set_back.pull_back(database, now_us - 3_600_000_000) == 0
    database.close()


async def test_a_schedule_paused_in_redis_goes_on_when_it_is_replaced(
    world: World, share: Share
) -> None:
    await put(share(), every_minute("a", paused=True))
    source = share()
    await source.startup()
    await source.add_schedule(every_minute("a", note="go"), replace=True)
    await source.shutdown()
    await scheduler(world, share()).run(until=START + MINUTE + timedelta(seconds=1))
    assert calls(world) == ["a 12:01:00"]


async def test_what_was_removed_in_redis_is_listed_no_more(world: World, share: Share) -> None:
    await put(share(), every_minute("a"))
    await scheduler(world, share()).run(until=START + MINUTE + timedelta(seconds=1))
    assert copies(world) == {"a": "redis:a"}
    source = share()
    await source.startup()
    await source.delete_schedule("a")
    await source.shutdown()
    await scheduler(world, share()).run(until=START + 2 * MINUTE)
    assert copies(world) == {}


async def test_a_clock_that_was_a_day_ahead_parks_nothing(world: World, share: Share) -> None:
    await put(share(), every_minute("a"))
    world.task("ahead", lambda: world.clock.set_forward(timedelta(days=1)))
    world.task("right", lambda: world.clock.set_back(timedelta(days=1)))
    await world.add("t:ahead", time=START + MINUTE)
    await world.add("t:right", time=START + timedelta(days=1, minutes=3))
    running = asyncio.create_task(scheduler(world, world.source, share()).run())
    evening = START + timedelta(hours=12)
    async with asyncio.timeout(10):
        while not any(START + 5 * MINUTE < when < evening for _, when in world.calls):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert any(when > evening for _, when in world.calls)
    assert len(set(world.calls)) == len(world.calls)

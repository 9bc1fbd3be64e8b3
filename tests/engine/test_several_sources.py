"""Several sources in one scheduler: asked side by side, merged, copied, and told of each send."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from sqlsched import (
    InProcessBroker,
    LabelScheduleSource,
    ScheduledTask,
    ScheduledTaskCancelledError,
    Scheduler,
    ScheduleSource,
    SendTaskError,
    SqliteScheduleSource,
    StorageError,
    current_run,
)
from sqlsched.merge_functions import only_new, only_unique
from sqlsched.storage.connection import open_for_reading
from sqlsched.storage.schedules import Selection, stored
from tests.engine.conftest import START, World

MINUTE = timedelta(minutes=1)


class Listed(ScheduleSource):
    """A source in memory, which may fail, be slow, and say what was sent."""

    def __init__(self, *schedules: ScheduledTask) -> None:
        self.schedules = list(schedules)
        self.asked = 0
        self.fails = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def get_schedules(self) -> list[ScheduledTask]:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            raise ConnectionError("no route to host")
        return list(self.schedules)


class Hooked(Listed):
    def __init__(self, *schedules: ScheduledTask) -> None:
        super().__init__(*schedules)
        self.calls: list[tuple[str, str]] = []
        self.refuse: BaseException | None = None

    def pre_send(self, task: ScheduledTask) -> None:
        run = current_run()
        assert run is not None
        assert run.schedule_id == task.schedule_id
        self.calls.append(("pre", task.schedule_id))
        if self.refuse is not None:
            raise self.refuse

    async def post_send(self, task: ScheduledTask) -> None:
        await asyncio.sleep(0)
        self.calls.append(("post", task.schedule_id))


def every_minute(schedule_id: str, **fields: Any) -> ScheduledTask:
    given = {"cron": "* * * * *"} | fields
    return ScheduledTask(task_name="t:note", schedule_id=schedule_id, args=[schedule_id], **given)


def calls(world: World) -> list[str]:
    return [f"{name} {when:%H:%M:%S}" for name, when in world.calls]


async def run(
    world: World, sources: Sequence[ScheduleSource], duration: timedelta, **arguments: Any
) -> None:
    given = {name: arguments.pop(name) for name in ("merge_func",) if name in arguments}
    scheduler = Scheduler(world.broker, sources, clock=world.clock, database=world.path, **given)
    await scheduler.run(until=world.clock.now() + duration, **arguments)


def copies(world: World) -> dict[str, str]:
    database = open_for_reading(world.path)
    found = {s.schedule.schedule_id: s.source for s in stored(database, Selection())}
    database.close()
    return found


async def test_a_listed_schedule_runs_in_the_current_minute_and_in_each_after(
    world: World,
) -> None:
    await run(world, [Listed(every_minute("a"))], 2 * MINUTE)
    assert calls(world) == ["a 12:00:30", "a 12:01:00", "a 12:02:00"]


async def test_a_restart_repeats_nothing_of_the_current_minute(world: World) -> None:
    source = Listed(every_minute("a"))
    await run(world, [source], timedelta(seconds=1))
    await run(world, [source], timedelta(seconds=1))
    assert calls(world) == ["a 12:00:30"]


async def test_skip_first_run_holds_for_every_source(world: World) -> None:
    await world.add(cron="* * * * *", schedule_id="own", args=["own"])
    sources = [world.source, Listed(every_minute("a"))]
    await run(world, sources, 2 * MINUTE, skip_first_run=True)
    assert sorted(calls(world)) == ["a 12:01:00", "a 12:02:00", "own 12:01:00", "own 12:02:00"]


async def test_intervals_of_a_source_count_from_the_epoch(world: World) -> None:
    await run(world, [Listed(every_minute("a", cron=None, interval=3600))], timedelta(hours=2))
    assert calls(world) == ["a 13:00:00", "a 14:00:00"]


async def test_a_time_in_the_past_fires_once_and_not_at_each_refresh(world: World) -> None:
    source = Listed(every_minute("a", cron=None, time=START - timedelta(days=2)))
    await run(world, [source], 5 * MINUTE)
    await run(world, [source], 5 * MINUTE)
    assert calls(world) == ["a 12:00:30"]
    assert source.asked > 8


async def test_a_source_is_asked_again_each_whole_minute(world: World) -> None:
    source = Listed()
    running = asyncio.create_task(run(world, [source], 3 * MINUTE))
    while world.clock.now() < START + timedelta(seconds=31):  # noqa: ASYNC110 - it is the clock's loop
        await asyncio.sleep(0)
    source.schedules.append(every_minute("late"))
    await running
    assert calls(world) == ["late 12:02:00", "late 12:03:00"]


async def test_what_a_source_lists_no_more_is_removed_and_its_history_stays(world: World) -> None:
    source = Listed(every_minute("a"), every_minute("b"))
    await run(world, [source], MINUTE)
    assert copies(world) == {"a": "Listed", "b": "Listed"}
    del source.schedules[0]
    await run(world, [source], MINUTE)
    assert copies(world) == {"b": "Listed"}
    assert len(world.history("a")) == 2


async def test_a_changed_schedule_is_changed_and_an_unchanged_one_keeps_its_state(
    world: World,
) -> None:
    source = Listed(every_minute("a", max_runs=3), every_minute("b"))
    await run(world, [source], MINUTE)
    source.schedules[1] = every_minute("b", cron="*/2 * * * *")
    await run(world, [source], 4 * MINUTE)
    assert [c for c in calls(world) if c[0] == "a"] == ["a 12:00:30", "a 12:01:00", "a 12:02:00"]
    assert [c for c in calls(world) if c[0] == "b"][2:] == ["b 12:02:00", "b 12:04:00"]


async def test_a_failing_source_keeps_what_it_listed_and_stops_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = Listed(every_minute("good")), Listed(every_minute("bad"))
    bad.name = "bad"
    await run(world, [good, bad], MINUTE)
    bad.fails = True
    await run(world, [bad, good], 2 * MINUTE)
    assert copies(world).keys() == {"good", "bad"}
    assert calls(world).count("bad 12:02:00") == calls(world).count("good 12:02:00") == 1
    assert "no route to host" in caplog.text


async def test_a_slow_source_delays_no_other(world: World) -> None:
    slow = Listed(every_minute("slow"))
    slow.name = "slow"
    slow.answers.clear()
    await world.add(time=START, schedule_id="own", args=["own"])
    running = asyncio.create_task(run(world, [slow, world.source], MINUTE))
    async with asyncio.timeout(5):
        while not world.calls:  # noqa: ASYNC110 - it is the clock's loop that is waited for
            await asyncio.sleep(0.01)
    assert calls(world) == ["own 12:00:30"]
    slow.answers.set()
    await running
    assert "slow 12:01:00" in calls(world)


async def test_a_source_that_is_down_at_the_start_is_waited_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Down(Listed):
        tries = 0

        async def startup(self) -> None:
            self.tries += 1
            if self.tries < 4:
                raise ConnectionError("refused")

    source = Down(every_minute("a"))
    await run(world, [source], 2 * MINUTE)
    assert source.tries == 4
    assert calls(world) == ["a 12:00:37", "a 12:01:00", "a 12:02:00"]
    assert "refused" in caplog.text


async def test_once_fails_clearly_when_a_source_does_not_answer(world: World) -> None:
    source = Listed()
    source.fails = True
    scheduler = Scheduler(world.broker, [source], clock=world.clock, database=world.path)
    with pytest.raises(StorageError, match="no route to host"):
        await scheduler.run(once=True)


async def test_once_runs_what_is_due_of_every_source(world: World) -> None:
    await world.add(time=START, schedule_id="own", args=["own"])
    scheduler = Scheduler(
        world.broker,
        [world.source, Listed(every_minute("a"))],
        clock=world.clock,
        database=world.path,
    )
    await scheduler.run(once=True)
    assert sorted(calls(world)) == ["a 12:00:30", "own 12:00:30"]


async def test_until_idle_ends_when_no_source_has_anything_to_come(world: World) -> None:
    source = Listed(every_minute("a", end=START + 3 * MINUTE))
    scheduler = Scheduler(world.broker, [source], clock=world.clock, database=world.path)
    await scheduler.run(until_idle=True)
    assert len(world.calls) == 4


async def test_an_id_that_two_sources_have_belongs_to_the_first(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.add(cron="0 0 1 1 *", schedule_id="x", args=["own"])
    first, second = Listed(every_minute("y")), Listed(every_minute("y", cron="0 * * * *"))
    await run(world, [world.source, first, second, Listed(every_minute("x"))], MINUTE)
    assert calls(world) == ["y 12:00:30", "y 12:01:00"]
    assert caplog.text.count("is passed over, its id is taken") == 2


async def test_a_scheduler_without_the_source_leaves_its_schedules_alone(world: World) -> None:
    await run(world, [Listed(every_minute("a"))], timedelta(seconds=1))
    await run(world, [], 5 * MINUTE)
    assert calls(world) == ["a 12:00:30"]


# -- merge functions ------------------------------------------------------------------------------


async def test_only_unique_drops_what_an_earlier_source_has(world: World) -> None:
    await world.add(cron="* * * * *", schedule_id="own", args=["same"])
    twin = ScheduledTask(task_name="t:note", schedule_id="twin", cron="* * * * *", args=["same"])
    sources = [world.source, Listed(twin, every_minute("other"))]
    await run(world, sources, MINUTE, merge_func=only_unique)
    assert sorted(calls(world)) == ["other 12:00:30", "other 12:01:00", "same 12:01:00"]


async def test_only_new_serves_the_last_source_and_records_what_it_leaves_out(
    world: World,
) -> None:
    await world.add(cron="* * * * *", schedule_id="own", args=["own"])
    await run(world, [world.source, Listed(every_minute("a"))], MINUTE, merge_func=only_new)
    assert calls(world) == ["a 12:00:30", "a 12:01:00"]
    assert [(r.status, r.reason) for r in world.history("own")] == [("skipped", "merged")]


async def test_a_merge_function_of_ones_own_sees_whole_lists_in_order(world: World) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def merge(old: list[ScheduledTask], new: list[ScheduledTask]) -> list[ScheduledTask]:
        seen.append(([s.schedule_id for s in old], [s.schedule_id for s in new]))
        return [s for s in old + new if s.schedule_id != "b"]

    await world.add(cron="* * * * *", schedule_id="own", args=["own"])
    sources = [Listed(every_minute("a"), every_minute("b")), world.source]
    await run(world, sources, MINUTE, merge_func=merge)
    assert seen[0] == ([], ["a", "b"])
    assert seen[1] == (["a"], ["own"])
    assert sorted(calls(world)) == ["a 12:00:30", "a 12:01:00", "own 12:01:00"]


async def test_a_merge_function_may_change_and_add_schedules(world: World) -> None:
    def merge(old: list[ScheduledTask], new: list[ScheduledTask]) -> list[ScheduledTask]:
        changed = [every_minute(s.schedule_id, cron="*/2 * * * *") for s in new]
        return [*old, *changed, every_minute("made")]

    await run(world, [Listed(every_minute("a"))], 2 * MINUTE, merge_func=merge)
    assert sorted(calls(world)) == [
        *("a 12:00:30", "a 12:02:00"),
        *("made 12:00:30", "made 12:01:00", "made 12:02:00"),
    ]


async def test_a_merge_function_that_fails_leaves_what_was_merged_before(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    source = Listed(every_minute("a"))

    def merge(old: list[ScheduledTask], new: list[ScheduledTask]) -> list[ScheduledTask]:
        if len(new) > 1:
            raise ValueError("too many")
        return old + new

    await run(world, [source], MINUTE, merge_func=merge)
    source.schedules.append(every_minute("b"))
    await run(world, [source], MINUTE, merge_func=merge)
    assert calls(world) == ["a 12:00:30", "a 12:01:00", "a 12:02:00"]
    assert "too many" in caplog.text


async def test_a_schedule_added_while_it_runs_is_merged_too(world: World) -> None:
    running = asyncio.create_task(
        run(world, [world.source, Listed(every_minute("a"))], 3 * MINUTE, merge_func=only_new)
    )
    while len(world.calls) < 1:  # noqa: ASYNC110 - it is the clock's loop that is waited for
        await asyncio.sleep(0)
    with world.clock.busy():  # or the clock jumps to the next firing while it is being stored
        await world.add(cron="* * * * *", schedule_id="own", args=["own"])
    await running
    assert {name for name, _ in world.calls} == {"a"}


# -- hooks ----------------------------------------------------------------------------------------


async def test_the_source_is_told_before_and_after_each_send(world: World) -> None:
    source = Hooked(every_minute("a"))
    await run(world, [source], MINUTE)
    assert source.calls == [("pre", "a"), ("post", "a")] * 2


async def test_pre_send_may_cancel_a_firing(world: World) -> None:
    source = Hooked(every_minute("a"))
    source.refuse = ScheduledTaskCancelledError("holiday")
    await run(world, [source], MINUTE)
    assert world.calls == []
    assert [(r.status, r.reason, r.error) for r in world.history("a")] == [
        ("cancelled", "pre-send", "holiday")
    ] * 2
    assert ("post", "a") not in source.calls


async def test_a_pre_send_that_fails_fails_its_run_alone(world: World) -> None:
    source = Hooked(every_minute("a"))
    source.refuse = ValueError("oops")
    await run(world, [source, Listed(every_minute("b"))], MINUTE)
    assert {(r.status, r.error) for r in world.history("a")} == {("failed", "ValueError: oops")}
    assert calls(world) == ["b 12:00:30", "b 12:01:00"]


@pytest.mark.parametrize(
    ("problem", "told"),
    [(asyncio.CancelledError("from within"), "CancelledError"), (SystemExit(3), "RuntimeError")],
)
async def test_a_pre_send_ends_no_scheduler_and_is_not_asked_for_ever(
    world: World, problem: BaseException, told: str
) -> None:
    source = Hooked(every_minute("a"))
    source.refuse = problem
    await run(world, [source], MINUTE)
    assert [(r.status, (r.error or "").split(":")[0]) for r in world.history("a")] == [
        ("failed", told)
    ] * 2
    assert len(source.calls) == 2


async def test_a_pre_send_may_put_a_send_off(world: World) -> None:
    source = Hooked(every_minute("a", cron=None, time=START))
    source.refuse = SendTaskError("not yet")
    running = asyncio.create_task(run(world, [source], MINUTE))
    while len(source.calls) < 2:  # noqa: ASYNC110 - it is the clock's loop that is waited for
        await asyncio.sleep(0)
    source.refuse = None
    await running
    assert calls(world) == ["a 12:00:33"]


async def test_a_post_send_that_fails_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Listed):
        def post_send(self, task: ScheduledTask) -> None:
            raise ValueError(task.schedule_id)

    await run(world, [Bad(every_minute("a"))], MINUTE)
    assert {r.status for r in world.history("a")} == {"succeeded"}
    assert "post_send of Bad failed" in caplog.text


async def test_a_subclass_of_the_sqlite_source_has_hooks_too(world: World) -> None:
    told: list[str] = []

    class Telling(SqliteScheduleSource):
        def pre_send(self, task: ScheduledTask) -> None:
            told.append(task.schedule_id)

    await world.add(time=START, schedule_id="own")
    await run(world, [Telling(world.path)], MINUTE)
    assert told == ["own"]


# -- labels ---------------------------------------------------------------------------------------


async def test_declared_schedules_run_through_the_real_loop(world: World) -> None:
    broker = InProcessBroker()

    @broker.task(schedule=[{"cron": "0 * * * *", "args": [1]}, {"interval": 1800}], queue="low")
    async def heavy(value: int = 0) -> None:
        world.calls.append((str(value), world.clock.now()))

    world.broker = broker
    await run(world, [LabelScheduleSource(broker)], timedelta(hours=1, minutes=1))
    assert sorted(calls(world)) == [
        *("0 12:30:00", "0 13:00:00"),
        *("1 12:00:30", "1 13:00:00"),
    ]
    assert len(copies(world)) == 2
    await run(world, [LabelScheduleSource(broker)], timedelta(minutes=1))
    assert len(copies(world)) == 2


async def test_a_retry_of_a_listed_schedule_is_left_to_who_serves_its_source(world: World) -> None:
    world.failures_left = 1
    flaky = ScheduledTask(
        task_name="t:flaky", schedule_id="a", time=START, retries=1, retry_delay=5
    )
    await run(world, [Listed(flaky)], timedelta(seconds=1))
    await run(world, [], MINUTE)
    assert [row.status for row in world.history("a")] == ["failed", "waiting"]
    await run(world, [Listed(flaky)], MINUTE)
    assert [row.status for row in world.history("a")] == ["failed", "succeeded"]

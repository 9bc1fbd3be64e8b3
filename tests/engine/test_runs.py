"""What becomes of runs: overlap, retries, timeouts, pause, cancellation, drain, trouble."""

import asyncio
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime, timedelta

import pytest

from sqlsched import (
    Broker,
    ScheduledTask,
    Scheduler,
    SendTaskError,
    StorageError,
    TaskMessage,
)
from sqlsched.brokers.in_process import InProcessBroker
from sqlsched.engine.dispatcher import Dispatcher
from sqlsched.engine.scheduler import Options
from sqlsched.instants import from_us
from sqlsched.storage import changes, ledger, runs
from sqlsched.storage.turn import Started
from tests.engine.conftest import START, World

MINUTE = timedelta(minutes=1)


def started(world: World) -> list[str]:
    return [f"{moment:%H:%M:%S}" for name, moment in world.calls if name == "asleep"]


async def test_overlap_skips_by_default_and_says_why(world: World) -> None:
    await world.add("t:nap", args=[90], cron="* * * * *")
    await world.run(4 * MINUTE)
    assert started(world) == ["12:01:00", "12:03:00"]
    skipped = [row for row in world.history() if row.status == "skipped"]
    assert [row.reason for row in skipped] == ["overlap", "overlap"]


async def test_overlap_allow_runs_side_by_side(world: World) -> None:
    await world.add("t:nap", args=[90], cron="* * * * *", overlap="allow")
    await world.run(3 * MINUTE)
    assert started(world) == ["12:01:00", "12:02:00", "12:03:00"]


async def test_buffer_one_keeps_one_waiting_and_skips_the_rest(world: World) -> None:
    await world.add("t:nap", args=[150], cron="* * * * *", max_runs=2, overlap="buffer-one")
    await world.run(10 * MINUTE)
    assert started(world) == ["12:01:00", "12:03:30"]
    assert ("12:03:00", "skipped") in world.statuses()


async def test_buffer_all_runs_every_firing_in_order(world: World) -> None:
    await world.add("t:nap", args=[90], cron="1-3 12 * * *", overlap="buffer-all")
    await world.run(10 * MINUTE)
    assert started(world) == ["12:01:00", "12:02:30", "12:04:00"]
    assert [status for _, status in world.statuses()] == ["succeeded"] * 3


async def test_cancel_other_stops_the_run_that_is_going_and_takes_its_place(world: World) -> None:
    await world.add("t:nap", args=[90], cron="1-2 12 * * *", overlap="cancel-other")
    await world.run(10 * MINUTE)
    assert started(world) == ["12:01:00", "12:02:00"]
    assert world.statuses() == [("12:01:00", "cancelled"), ("12:02:00", "succeeded")]


async def test_a_failed_run_is_retried_with_doubling_delay_and_each_attempt_has_a_row(
    world: World,
) -> None:
    world.failures_left = 9
    await world.add("t:flaky", time=START + MINUTE, retries=3, retry_delay=10)
    await world.run()
    moments = [moment - START - MINUTE for _, moment in world.calls]
    assert moments == [timedelta(seconds=s) for s in (0, 10, 30, 70)]
    rows = world.history()
    assert [row.attempt for row in rows] == [1, 2, 3, 4]
    assert [row.trigger for row in rows] == ["schedule", "retry", "retry", "retry"]
    assert {row.error for row in rows} == {"RuntimeError: not yet"}


async def test_a_retry_survives_a_restart(world: World) -> None:
    world.failures_left = 1
    await world.add("t:flaky", time=START, retries=1, retry_delay=600)
    await world.run(MINUTE)
    await world.run()
    assert [row.status for row in world.history()] == ["failed", "succeeded"]


async def test_a_firing_that_awaits_its_retry_counts_as_going(world: World) -> None:
    world.failures_left = 1
    await world.add("t:flaky", cron="* * * * *", retries=1, retry_delay=90, max_runs=2)
    await world.run()
    assert sorted(world.statuses()) == [
        ("12:01:00", "failed"),
        ("12:01:00", "succeeded"),
        ("12:02:00", "skipped"),
        ("12:03:00", "succeeded"),
    ]


async def test_a_timeout_stops_the_attempt_and_a_retry_follows(world: World) -> None:
    await world.add("t:nap", args=[90], time=START, timeout=30, retries=1, retry_delay=5)
    await world.run()
    assert [(row.status, row.error) for row in world.history()] == [
        ("timed_out", "timed out after 30 s")
    ] * 2
    assert [f"{from_us(row.finished_us or 0):%H:%M:%S}" for row in world.history()] == [
        "12:01:00",
        "12:01:35",
    ]


async def test_a_run_that_starts_too_late_for_expires_is_missed(world: World) -> None:
    await world.add(time=START, expires=60)
    world.clock.advance(timedelta(seconds=61))
    await world.run()
    assert [(row.status, row.reason) for row in world.history()] == [("missed", "expired")]


async def test_time_spent_paused_is_recorded_and_not_made_up_for(world: World) -> None:
    schedule = await world.add(cron="* * * * *")
    await world.run(2 * MINUTE)
    database = world.writing()
    changes.pause(database, [schedule.schedule_id], world.clock.now_us())
    await world.run(10 * MINUTE)
    changes.resume_all(database, [schedule.schedule_id], world.clock.now_us())
    database.close()
    await world.run(2 * MINUTE)
    assert len(world.calls) == 4
    skipped = [row for row in world.history() if row.status == "skipped"]
    assert [(row.reason, row.count) for row in skipped] == [("paused", 10)]


async def test_a_one_shot_that_passed_while_paused_runs_at_resume(world: World) -> None:
    schedule = await world.add(time=START + MINUTE, paused=True)
    await world.run(5 * MINUTE)
    assert world.calls == []
    database = world.writing()
    changes.resume_all(database, [schedule.schedule_id], world.clock.now_us())
    database.close()
    await world.run()
    assert len(world.calls) == 1


async def test_a_running_run_can_be_cancelled_by_somebody_else(world: World) -> None:
    def cancel() -> None:
        database = world.writing()
        runs.cancel(database, world.history("napper")[0].run_id, world.clock.now_us())
        database.close()

    world.task("cancel", cancel)
    await world.add("t:nap", args=[3600], time=START + MINUTE, schedule_id="napper")
    await world.add("t:cancel", time=START + 2 * MINUTE)
    await world.run()
    napper = world.history("napper")[0]
    assert (napper.status, napper.reason) == ("cancelled", "requested")
    assert f"{from_us(napper.finished_us or 0):%H:%M}" == "12:02"


async def test_removing_a_schedule_leaves_its_running_run_alone(world: World) -> None:
    def remove() -> None:
        database = world.writing()
        changes.remove(database, ["napper"], world.clock.now_us())
        database.close()

    world.task("remove", remove)
    await world.add("t:nap", args=[300], cron="* * * * *", schedule_id="napper")
    await world.add("t:remove", time=START + 2 * MINUTE)
    await world.run()
    assert [row.status for row in world.history("napper")][:1] == ["succeeded"]
    assert started(world) == ["12:01:00"]


async def test_when_told_to_stop_it_lets_tasks_finish_within_the_drain(world: World) -> None:
    scheduler = world.scheduler()
    world.task("stop", scheduler.stop)
    await world.add("t:nap", args=[20], time=START + MINUTE)
    await world.add("t:nap", args=[3600], time=START + MINUTE)
    await world.add("t:stop", time=START + MINUTE)
    await scheduler.run(options=Options(drain_seconds=60))
    rows = {row.task_name + row.status: row for row in world.history()}
    assert sorted(rows) == ["t:napcancelled", "t:napsucceeded", "t:stopsucceeded"]
    assert rows["t:napcancelled"].reason == "shutdown"
    assert world.clock.now() - START < timedelta(seconds=130)


async def test_cancelling_an_embedded_scheduler_drains_and_is_not_swallowed(world: World) -> None:
    scheduler = world.scheduler()
    await world.add("t:nap", time=START + timedelta(seconds=1))
    asleep = asyncio.Event()

    async def nap() -> None:
        asleep.set()
        await world.clock.sleep(20)

    world.task("nap", nap)
    serving = asyncio.create_task(scheduler.run())
    await asleep.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert [row.status for row in world.history()] == ["succeeded"]


async def test_an_outcome_that_cannot_be_written_is_written_later_and_nothing_is_sent_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ledger.Ledger.run
    failing: list[int] = []

    async def run(self: ledger.Ledger, function: object, *args: object, **kwargs: object) -> object:
        if world.calls and len(failing) < 3:
            failing.append(1)
            raise StorageError("the disk is full")
        return await real(self, function, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger.Ledger, "run", run)
    await world.add(time=START + MINUTE)
    await world.run()
    assert len(world.calls) == 1
    assert [row.status for row in world.history()] == ["succeeded"]
    assert "the disk is full" in caplog.text


async def test_a_broker_that_breaks_fails_its_run_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = InProcessBroker.kick

    async def kick(self: InProcessBroker, message: object) -> object:
        if message.task_name == "t:broken":  # type: ignore[attr-defined]
            raise RuntimeError("the broker is ill")
        return await real(self, message)  # type: ignore[arg-type]

    monkeypatch.setattr(InProcessBroker, "kick", kick)
    await world.add("t:broken", time=START + MINUTE)
    await world.add(time=START + MINUTE)
    await world.run()
    assert sorted((row.task_name, row.status) for row in world.history()) == [
        ("t:broken", "failed"),
        ("t:note", "succeeded"),
    ]


async def test_the_same_content_again_keeps_the_next_time(world: World) -> None:
    schedule = await world.add(interval=600, schedule_id="steady")
    world.clock.advance(300)
    await world.source.add_schedule(ScheduledTask(**vars(schedule)))
    await world.run(timedelta(seconds=301))
    assert len(world.calls) == 1


async def test_setting_the_clock_neither_shortens_nor_extends_a_drain(world: World) -> None:
    scheduler = world.scheduler()

    def stop() -> None:
        scheduler.stop()
        world.clock.set_back(timedelta(hours=5))

    world.task("stop", stop)
    await world.add("t:nap", args=[3600], time=START + MINUTE)
    await world.add("t:stop", time=START + MINUTE)
    before = world.clock.monotonic()
    await scheduler.run(options=Options(drain_seconds=60))
    assert world.clock.monotonic() - before < 130
    assert {row.status for row in world.history()} == {"succeeded", "cancelled"}


async def test_a_stop_that_comes_while_it_waits_for_the_last_runs_is_heeded(world: World) -> None:
    scheduler = world.scheduler()

    async def stop() -> None:
        await world.clock.sleep(120)
        scheduler.stop()

    world.task("stop", stop)
    await world.add("t:nap", args=[3600], time=START + timedelta(seconds=1))
    await world.add("t:stop", time=START + timedelta(seconds=1))
    await scheduler.run(until=START + MINUTE, options=Options(drain_seconds=60))
    assert world.clock.now() - START < timedelta(seconds=200)
    assert {row.reason for row in world.history()} == {None, "shutdown"}


class Queue(Broker):
    """Hands messages on; refuses as long as it is told to."""

    reports_completion = False

    def __init__(self) -> None:
        self.down = False
        self.sent: list[TaskMessage] = []

    async def kick(self, message: TaskMessage) -> None:
        if self.down:
            raise SendTaskError("the queue is down")
        self.sent.append(message)


async def test_what_a_queue_refuses_goes_out_once_it_is_back(world: World) -> None:
    queue = Queue()
    queue.down = True
    back_at = START + timedelta(minutes=3)

    async def come_back() -> None:
        await world.clock.sleep((back_at - START).total_seconds())
        queue.down = False

    for number in range(3):
        await world.add(time=START + timedelta(seconds=number), schedule_id=f"s{number}")
    scheduler = Scheduler(queue, [world.source], clock=world.clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(come_back())
        group.create_task(scheduler.run(until_idle=True))
    assert sorted(m.labels["schedule_id"] for m in queue.sent) == ["s0", "s1", "s2"]
    assert {(row.status, row.attempt) for row in world.history()} == {("sent", 1)}
    assert world.clock.now() - back_at <= timedelta(seconds=31)


async def test_a_queue_skips_what_an_overlap_policy_would_need_to_know(world: World) -> None:
    queue = Queue()
    await world.add(time=START, overlap="skip", schedule_id="cannot")
    await world.add(time=START, overlap="allow", schedule_id="can")
    await Scheduler(queue, [world.source], clock=world.clock).run(until_idle=True)
    assert [m.labels["schedule_id"] for m in queue.sent] == ["can"]
    [cannot] = world.history("cannot")
    assert (cannot.status, cannot.reason) == ("skipped", "overlap-unsupported")


async def test_cancel_other_says_why_the_other_was_stopped(world: World) -> None:
    await world.add("t:nap", args=[90], cron="1-2 12 * * *", overlap="cancel-other")
    await world.run(10 * MINUTE)
    assert [row.reason for row in world.history()] == ["overlap", None]


async def test_a_run_that_is_stopped_before_its_first_step_ends_at_once(world: World) -> None:
    await world.add("t:nap", args=[90], time=START, overlap="cancel-other", schedule_id="it")
    with closing(world.writing()) as database:
        runs.trigger(database, "it", world.clock.now_us() - 1)
    await world.run()
    assert [(run.trigger, run.status, run.reason) for run in world.history()] == [
        ("manual", "cancelled", "overlap"),
        ("schedule", "succeeded", None),
    ]
    assert [what for what, _ in world.calls] == ["asleep", "awake"]


async def test_a_run_is_on_record_before_its_instant_and_starts_on_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.clock, "lead_us", 4000, raising=False)
    launched: list[datetime] = []
    launch = Dispatcher.launch

    def noted(self: Dispatcher, started: Iterable[Started]) -> None:
        runs = list(started)
        launched.extend([world.clock.now()] * len(runs))
        launch(self, runs)

    monkeypatch.setattr(Dispatcher, "launch", noted)
    await world.add(cron="* * * * *")
    await world.run(timedelta(minutes=2))
    instants = [START + timedelta(seconds=30), START + timedelta(seconds=90)]
    assert launched == [at - timedelta(milliseconds=4) for at in instants]
    assert [at for _, at in world.calls] == instants
    assert [from_us(row.started_us or 0) for row in world.history()] == instants


async def test_a_stop_just_before_the_instant_leaves_the_firing_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.clock, "lead_us", 4000, raising=False)
    scheduler = world.scheduler()

    async def reach(_: int) -> None:
        scheduler.stop(at_once=True)
        await asyncio.Event().wait()

    monkeypatch.setattr(world.clock, "reach", reach)
    await world.add(cron="* * * * *")
    await scheduler.run(until=START + timedelta(minutes=1))
    assert (world.calls, world.statuses()) == ([], [("12:01:00", "waiting")])

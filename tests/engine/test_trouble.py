"""What once went wrong: no room, tasks that do not stop, rows that somebody damaged, clocks."""

import asyncio
import errno
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from sqlsched import DuplicateScheduleError, ScheduledTask, Scheduler, SubprocessBroker
from sqlsched.engine.scheduler import Options
from sqlsched.exceptions import StorageError
from sqlsched.instants import SECOND_US, from_us, to_us
from sqlsched.storage import claims, owners, peers, set_back
from sqlsched.storage.connection import Database
from sqlsched.storage.files import OwnerLock
from sqlsched.storage.turn import Request, Turn
from tests.engine.conftest import START, World

MINUTE = timedelta(minutes=1)
ONE = Options(concurrency=1)


async def stop_half_a_second_before(world: World, moment: datetime) -> None:
    """Stop a scheduler that has claimed a firing and not started it: it gives it back."""
    scheduler = world.scheduler()
    world.task("stop", scheduler.stop)
    await world.add("t:stop", time=moment - timedelta(milliseconds=500))
    await scheduler.run()


async def test_cancel_other_stops_the_other_even_without_room(world: World) -> None:
    await world.add("t:nap", args=[3600], cron="1-2 12 * * *", overlap="cancel-other")
    await world.run(3 * MINUTE, options=Options(concurrency=1, drain_seconds=1))
    first = world.history()[0]
    assert (first.status, first.reason) == ("cancelled", "overlap")


async def test_overlap_skips_even_without_room(world: World) -> None:
    await world.add("t:nap", args=[150], cron="* * * * *")
    await world.run(4 * MINUTE, options=ONE)
    assert [status for _, status in world.statuses()] == [
        *("succeeded", "skipped", "skipped", "succeeded")
    ]


async def test_what_comes_due_before_until_runs_however_long_it_waits_for_room(
    world: World,
) -> None:
    for _ in range(3):
        await world.add("t:nap", args=[60], time=START + timedelta(seconds=5))
    await world.run(timedelta(seconds=8), options=ONE)
    assert [row.status for row in world.history()] == ["succeeded"] * 3


async def test_a_task_that_swallows_its_timeout_has_timed_out_all_the_same(world: World) -> None:
    async def stubborn() -> None:
        try:
            await world.clock.sleep(3600)
        except asyncio.CancelledError:
            return

    async def angry() -> None:
        try:
            await world.clock.sleep(3600)
        except asyncio.CancelledError as error:
            raise RuntimeError("interrupted") from error

    world.task("stubborn", stubborn)
    world.task("angry", angry)
    await world.add("t:stubborn", time=START, timeout=2)
    await world.add("t:angry", time=START, timeout=2)
    await world.run()
    assert {row.status for row in world.history()} == {"timed_out"}


async def test_a_task_that_does_not_end_does_not_hold_up_the_drain(world: World) -> None:
    scheduler = world.scheduler()
    released = asyncio.Event()

    async def endless() -> None:
        while not released.is_set():
            try:
                await world.clock.sleep(600)
            except asyncio.CancelledError:
                continue

    world.task("endless", endless)
    world.task("stop", scheduler.stop)
    await world.add("t:endless", time=START + MINUTE)
    await world.add("t:stop", time=START + MINUTE)
    await scheduler.run(options=Options(drain_seconds=1))
    statuses = {row.task_name: (row.status, row.reason) for row in world.history()}
    assert statuses["t:endless"] == ("cancelled", "shutdown")
    released.set()
    world.clock.advance(3600)
    await world.clock.sleep(3600)


async def test_what_a_stopping_scheduler_could_not_record_is_abandoned(world: World) -> None:
    await world.add("t:nap", args=[1], time=START, schedule_id="lost")
    database = world.writing()
    entry, lock = owners.register(database, "boot", to_us(START))
    database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, owner) VALUES ('lost', 't:nap', 1, 1, 'schedule', 'running', 1, ?)""",
        (entry.owner,),
    )
    owners.unregister(database, entry.owner, to_us(START))
    lock.release()
    database.close()
    assert [(row.status, row.reason) for row in world.history()] == [("abandoned", "owner-stopped")]


async def test_a_given_back_firing_of_a_damaged_row_stops_nothing_else(world: World) -> None:
    await world.add(cron="* * * * *", schedule_id="bad")
    await world.add(cron="* * * * *", schedule_id="good")
    await stop_half_a_second_before(world, START + timedelta(seconds=30))
    assert ("12:01:00", "waiting") in world.statuses()
    database = world.writing()
    database.execute("UPDATE schedules SET catchup_window = 'soon' WHERE schedule_id = 'bad'")
    database.close()
    await world.run(2 * MINUTE)
    assert [row.status for row in world.history("good")] == ["succeeded", "succeeded"]
    assert {row.status for row in world.history("bad")} <= {"missed"}


async def test_a_one_shot_whose_id_and_time_have_run_is_refused(world: World) -> None:
    await world.add(time=START, schedule_id="x")
    await world.run()
    with pytest.raises(DuplicateScheduleError, match="already"):
        await world.add("t:nap", time=START, schedule_id="x")
    await world.add("t:note", args=["again"], time=START + MINUTE, schedule_id="x")
    await world.run()
    assert len(world.calls) == 2


async def test_runs_may_share_a_task_id(world: World, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("import time\ndef nap(): time.sleep(0.3)\n")
    broker = SubprocessBroker(tmp_path)
    source = world.source
    for _ in range(2):
        schedule = ScheduledTask(task_name="jobs:nap", task_id="fixed", time=START)
        await source.add_schedule(schedule)
    await Scheduler(broker, [source], clock=world.clock).run(until_idle=True)
    assert [row.status for row in world.history()] == ["succeeded", "succeeded"]


async def test_skip_first_run_skips_what_was_given_back_before_it(world: World) -> None:
    await world.add(interval=35, schedule_id="x")  # 12:01:05, 12:01:40, …
    await stop_half_a_second_before(world, START + timedelta(seconds=35))
    await world.run(timedelta(seconds=90), skip_first_run=True)
    first = world.history("x")[0]
    assert (first.attempt, first.status, first.reason) == (1, "skipped", "first-run")
    assert [moment for _, moment in world.calls] == [START + timedelta(seconds=105)]


async def test_the_firing_at_the_minute_of_skip_first_run_is_no_catch_up(world: World) -> None:
    await world.add(cron="* * * * *")
    await world.run(MINUTE, skip_first_run=True)
    assert [row.trigger for row in world.history()] == ["schedule"]


async def test_a_retry_is_not_parked_by_a_clock_put_back(world: World) -> None:
    world.failures_left = 1
    await world.add("t:flaky", time=START, retries=1, retry_delay=30, schedule_id="x")
    await world.run(timedelta(seconds=5))
    database = world.writing()
    set_back.pull_back(database, to_us(START) - 6 * 3600 * SECOND_US)
    due_us = database.execute("SELECT due_us FROM runs WHERE attempt = 2").fetchone()[0]
    database.close()
    assert from_us(due_us) == START - timedelta(hours=6) + timedelta(seconds=30)


async def test_another_claim_that_becomes_overdue_is_waited_for_without_spinning(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    real = claims.turn

    def counted(database: Database, request: Request) -> Turn:
        turns.append(1)
        return real(database, request)

    monkeypatch.setattr(claims, "turn", counted)
    await world.add(time=START + MINUTE)
    database = world.writing()
    entry, lock = owners.register(database, "boot", to_us(START))
    due_us = database.execute("SELECT next_us FROM schedules").fetchone()[0]
    database.execute("UPDATE schedules SET next_us = NULL, wake_us = NULL")
    database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, owner) SELECT schedule_id, task_name, ?1, 1, 'schedule', 'claimed', ?1, ?2
           FROM schedules""",
        (due_us, entry.owner),
    )
    await world.run()
    assert len(world.calls) == 1
    assert len(turns) < 12
    lock.release()
    database.close()


async def test_an_end_that_cannot_be_put_on_record_is_no_failure_and_is_cleared_up(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(owners, "unregister", full)
        await stop_half_a_second_before(world, START + timedelta(seconds=30))
    assert "the disk is full" in caplog.text
    await world.add(time=START + MINUTE)
    await world.run()
    assert [row.status for row in world.history()] == ["succeeded", "succeeded"]
    database = world.writing()
    assert peers.others(database, None) == []
    database.close()


async def test_a_scheduler_whose_lock_file_cannot_be_made_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(OwnerLock, "acquire", full)
    with pytest.raises(StorageError, match="No space left"):
        await world.run()

"""What a backup says of what was going when it was taken, and of the time since, once restored."""

import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sqlsched import InProcessBroker, ScheduledTask, Scheduler, SqliteScheduleSource
from sqlsched.instants import SECOND_US
from sqlsched.planner import jittered_us
from sqlsched.storage import backups, mirror, runs, schedules
from sqlsched.storage.connection import open_for_reading
from sqlsched.testing import FakeClock

from .bench import NOON_US, Bench, s


def backed_up(bench: Bench, at: float) -> Path:
    copy = bench.path.with_name("copy.db")
    backups.back_up(bench.database, copy, s(at))
    return copy


def restored(bench: Bench, copy: Path, at: float, **options: Any) -> tuple[Bench, backups.Restored]:
    """The database made of a copy, under another name, and what was done."""
    path = bench.path.with_name("restored.db")
    done = backups.restore(path, copy, s(at), **options)
    return Bench(path), done


def test_nobody_serves_a_copy_and_what_ran_is_given_up_in_it(bench: Bench) -> None:
    bench.add()
    bench.add("next", start=datetime(2027, 1, 15, 12, 0, 1, tzinfo=UTC), interval=60)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0.5).started
    copy = backed_up(bench, 0.7)
    with Bench(copy) as other:
        assert other.ask("SELECT count(*) FROM owners WHERE stopped_us IS NULL") == [0]
        assert other.ask("SELECT value FROM meta WHERE key = 'backed_up_us'") == [s(0.7)]
        found = runs.get_run(other.database, run.run_id)
        assert (found.status, found.reason, found.finished_us) == ("abandoned", "restored", s(0.7))
        assert other.runs("next") == [(1, 1, "waiting")]
    assert bench.runs() == [(0, 1, "running")]
    assert bench.runs("next") == [(1, 1, "claimed")]


def test_what_came_due_since_a_backup_is_missed_and_not_run(bench: Bench) -> None:
    bench.add()
    bench.add("once", time=datetime(2027, 1, 15, 12, 1, 30, tzinfo=UTC))
    bench.add("later", time=datetime(2027, 1, 15, 13, tzinfo=UTC))
    copy = backed_up(bench, 30)
    new, done = restored(bench, copy, 200)
    with new:
        assert new.unrun() == [(0, 180, 4, "missed", "restored")]
        assert new.unrun("once") == [(90, 90, 1, "missed", "restored")]
        assert (new.next(), new.next("once"), new.next("later")) == (240, None, 3600)
        assert new.scheduler().turn(200).started == []
    assert (done.schedules, done.replaced) == (3, None)
    assert (done.lost.since_us, done.lost.missed, done.lost.abandoned) == (s(30), 5, 0)


def test_what_was_claimed_waiting_or_running_is_abandoned(bench: Bench) -> None:
    bench.add("claimed")
    bench.add("failed", retries=3, retry_delay=60)
    bench.add("manual", interval=3600)
    first = bench.scheduler()
    for run in first.turn(0).started:
        if run.schedule_id == "failed":
            first.finish(run, 1, "failed")
    runs.trigger(bench.database, "manual", s(2))
    first.turn(59.5)
    new, done = restored(bench, backed_up(bench, 59.6), 59.7)
    with new:
        assert new.ask("SELECT count(*) FROM runs WHERE finished_us IS NULL") == [0]
        assert new.runs("claimed") == [(0, 1, "abandoned"), (60, 1, "abandoned")]
        assert new.runs("failed")[:2] == [(0, 1, "failed"), (0, 2, "abandoned")]
        assert new.runs("manual") == [(2, 1, "abandoned")]
        assert new.ask("SELECT DISTINCT reason FROM runs WHERE status = 'abandoned'") == [
            "restored"
        ]
        assert new.scheduler().turn(61).started == []
    assert done.lost.abandoned == 5


def test_with_catch_up_the_rules_for_missed_firings_decide(bench: Bench) -> None:
    bench.add()
    bench.add("once", time=datetime(2027, 1, 15, 12, 1, 30, tzinfo=UTC))
    bench.add("claimed", catchup_window="unlimited")
    bench.scheduler().turn(-0.5)
    new, done = restored(bench, backed_up(bench, -0.4), 200, catch_up=True)
    with new:
        assert new.unrun() == []
        started = {run.schedule_id: run.scheduled_us - NOON_US for run in _turn(new, 200)}
        assert started == {"job": 180_000_000, "once": 90_000_000, "claimed": 0}
    assert (done.lost.missed, done.lost.abandoned) == (0, 0)


def _turn(bench: Bench, at: float) -> list[Any]:
    return bench.scheduler().turn(at, room=99).started


def test_a_firing_that_jitter_still_holds_back_is_not_missed(bench: Bench) -> None:
    bench.add(jitter=59)
    timing = schedules.get(bench.database, "job").timing
    first, second = (jittered_us("job", timing, s(at)) for at in (0, 60))
    assert s(0) < first < s(60) < second - 1
    copy = backed_up(bench, -10)
    for now_us, missed, following in ((first - 1, 0, 0), (first, 1, 60), (second - 1, 1, 60)):
        new, done = restored(bench, copy, (now_us - NOON_US) / SECOND_US)
        with new:
            assert (done.lost.missed, new.next()) == (missed, following)


def test_what_is_paused_shared_or_damaged_is_left_alone(bench: Bench) -> None:
    for name in ("paused", "shared", "damaged"):
        bench.add(name, paused=name == "paused")
    bench.ask("UPDATE schedules SET shared = 1, wake_us = NULL WHERE schedule_id = 'shared'")
    bench.ask("UPDATE schedules SET cron = 'x', interval_s = NULL WHERE schedule_id = 'damaged'")
    new, done = restored(bench, backed_up(bench, -1), 200)
    with new:
        assert [new.next(name) for name in ("paused", "shared", "damaged")] == [0, 0, 0]
    assert done.lost.missed == 0


def test_a_plain_copy_of_the_files_can_be_restored_too(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.turn(0, heartbeat=True)
    copy = bench.path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{bench.path}{suffix}", f"{copy}{suffix}")
    new, done = restored(bench, copy, 90)
    with new:
        assert new.ask("SELECT count(*) FROM owners WHERE stopped_us IS NULL") == [0]
        assert new.runs() == [(0, 1, "abandoned")]
        assert new.unrun() == [(60, 60, 1, "missed", "restored")]
    assert done.lost.since_us == NOON_US


def test_what_another_source_lists_anew_does_not_run_for_time_that_is_lost(bench: Bench) -> None:
    new, _ = restored(bench, backed_up(bench, -10), 30)
    listed = [
        ScheduledTask(task_name="m:f", schedule_id="cron", cron="* * * * *"),
        ScheduledTask(
            task_name="m:f", schedule_id="once", time=datetime(2027, 1, 15, 12, tzinfo=UTC)
        ),
    ]
    with new:
        mirror.sync(new.database, "labels", listed, s(31))
        assert (new.next("cron"), new.next("once")) == (60, None)


# -- a whole day ----------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", [False, True])
async def test_no_firing_runs_twice_over_a_restore(tmp_path: Path, catch_up: bool) -> None:
    clock = FakeClock(datetime(2027, 1, 1, tzinfo=UTC))
    path, copy = tmp_path / "app.db", tmp_path / "copy.db"
    broker, called = InProcessBroker(), []
    for name in ("minutely", "once"):
        broker.tasks[f"t:{name}"] = lambda name=name: called.append((name, clock.now()))
    source = SqliteScheduleSource(path, clock=clock)
    for schedule in (
        ScheduledTask(task_name="t:minutely", cron="* * * * *", schedule_id="minutely"),
        ScheduledTask(task_name="t:once", time=datetime(2027, 1, 1, 0, 10, tzinfo=UTC)),
    ):
        await source.add_schedule(schedule)
    await source.shutdown()

    async def run(minutes: float) -> None:
        scheduler = Scheduler(broker, [source], clock=clock)
        await scheduler.run(until=clock.now() + timedelta(minutes=minutes))

    await run(5.1)
    with closing(open_for_reading(path)) as database:
        backups.back_up(database, copy, clock.now_us())
    await run(15)
    done = backups.restore(path, copy, clock.now_us(), catch_up=catch_up)
    assert done.lost.missed == (0 if catch_up else 15 + 1)
    await run(5)
    twice = {name for name, moment in called if called.count((name, moment)) > 1}
    again = [moment for name, moment in called if name == "once"]
    assert twice == set()
    assert len(again) == (2 if catch_up else 1)
    with closing(open_for_reading(path)) as database:
        accounted = sum(run.count for run in runs.history(database, schedule_id="minutely"))
    assert accounted == 25

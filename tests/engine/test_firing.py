"""When runs happen, on the fake clock and through the real loop."""

import asyncio
from datetime import timedelta

from sqlsched import ScheduledTask, Scheduler
from sqlsched.engine.scheduler import Options
from sqlsched.instants import from_us, to_us
from sqlsched.storage import additions, runs
from tests.engine.conftest import START, World

MINUTE = timedelta(minutes=1)


async def test_a_cron_schedule_runs_on_every_minute_and_sees_its_time(world: World) -> None:
    await world.add(cron="* * * * *")
    await world.run(3 * MINUTE)
    assert [moment.isoformat() for _, moment in world.calls] == [
        "2026-03-02T12:01:00+00:00",
        "2026-03-02T12:02:00+00:00",
        "2026-03-02T12:03:00+00:00",
    ]
    assert {row.status for row in world.history()} == {"succeeded"}
    assert {row.trigger for row in world.history()} == {"schedule"}


async def test_nothing_fires_at_or_after_until(world: World) -> None:
    await world.add(interval=30)
    await world.run(timedelta(seconds=60))
    assert len(world.calls) == 1


async def test_an_interval_counts_from_its_making_whatever_restarts_do(world: World) -> None:
    await world.add(interval=600)
    for _ in range(4):
        await world.run(timedelta(seconds=1000))
    expected = [START + timedelta(seconds=600 * n) for n in range(1, 7)]
    assert [moment for _, moment in world.calls] == expected


async def test_the_start_of_an_interval_is_its_first_firing(world: World) -> None:
    await world.add(interval=60, start=START + timedelta(seconds=10))
    await world.run(2 * MINUTE)
    assert [moment for _, moment in world.calls] == [
        START + timedelta(seconds=10),
        START + timedelta(seconds=70),
    ]


async def test_a_one_shot_fires_once_and_is_done(world: World) -> None:
    await world.add(time=START + MINUTE)
    await world.run()
    await world.run()
    assert [moment for _, moment in world.calls] == [START + MINUTE]
    assert await world.source.get_schedules() == []


async def test_a_one_shot_whose_time_passed_while_nobody_ran_fires_at_the_start(
    world: World,
) -> None:
    await world.add(time=START + MINUTE)
    world.clock.advance(timedelta(days=3))
    await world.run()
    assert len(world.calls) == 1
    assert world.history()[0].trigger == "catchup"


async def test_a_schedule_ends_after_max_runs(world: World) -> None:
    await world.add(interval=1, max_runs=3)
    await world.run()
    assert len(world.calls) == 3
    assert await world.source.get_schedules() == []


async def test_bounds_are_inclusive(world: World) -> None:
    start, end = START + 2 * MINUTE, START + 4 * MINUTE
    await world.add(interval=60, start=start, end=end)
    await world.run()
    assert [moment for _, moment in world.calls] == [start, start + MINUTE, end]


async def test_what_should_have_run_in_this_minute_runs_at_the_start(world: World) -> None:
    await world.add(cron="* * * * *")
    world.clock.advance(timedelta(minutes=10))  # 12:10:30
    await world.run(timedelta(seconds=20))
    assert len(world.calls) == 1
    missed, ran = world.history()
    assert (missed.status, missed.reason, missed.count) == ("missed", "outside-catchup-window", 9)
    assert (f"{from_us(ran.scheduled_us):%H:%M}", ran.trigger) == ("12:10", "catchup")


async def test_a_restart_repeats_nothing_that_the_ledger_has_seen(world: World) -> None:
    await world.add(cron="* * * * *")
    await world.run(timedelta(seconds=40))
    await world.run(timedelta(seconds=5))
    assert len(world.calls) == 1


async def test_coalesce_all_runs_what_was_missed_in_order_one_after_another(world: World) -> None:
    await world.add(
        "t:nap", args=[20], cron="1-3 12 * * *", catchup_window="unlimited", coalesce="all"
    )
    world.clock.advance(timedelta(minutes=3))  # 12:03:30; 12:01 to 12:03 are missed
    await world.run(2 * MINUTE)
    assert [name for name, _ in world.calls] == ["asleep", "awake"] * 3
    assert [status for _, status in world.statuses()] == ["succeeded"] * 3


async def test_the_catchup_window_of_run_is_the_default_of_schedules_without(world: World) -> None:
    await world.add(cron="0 * * * *")
    world.clock.advance(timedelta(minutes=90))  # 13:30:30
    await world.run(timedelta(seconds=5), options=Options(catchup_window=7200))
    assert len(world.calls) == 1


async def test_skip_first_run_starts_with_the_next_whole_minute(world: World) -> None:
    await world.add(interval=10, schedule_id="often")
    await world.add(time=START - timedelta(days=1), schedule_id="overdue")
    await world.run(timedelta(seconds=31), skip_first_run=True)
    assert [moment.isoformat() for _, moment in world.calls] == ["2026-03-02T12:01:00+00:00"] * 2
    skipped = [row for row in world.history() if row.status == "skipped"]
    assert [(row.reason, row.count) for row in skipped] == [("first-run", 2)]


async def test_once_runs_what_is_due_now_and_nothing_later(world: World) -> None:
    await world.add(time=START - MINUTE, schedule_id="due")
    await world.add(time=START + timedelta(seconds=1), schedule_id="later")
    await world.run(once=True)
    assert len(world.calls) == 1
    assert [s.schedule_id for s in await world.source.get_schedules()] == ["later"]


async def test_until_idle_waits_for_retries_but_not_for_what_is_paused(world: World) -> None:
    world.failures_left = 1
    await world.add("t:flaky", time=START, retries=1, retry_delay=300)
    await world.add(cron="* * * * *", paused=True)
    await world.run()
    assert [moment for _, moment in world.calls] == [START, START + timedelta(seconds=300)]


async def test_jitter_delays_the_dispatch_and_not_the_identity(world: World) -> None:
    await world.add(cron="*/10 * * * *", jitter=300)
    await world.run(timedelta(hours=2, minutes=5))
    delays = [from_us(row.started_us or 0) - from_us(row.scheduled_us) for row in world.history()]
    assert len(delays) == 12
    assert all(timedelta(0) <= delay < timedelta(seconds=300) for delay in delays)
    assert len(set(delays)) > 6
    assert all(row.scheduled_us % 600_000_000 == 0 for row in world.history())


async def test_a_change_by_somebody_else_is_seen_while_running(world: World) -> None:
    async def add_another() -> None:
        database = world.writing()
        schedule = ScheduledTask(task_name="t:note", args=["late"], time=world.clock.now())
        additions.add(database, schedule, world.clock.now_us())
        database.close()

    world.task("add", add_another)
    await world.add("t:add", time=START + MINUTE)
    await world.run()
    assert world.calls == [("late", START + MINUTE)]


async def test_a_manual_trigger_runs_besides_the_firings(world: World) -> None:
    await world.add(cron="0 0 1 1 *", schedule_id="yearly")
    database = world.writing()
    runs.trigger(database, "yearly", world.clock.now_us())
    database.close()
    await world.run(timedelta(seconds=5))
    assert [(row.trigger, row.status) for row in world.history()] == [("manual", "succeeded")]


async def test_a_damaged_row_is_put_aside_and_stops_nothing_else(world: World) -> None:
    await world.add(cron="* * * * *", schedule_id="bad")
    await world.add(cron="* * * * *", schedule_id="good")
    database = world.writing()
    database.execute("UPDATE schedules SET cron = 'nonsense' WHERE schedule_id = 'bad'")
    database.close()
    await world.run(2 * MINUTE)
    assert {row.schedule_id for row in world.history()} == {"good"}
    assert len(world.calls) == 2


async def test_two_schedulers_on_one_database_run_each_firing_once(world: World) -> None:
    for second in range(20):
        await world.add(interval=7 + second)
    until = world.clock.now() + timedelta(minutes=5)
    schedulers = [Scheduler(world.broker, [], database=world.path, clock=world.clock) for _ in "ab"]
    await world.broker.startup()
    await asyncio.gather(*(scheduler.run(until=until) for scheduler in schedulers))
    expected = sum((300 * 10**6 - 1) // ((7 + s) * 10**6) for s in range(20))
    rows = world.history()
    assert len(rows) == len({(row.schedule_id, row.scheduled_us) for row in rows}) == expected
    assert {row.status for row in rows} == {"succeeded"}
    await world.broker.shutdown()


async def test_a_step_back_repeats_nothing_and_parks_nothing(world: World) -> None:
    await world.add(cron="* * * * *")
    await world.run(10 * MINUTE)
    world.clock.set_back(timedelta(minutes=5))
    await world.run(10 * MINUTE)
    nominal = [row.scheduled_us for row in world.history() if row.status == "succeeded"]
    assert len(nominal) == len(set(nominal))
    assert nominal == [to_us(START) + (30 + 60 * n) * 10**6 for n in range(len(nominal))]
    assert len(nominal) == 15


async def test_a_step_back_after_a_leap_into_the_future_parks_no_schedule(world: World) -> None:
    scheduler = world.scheduler()

    async def leap() -> None:
        world.clock.set_forward(timedelta(days=400))

    async def come_back() -> None:
        world.clock.set_back(timedelta(days=400))
        await world.add("t:stop", time=START + timedelta(minutes=60))

    world.task("leap", leap)
    world.task("come_back", come_back)
    world.task("stop", scheduler.stop)
    await world.add(cron="* * * * *", schedule_id="steady")
    await world.add("t:leap", time=START + timedelta(seconds=95))
    await world.add("t:come_back", time=START + timedelta(days=400, seconds=215))
    await scheduler.run()
    ran = [row.scheduled_us for row in world.history("steady") if row.status == "succeeded"]
    assert len(ran) == len(set(ran))
    in_the_first_hour = {us for us in ran if us < to_us(START) + 3600 * 10**6}
    # 12:03 and 12:04 passed while the clock was elsewhere.
    assert len(in_the_first_hour) == 58
    assert "steady" in [schedule.schedule_id for schedule in await world.source.get_schedules()]


async def test_a_start_far_below_the_highest_time_on_record_waits_for_the_clock(
    world: World,
) -> None:
    await world.add(cron="* * * * *")
    await world.run(2 * MINUTE)
    world.clock.set_back(timedelta(days=30))
    an_hour_before = START + 2 * MINUTE - timedelta(hours=1)
    await world.run(until=an_hour_before + 2 * MINUTE)
    assert [moment >= an_hour_before for _, moment in world.calls[2:]] == [True, True]


async def test_accept_clock_believes_the_clock_at_once(world: World) -> None:
    await world.add(cron="* * * * *")
    await world.run(2 * MINUTE)
    world.clock.set_back(timedelta(days=30))
    await world.run(2 * MINUTE, options=Options(accept_clock=True))
    assert len(world.calls) == 4
    await world.run(2 * MINUTE)
    assert len(world.calls) == 6


async def test_a_forward_step_coalesces_without_enumerating(world: World) -> None:
    await world.add(interval=1)
    world.clock.advance(timedelta(days=3650))
    await world.run(timedelta(seconds=3))
    missed = [row for row in world.history() if row.status == "missed"]
    assert sum(row.count for row in missed) == 3650 * 86_400 - 1
    assert len(missed) == 2


async def test_old_runs_are_pruned(world: World) -> None:
    await world.add(cron="0 * * * *")
    await world.run(timedelta(days=3), options=Options(keep_seconds=86_400))
    oldest = world.history()[0]
    age = world.clock.now() - from_us(oldest.scheduled_us)
    assert timedelta(hours=23) <= age <= timedelta(hours=26)


async def test_failed_runs_are_kept_for_longer(world: World) -> None:
    await world.add("t:flaky", cron="0 */4 * * *")
    world.failures_left = 6
    keep = Options(keep_seconds=86_400, keep_failed_seconds=2 * 86_400)
    await world.run(timedelta(days=2), options=keep)
    rows = world.history()
    assert [row.status for row in rows[:6]] == ["failed"] * 6
    assert {row.status for row in rows[6:]} == {"succeeded"}
    assert len(rows[6:]) == 6
    await world.run(timedelta(days=1, hours=2), options=keep)
    assert {row.status for row in world.history()} == {"succeeded"}


async def test_a_row_with_nonsense_for_arguments_fails_its_run_and_stops_nothing_else(
    world: World,
) -> None:
    await world.add(cron="* * * * *", schedule_id="no-array")
    await world.add(cron="* * * * *", schedule_id="no-object")
    await world.add(cron="* * * * *", schedule_id="good")
    database = world.writing()
    database.execute("UPDATE schedules SET args = '[' WHERE schedule_id = 'no-array'")
    database.execute("UPDATE schedules SET labels = '7' WHERE schedule_id = 'no-object'")
    database.close()
    await world.run(2 * MINUTE)
    assert len(world.calls) == 2
    failed = [row for row in world.history() if row.status == "failed"]
    assert {row.schedule_id for row in failed} == {"no-array", "no-object"}
    assert all("damaged" in (row.error or "") for row in failed)


async def test_an_interval_of_no_length_is_put_aside(world: World) -> None:
    await world.add(interval=60, schedule_id="bad")
    database = world.writing()
    database.execute("PRAGMA ignore_check_constraints = ON")
    database.execute("UPDATE schedules SET interval_s = -5, next_us = 1, wake_us = 1")
    database.close()
    await world.run(MINUTE)
    assert world.history() == []


async def test_a_firing_missed_long_ago_stays_in_the_ledger(world: World) -> None:
    await world.add(time=START - timedelta(days=2000), catchup_window=3600)
    await world.run(2 * MINUTE)
    assert [(row.status, row.reason) for row in world.history()] == [
        ("missed", "outside-catchup-window")
    ]

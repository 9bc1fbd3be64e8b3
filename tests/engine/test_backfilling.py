"""Backfills, through the real loop: one after another, beside what is due."""

import asyncio
from datetime import timedelta

from sqlsched.instants import to_us
from sqlsched.storage import backfill
from tests.engine.conftest import START, World

MINUTE = timedelta(minutes=1)


def fill(world: World, schedule_id: str, minutes: int) -> int:
    """Backfill the last so many minutes; how many firings that is."""
    now_us = world.clock.now_us()
    first_us = to_us(world.clock.now() - minutes * MINUTE)
    database = world.writing()
    try:
        found = backfill.backfill(database, schedule_id, first_us, now_us, now_us)
    finally:
        database.close()
    return len(found.without_run)


async def test_they_run_to_their_end_in_the_order_of_their_times(world: World) -> None:
    await world.add(
        "t:nap", cron="* * * * *", kwargs={"seconds": 90}, schedule_id="job", paused=True
    )
    assert fill(world, "job", 5) == 5
    await world.run()  # until idle
    naps = [(what, (at - START).total_seconds()) for what, at in world.calls]
    assert naps == [
        (what, 90.0 * n + end) for n in range(5) for what, end in (("asleep", 0), ("awake", 90))
    ]
    assert world.statuses() == [(f"11:{minute}:00", "succeeded") for minute in range(56, 60)] + [
        ("12:00:00", "succeeded")
    ]
    assert {row.trigger for row in world.history()} == {"backfill"}


async def test_once_runs_all_of_them(world: World) -> None:
    await world.add(cron="* * * * *", schedule_id="job")
    assert fill(world, "job", 3) == 3
    await world.run(once=True)
    assert len(world.calls) == 3


async def test_one_that_is_asked_for_meanwhile_is_taken_up(world: World) -> None:
    await world.add(cron="* * * * *", schedule_id="other", args=["other"])
    await world.add(cron="@hourly", schedule_id="job", args=["job"])
    running = asyncio.create_task(world.run(timedelta(minutes=3)))
    while not world.calls:  # noqa: ASYNC110 - it is the clock's loop that is waited for
        await asyncio.sleep(0)
    assert fill(world, "job", 100) == 2
    await running
    assert [name for name, _ in world.calls].count("job") == 2


async def test_a_failed_one_is_tried_again_before_the_next(world: World) -> None:
    world.failures_left = 1
    await world.add(
        "t:flaky", cron="* * * * *", schedule_id="job", retries=1, retry_delay=10, paused=True
    )
    assert fill(world, "job", 2) == 2
    await world.run()
    assert [(row.trigger, row.status) for row in world.history()] == [
        ("backfill", "failed"),
        ("backfill", "succeeded"),
        ("retry", "succeeded"),
    ]
    assert [(at - START).total_seconds() for _, at in world.calls] == [0, 10, 10]

"""`FakeClock`: time passes when nothing is left to do, and only then."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from sqlsched.instants import SECOND_US
from sqlsched.testing import FakeClock

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)
FOREVER_US = 2**62


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


def seconds(clock: FakeClock) -> float:
    """So far after noon, on the wall."""
    return (clock.now() - NOON).total_seconds()


def never() -> bool:
    return False


def us(clock: FakeClock, later: float) -> int:
    return clock.now_us() + round(later * SECOND_US)


async def real_work() -> None:
    """Something that takes real time: many rounds of the loop, in a thread and outside it."""
    for _ in range(20):
        await asyncio.to_thread(lambda: None)


async def begun() -> None:
    """One round of the loop: what was just made a task has come to its first wait."""
    await asyncio.sleep(0)


def test_it_starts_at_an_aware_datetime_and_refuses_another(clock: FakeClock) -> None:
    assert clock.now() == NOON
    assert clock.now().tzinfo is UTC
    with pytest.raises(ValueError, match="aware"):
        FakeClock(datetime(2027, 1, 15))  # noqa: DTZ001 - that is the point


async def test_a_sleep_of_a_year_takes_no_time_and_ends_exactly(clock: FakeClock) -> None:
    async with asyncio.timeout(5):
        await clock.sleep(365 * 86_400)
    assert clock.now() == NOON + timedelta(days=365)
    assert clock.monotonic() == 365 * 86_400


async def test_a_sleep_of_nothing_moves_nothing(clock: FakeClock) -> None:
    await clock.sleep(0)
    await clock.sleep(-5)
    assert (seconds(clock), clock.monotonic()) == (0, 0)


async def test_sleepers_wake_in_the_order_of_their_time_each_at_its_own(clock: FakeClock) -> None:
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, seconds(clock)))

    await asyncio.gather(sleeper("a", 3, 3), sleeper("b", 1, 1, 1), sleeper("c", 2))
    assert sorted(woken, key=lambda entry: entry[1]) == woken
    assert sorted(woken) == [("a", 3), ("a", 6), ("b", 1), ("b", 2), ("b", 3), ("c", 2)]


async def test_it_does_not_jump_while_work_goes_on(clock: FakeClock) -> None:
    async def work() -> float:
        with clock.busy():
            await real_work()
            return seconds(clock)

    asleep = asyncio.create_task(clock.sleep(60))
    assert await work() == 0
    await asleep
    assert seconds(clock) == 60


async def test_work_that_sleeps_lets_time_pass_and_holds_it_again_afterwards(
    clock: FakeClock,
) -> None:
    async def work() -> list[float]:
        times = []
        with clock.busy():
            await clock.sleep(10)
            times.append(seconds(clock))
            await real_work()
            times.append(seconds(clock))
        return times

    asleep = asyncio.create_task(clock.sleep(60))
    assert await work() == [10, 10]
    await asleep
    assert seconds(clock) == 60


async def test_work_within_work_holds_time_until_both_are_done(clock: FakeClock) -> None:
    asleep = asyncio.create_task(clock.sleep(60))
    with clock.busy():
        with clock.busy():
            await real_work()
        await real_work()
        assert seconds(clock) == 0
    await asleep


async def test_a_cancelled_sleep_is_forgotten(clock: FakeClock) -> None:
    with clock.busy():
        cancelled = asyncio.create_task(clock.sleep(5))
        await begun()
        cancelled.cancel()
        await asyncio.wait([cancelled])
    await clock.sleep(60)
    assert seconds(clock) == 60


async def test_waiting_ends_at_its_time(clock: FakeClock) -> None:
    await clock.wait(us(clock, 90), asyncio.Event(), never)
    assert seconds(clock) == 90


async def test_waiting_for_a_time_that_has_passed_ends_at_once(clock: FakeClock) -> None:
    await clock.wait(us(clock, -1), asyncio.Event(), never)
    assert seconds(clock) == 0


async def test_waiting_ends_when_woken_without_time_passing(clock: FakeClock) -> None:
    wakeup = asyncio.Event()

    async def work() -> None:
        with clock.busy():
            await real_work()
            wakeup.set()

    async with asyncio.timeout(10):
        await asyncio.gather(clock.wait(us(clock, 90), wakeup, never), work())
    assert seconds(clock) == 0


async def test_waiting_does_not_begin_when_something_has_happened_already(
    clock: FakeClock,
) -> None:
    wakeup = asyncio.Event()
    wakeup.set()
    await clock.wait(us(clock, 90), wakeup, never)
    await clock.wait(us(clock, 90), asyncio.Event(), lambda: True)
    assert seconds(clock) == 0


async def test_while_it_waits_it_asks_again_in_real_time(clock: FakeClock) -> None:
    # An answer from outside, as when another process writes to the database.
    answers = iter([False, True])
    async with asyncio.timeout(10):
        await clock.wait(FOREVER_US, asyncio.Event(), lambda: next(answers))
    assert seconds(clock) == 0


async def test_it_never_jumps_to_never(clock: FakeClock) -> None:
    wakeup = asyncio.Event()
    waiting = asyncio.create_task(clock.wait(FOREVER_US, wakeup, never))
    await real_work()
    assert (seconds(clock), waiting.done()) == (0, False)
    await clock.sleep(60)
    wakeup.set()
    await waiting
    assert seconds(clock) == 60


async def test_letting_time_pass_wakes_who_waited_for_it(clock: FakeClock) -> None:
    with clock.busy():
        asleep = asyncio.create_task(clock.sleep(60))
        await begun()
        clock.advance(timedelta(minutes=2))
        await asleep
    assert (seconds(clock), clock.monotonic()) == (120, 120)


@pytest.mark.parametrize("step", [-3600, 3600, -5, 5])
async def test_setting_the_clock_makes_no_sleep_longer_or_shorter(
    clock: FakeClock, step: float
) -> None:
    with clock.busy():
        asleep = asyncio.create_task(clock.sleep(60))
        await begun()
        clock.set_forward(step) if step > 0 else clock.set_back(-step)
        assert clock.monotonic() == 0
    await asleep
    assert (seconds(clock), clock.monotonic()) == (60 + step, 60)


@pytest.mark.parametrize(("step", "elapsed"), [(-3600, 3690), (3600, 0), (30, 60)])
async def test_who_waits_for_a_time_of_day_waits_until_the_wall_shows_it(
    clock: FakeClock, step: float, elapsed: float
) -> None:
    with clock.busy():
        waiting = asyncio.create_task(clock.wait(us(clock, 90), asyncio.Event(), never))
        await begun()
        clock.set_forward(timedelta(seconds=step))
    await waiting
    assert clock.monotonic() == elapsed


async def test_setting_the_clock_makes_who_waits_look_around_at_once(clock: FakeClock) -> None:
    asked: list[float] = []

    def poll() -> bool:
        asked.append(seconds(clock))
        return seconds(clock) < 0

    with clock.busy():
        waiting = asyncio.create_task(clock.wait(us(clock, 90), asyncio.Event(), poll))
        await begun()
        clock.set_back(3600)
    await waiting
    assert asked == [0, -3600]


async def test_what_ends_at_an_instant_has_ended_when_it_is_decided_what_begins_at_it(
    clock: FakeClock,
) -> None:
    seen: list[str] = []

    async def waiter() -> None:
        with clock.busy():
            await clock.wait(us(clock, 60), asyncio.Event(), never)
            seen.append("begins")

    async def work() -> None:
        with clock.busy():
            await clock.sleep(60)
            await real_work()
            seen.append("ends")

    await asyncio.gather(waiter(), work(), waiter())
    assert seen == ["ends", "begins", "begins"]
    assert seconds(clock) == 60


async def test_what_was_just_begun_begins_at_the_time_at_which_it_was(clock: FakeClock) -> None:
    later = asyncio.create_task(clock.sleep(1000))
    began: list[float] = []

    async def work() -> None:
        with clock.busy():
            began.append(seconds(clock))

    for rounds in range(3):  # however far the clock has got with looking whether all is quiet
        await clock.sleep(10)
        for _ in range(rounds):
            await asyncio.sleep(0)
        with clock.busy():
            working = asyncio.create_task(work())
            await clock.sleep(5)
        await working
    assert began == [10, 25, 40]
    await later


async def test_a_look_that_fails_is_the_waiters_failure(clock: FakeClock) -> None:
    def poll() -> bool:
        if seconds(clock):
            raise OSError("gone")
        return False

    with pytest.raises(OSError, match="gone"):
        await clock.wait(us(clock, 90), asyncio.Event(), poll)
    assert seconds(clock) == 90
    await clock.sleep(1)


@pytest.mark.parametrize("step", [-3600, 3600])
async def test_a_task_in_a_thread_may_set_the_clock(clock: FakeClock, step: float) -> None:
    with clock.busy():
        waiting = asyncio.create_task(clock.wait(us(clock, 90), asyncio.Event(), never))
        await begun()
        await asyncio.to_thread(clock.set_forward, step)
    await waiting
    assert clock.monotonic() == (0 if step > 0 else 90 + 3600)


def test_a_loop_that_was_left_in_the_middle_does_not_stop_the_next(clock: FakeClock) -> None:
    async def left() -> None:
        waiting = asyncio.create_task(clock.sleep(60))
        await begun()
        waiting.cancel()

    asyncio.run(left())
    asyncio.run(clock.sleep(10))
    assert seconds(clock) == 10


def test_it_serves_one_event_loop_after_another(clock: FakeClock) -> None:
    asyncio.run(clock.sleep(10))
    asyncio.run(clock.sleep(10))
    assert seconds(clock) == 20

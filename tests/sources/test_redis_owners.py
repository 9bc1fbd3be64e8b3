"""Schedulers that die, stop for a while, or leave, and the others on their Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sqlsched.instants import SECOND_US, to_us
from sqlsched.planner import Stretch
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.redis import RedisScheduleSource
from sqlsched.testing import FakeClock

BASE = "{sqlsched}"
NOON_US = to_us(datetime(2026, 11, 23, 12, tzinfo=UTC))
FIRST = "a", NOON_US + 60 * SECOND_US
SECOND = "a", NOON_US + 120 * SECOND_US
Machine = Callable[..., Awaitable[RedisScheduleSource]]
Kill = Callable[[str], Awaitable[None]]


def made(schedule_id: str = "a", **fields: Any) -> ScheduledTask:
    if not {"cron", "time", "interval"} & fields.keys():
        fields["cron"] = "* * * * *"
    return ScheduledTask(**{"task_name": "app:f", "schedule_id": schedule_id} | fields)


async def until(ask: Callable[[], Awaitable[Any]], wanted: object) -> None:
    async with asyncio.timeout(20):
        while await ask() != wanted:  # noqa: ASYNC110 - what passes is Redis's own time
            await asyncio.sleep(0.02)


@pytest.fixture
async def claimed(machine: Machine, clock: FakeClock, now: Any) -> RedisScheduleSource:
    """A scheduler with the ledger `one`, which has claimed the first firing."""
    one = await machine("one")
    await one.add_schedule(made())
    clock.advance(60)
    assert await now.claim(one) == [FIRST]
    return one


async def test_a_claim_whose_lease_has_run_out_goes_to_another(
    machine: Machine, clock: FakeClock, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    assert await now.claims(other) == []
    clock.advance(5)
    await kill("one")
    [claim] = await now.claims(other)
    [firing] = claim.firings
    assert (firing.scheduled_us, firing.due_us, firing.trigger) == (FIRST[1], FIRST[1], "catchup")
    assert await claimed.start(*FIRST) == "taken-over"
    assert await other.start(*FIRST) is None


@pytest.mark.usefixtures("short_lease")
async def test_a_lease_runs_out_by_itself_and_not_while_it_is_tended(
    machine: Machine, now: Any, claimed: RedisScheduleSource
) -> None:
    other, twin = await machine("other"), await machine("one")
    for _ in range(12):
        assert await now.claims(other) == await now.claims(twin) == []
        await now.tend(claimed)
        await asyncio.sleep(0.025)
    await until(lambda: now.claim(other), [FIRST])


async def test_a_lease_that_nobody_took_is_still_good(
    machine: Machine, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    await machine("other")
    await kill("one")
    assert await now.claims(claimed) == []  # it has it already
    assert await claimed.start(*FIRST) is None


@pytest.mark.usefixtures("claimed")
async def test_several_who_come_for_a_claim_do_not_both_get_it(
    machine: Machine, now: Any, kill: Kill
) -> None:
    others = [await machine(f"other{number}") for number in range(4)]
    await kill("one")
    found = await asyncio.gather(*(now.claim(other) for other in others))
    assert sorted(found) == [[], [], [], [FIRST]]


async def test_a_limit_holds_for_what_is_taken_over(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    one, other = await machine("one"), await machine("other")
    for number in range(10):
        await one.add_schedule(made(f"s{number}"))
    clock.advance(60)
    await now.claim(one)
    await one.leave()
    assert [len(await now.claim(other, 4)) for _ in range(4)] == [4, 4, 2, 0]


async def test_several_processes_of_one_ledger_do_not_both_get_a_claim(
    machine: Machine, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    others = [await machine("one") for number in range(4)]
    await kill("one")
    found = await asyncio.gather(*(now.claim(other) for other in others))
    assert sorted(found) == [[], [], [], [FIRST]]
    assert await claimed.start(*FIRST) is None  # the ledger is the same


@pytest.mark.usefixtures("claimed")
async def test_a_schedule_that_another_took_over_meanwhile_is_left_to_it(
    machine: Machine, clock: FakeClock, now: Any, kill: Kill, meanwhile: Any
) -> None:
    other, third = await machine("other"), await machine("third")
    clock.advance(59.5)
    await kill("one")
    meanwhile(other, "claim", lambda: now.claim(third, 1))
    assert await now.claims(other, ahead_s=1) == []
    assert list(third.outstanding) == [FIRST]


async def test_a_schedule_that_is_changed_just_as_it_is_taken_over_is_not(
    machine: Machine, now: Any, kill: Kill, meanwhile: Any, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await kill("one")
    change = made(args=[1])
    meanwhile(other, "claim", lambda: claimed.add_schedule(change, replace=True))
    assert await now.claim(other) == []


@pytest.mark.usefixtures("claimed")
async def test_a_claim_that_has_grown_too_old_is_recorded_once_as_missed(
    machine: Machine, clock: FakeClock, now: Any, kill: Kill
) -> None:
    other, third = await machine("other"), await machine("third")
    await kill("one")
    clock.advance(61)
    found = await now.claims(other)
    stretches = [stretch for claim in found for stretch in claim.stretches]
    assert Stretch(FIRST[1], FIRST[1], 1, "missed", "outside-catchup-window") in stretches
    assert FIRST not in other.outstanding
    await now.tend(other)
    await kill("other")
    missed = [s for claim in await now.claims(third) for s in claim.stretches]
    assert missed == []


@pytest.mark.usefixtures("claimed")
@pytest.mark.parametrize("change", ["remove", "replace"])
async def test_a_claim_of_a_schedule_that_is_another_now_is_dropped(
    machine: Machine,
    redis: Any,
    now: Any,
    kill: Kill,
    change: str,
) -> None:
    other = await machine("other")
    if change == "remove":
        await other.delete_schedule("a")
    else:
        await other.add_schedule(made(args=[1]), replace=True)
    await kill("one")
    assert await now.claims(other) == []
    assert await redis.zcard(f"{BASE}:leases") == 0
    assert await redis.exists(f"{BASE}:firings:a") == 0


async def test_what_a_dead_machine_had_started_is_abandoned_by_one_other(
    machine: Machine, redis: Any, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    others = [await machine(f"other{number}") for number in range(3)]
    await claimed.start(*FIRST)
    for other in others:
        assert await now.tend(other) == []
    await kill("one")
    found = await asyncio.gather(*(now.tend(other) for other in others))
    assert sorted(found) == [[], [], [FIRST]]
    for other in others:
        assert await now.tend(other) == []
        assert await now.claims(other) == []
    assert "one" not in await redis.zrange(f"{BASE}:owners", 0, -1)
    assert await redis.zcard(f"{BASE}:members") == len(others)
    assert await redis.keys("*:started:*") == await redis.keys("*:news:*") == []
    assert await claimed.start(*FIRST) == "taken-over"
    assert await now.tend(claimed, FIRST) == []
    assert await redis.exists(f"{BASE}:firings:a") == 0


@pytest.mark.usefixtures("short_lease")
async def test_a_machine_dies_by_itself_when_nothing_is_heard_of_it(
    machine: Machine, now: Any, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await claimed.start(*FIRST)
    for _ in range(12):
        await now.tend(claimed)
        assert await now.tend(other) == []
        await asyncio.sleep(0.025)
    await until(lambda: now.tend(other), [FIRST])


async def test_what_was_abandoned_is_told_again_if_the_answer_was_lost(
    machine: Machine, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await claimed.start(*FIRST)
    await kill("one")
    assert await now.tend(other) == [FIRST]
    await other.join("other", resend=False)  # as after a failure, which may have been its ledger's
    assert await now.tend(other) == [FIRST]
    assert await now.tend(other) == []


async def test_what_one_had_abandoned_and_died_with_goes_to_a_third(
    machine: Machine, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other, third = await machine("other"), await machine("third", resend=True)
    await claimed.start(*FIRST)
    await kill("one")
    assert await now.tend(other) == [FIRST]
    await kill("other")
    assert await now.tend(third) == [FIRST]
    assert await now.claim(third) == []


async def test_what_is_abandoned_is_known_though_its_schedule_is_gone(
    machine: Machine, clock: FakeClock, redis: Any, now: Any, kill: Kill, claimed: Any
) -> None:
    other = await machine("other")
    await claimed.start(*FIRST)
    await other.delete_schedule("a")
    await kill("one")
    [(schedule, scheduled_us)] = await other.tend([], clock.now_us())
    assert (schedule, scheduled_us) == (made(), FIRST[1])
    await now.tend(other)
    assert await redis.exists(f"{BASE}:firings:a") == 0


async def test_what_a_queue_may_get_twice_is_claimed_again(
    machine: Machine, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other = await machine("other", resend=True)
    await claimed.start(*FIRST)
    await kill("one")
    assert await now.tend(other) == []
    [claim] = await now.claims(other)
    assert (claim.firings[0].scheduled_us, claim.dispatched) == (FIRST[1], 0)
    assert await other.start(*FIRST) is None
    assert await claimed.start(*FIRST) == "taken-over"


async def test_another_process_of_the_ledger_learns_what_a_dead_one_had_started(
    machine: Machine, redis: Any, now: Any, claimed: RedisScheduleSource
) -> None:
    other, twin = await machine("other"), await machine("one")
    await claimed.start(*FIRST)
    member = claimed._connection.member
    await redis.zadd(f"{BASE}:members", {f"{member} one": 1})
    for _ in range(2):  # the ledger lives on in its other process, which alone knows the end
        assert await now.tend(other) == []
        assert await now.tend(twin) == []
    assert list(twin.outstanding) == [FIRST]
    await now.tend(twin, FIRST)
    assert await redis.exists(f"{BASE}:firings:a") == 0


async def test_a_machine_that_was_stopped_for_long_cannot_start_what_others_have(
    machine: Machine, clock: FakeClock, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await kill("one")
    assert await now.claim(other) == [FIRST]
    await other.start(*FIRST)
    await now.tend(other, FIRST)
    assert await now.tend(claimed) == []  # it goes on, and does not know yet
    assert await claimed.start(*FIRST) == "taken-over"
    await now.tend(claimed, FIRST)
    clock.advance(60)
    assert await now.claim(other) == [SECOND]


async def test_one_who_lost_a_firing_cannot_end_it_for_another(
    machine: Machine, clock: FakeClock, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await kill("one")
    assert await now.claim(other) == [FIRST]
    await other.start(*FIRST)
    await now.tend(claimed, FIRST)
    clock.advance(60)
    assert await now.claim(claimed) == []
    assert await now.claim(other) == [SECOND]


async def test_who_leaves_gives_back_at_once_what_it_had_not_started(
    machine: Machine, now: Any, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await claimed.add_schedule(made("b", interval=60, catchup_window="unlimited"))
    now.clock.advance(60)
    await now.claim(claimed)
    await claimed.start(*FIRST)
    await claimed.leave()
    assert list(claimed.outstanding) == [FIRST]
    assert await now.claim(other) == [("b", SECOND[1])]
    await now.tend(claimed, FIRST)
    assert await now.claim(other) == [SECOND]


async def test_a_dead_machine_does_not_keep_its_schedules(
    machine: Machine, clock: FakeClock, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await claimed.start(*FIRST)
    clock.advance(60)
    assert await now.claim(other) == []
    await kill("one")
    assert await now.claim(other) == [SECOND]


async def test_a_redis_that_was_away_does_not_make_its_machines_dead(
    machine: Machine, now: Any, kill: Kill, claimed: RedisScheduleSource
) -> None:
    other = await machine("other")
    await claimed.start(*FIRST)
    await kill("one")
    await kill("other")  # nobody could be heard of: it was Redis that was not there
    assert await now.tend(other) == []
    assert await now.tend(claimed) == []
    assert await now.tend(other) == []


@pytest.mark.usefixtures("claimed")
async def test_a_server_whose_clock_was_put_back_does_not_make_the_dead_live_on(
    machine: Machine, redis: Any, now: Any
) -> None:
    other = await machine("other")
    far = 4_000_000_000_000
    for key in ("owners", "members", "leases"):
        for name in await redis.zrange(f"{BASE}:{key}", 0, -1):
            await redis.zadd(f"{BASE}:{key}", {name: far})
    await now.tend(other)
    for key in ("owners", "members", "leases"):
        assert all(
            score < far for _, score in await redis.zrange(f"{BASE}:{key}", 0, -1, withscores=True)
        )


async def test_nothing_is_left_of_firings_that_are_over(
    clock: FakeClock, redis: Any, now: Any, claimed: RedisScheduleSource
) -> None:
    await claimed.start(*FIRST)
    await now.tend(claimed, FIRST)
    for _ in range(50):
        clock.advance(60)
        [firing] = await now.claim(claimed)
        await claimed.start(*firing)
        await now.tend(claimed, firing)
    keys = {key.removeprefix(f"{BASE}:") for key in await redis.keys("*")}
    assert keys == {"schedules", "states", "dispatched", "due", "owners", "members", "seen"}
    state = await redis.hget(f"{BASE}:states", "a")
    assert state is not None
    assert len(state) < 250


async def test_what_is_done_is_forgotten_in_the_end(
    machine: Machine, clock: FakeClock, redis: Any, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made("once", time=clock.now()))
    [firing] = await now.claim(source)
    await source.start(*firing)
    await now.tend(source, firing)
    assert await redis.hlen(f"{BASE}:schedules") == 1
    seconds, _ = await redis.time()
    await redis.zadd(f"{BASE}:done", {"once": (seconds - 91 * 86_400) * 1000})
    await now.tend(source)
    for key in ("schedules", "states", "dispatched"):
        assert await redis.hlen(f"{BASE}:{key}") == 0

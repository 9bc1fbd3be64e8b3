"""Firings that schedulers on several machines claim from one Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sqlsched.exceptions import DuplicateScheduleError, StorageError
from sqlsched.instants import SECOND_US, to_us
from sqlsched.planner import Stretch, jittered_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.redis import RedisScheduleSource
from sqlsched.testing import FakeClock
from tests.servers import RedisServer

BASE = "{sqlsched}"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOON_US = to_us(NOON)
MINUTE_US = 60 * SECOND_US
Machine = Callable[..., Awaitable[RedisScheduleSource]]
Kill = Callable[[str], Awaitable[None]]


def made(schedule_id: str = "a", **fields: Any) -> ScheduledTask:
    if not {"cron", "time", "interval"} & fields.keys():
        fields["cron"] = "* * * * *"
    return ScheduledTask(**{"task_name": "app:f", "schedule_id": schedule_id} | fields)


def minute(number: int, schedule_id: str = "a") -> tuple[str, int]:
    """The firing of a schedule so many minutes after noon."""
    return schedule_id, NOON_US + number * MINUTE_US


# -- what is due ----------------------------------------------------------------------------------


async def test_a_firing_is_claimed_once_and_the_schedule_moves_on(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(args=[1]))
    assert await now.claims(source) == []
    assert await source.next_due_us() == NOON_US + MINUTE_US
    clock.advance(60)
    [claim] = await now.claims(source)
    assert (claim.schedule, claim.anchor_us) == (made(args=[1]), NOON_US)
    [firing] = claim.firings
    assert (firing.scheduled_us, firing.due_us) == (NOON_US + MINUTE_US, NOON_US + MINUTE_US)
    assert firing.trigger == "schedule"
    assert (claim.stretches, claim.next_us) == ([], NOON_US + 2 * MINUTE_US)
    assert list(source.outstanding) == [minute(1)]
    assert await now.claims(source) == []
    assert await source.next_due_us() == NOON_US + 2 * MINUTE_US
    assert await source.start(*minute(1)) is None
    await now.tend(source, minute(1))
    assert not source.outstanding


async def test_firings_of_the_next_second_can_be_claimed_ahead(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    clock.advance(59.5)
    assert await now.claims(source, ahead_s=0.4) == []
    [claim] = await now.claims(source, ahead_s=1)
    assert claim.firings[0].due_us == NOON_US + MINUTE_US


async def test_a_limit_is_kept_and_the_rest_is_there_for_the_next(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    one, other = await machine("one"), await machine("other")
    for number in range(10):
        await one.add_schedule(made(f"s{number}"))
    clock.advance(60)
    assert await now.claim(one, 0) == []
    mine, others = await now.claim(one, 4), await now.claim(other)
    assert (len(mine), len(others), len({*mine, *others})) == (4, 6, 10)


async def test_many_who_claim_at_once_get_each_firing_once(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    sources = [await machine(f"ledger{number}") for number in range(4)]
    ids = {f"s{number}" for number in range(200)}
    await asyncio.gather(*(sources[0].add_schedule(made(schedule_id)) for schedule_id in ids))
    claimed = []
    for _ in range(3):
        clock.advance(60)
        for _ in range(40):
            for found in await asyncio.gather(*(now.claim(source, 7) for source in sources)):
                claimed += found
    assert len(claimed) == len(set(claimed)) == 600
    assert {schedule_id for schedule_id, _ in claimed} == ids


async def test_jitter_moves_when_a_firing_is_due_and_not_its_name(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    schedule = made(jitter=30)
    await source.add_schedule(schedule)
    due_us = jittered_us("a", schedule.timing(NOON_US), NOON_US + MINUTE_US)
    assert due_us > NOON_US + MINUTE_US
    assert await source.next_due_us() == due_us
    clock.advance((due_us - NOON_US - 1) / 1e6)
    assert await now.claims(source) == []
    clock.advance(0.000001)
    [claim] = await now.claims(source)
    assert claim.firings[0].scheduled_us == NOON_US + MINUTE_US
    assert claim.firings[0].due_us == due_us


async def test_after_an_outage_one_runs_and_one_machine_records_the_others(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    one, other = await machine("one"), await machine("other")
    await one.add_schedule(made())
    clock.advance(600.5)
    found = await asyncio.gather(now.claims(one), now.claims(other))
    [claim] = [claim for claims in found for claim in claims]
    assert [firing.scheduled_us for firing in claim.firings] == [minute(10)[1]]
    assert claim.stretches == [
        Stretch(minute(1)[1], minute(9)[1], 9, "missed", "outside-catchup-window")
    ]


async def test_what_is_only_to_be_recorded_is_given_to_one(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    sources = [await machine(f"ledger{number}") for number in range(3)]
    await sources[0].add_schedule(made(interval=3600, catchup_window="none"))
    clock.advance(5400)
    found = await asyncio.gather(*(now.claims(source) for source in sources))
    [claim] = [claim for claims in found for claim in claims]
    assert (claim.firings, [stretch.count for stretch in claim.stretches]) == ([], [1])
    assert not any(source.outstanding for source in sources)
    assert await sources[1].next_due_us() == NOON_US + 2 * 3600 * SECOND_US


async def test_all_of_a_backlog_runs_where_it_is_to(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(coalesce="all", catchup_window="unlimited"))
    clock.advance(600)
    assert await now.claim(source, 4) == [minute(number) for number in range(1, 5)]
    assert await now.claim(source) == [minute(number) for number in range(5, 11)]


async def test_a_one_shot_fires_once_and_is_done(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    once = made(time=NOON + timedelta(seconds=5))
    await source.add_schedule(once)
    clock.advance(3600)
    [firing] = await now.claim(source)
    assert await source.get_schedules() == [once]  # not done before it is over
    assert await source.start(*firing) is None
    assert await now.tend(source, firing) == []
    assert await source.get_schedules() == []
    assert await source.next_due_us() is None
    await source.add_schedule(once)  # it has run: nothing to do
    assert await now.claim(source) == []


async def test_a_one_shot_does_not_run_again_under_its_id_and_time(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(time=NOON))
    [firing] = await now.claim(source)
    await source.start(*firing)
    await now.tend(source, firing)
    with pytest.raises(DuplicateScheduleError, match="'a' has had a firing at that time already"):
        await source.add_schedule(made(time=NOON, args=[1]))
    await source.delete_schedule("a")
    with pytest.raises(DuplicateScheduleError, match="no firing runs twice"):
        await source.add_schedule(made(time=NOON))
    await source.add_schedule(made(time=NOON + timedelta(seconds=1)))
    clock.advance(1)
    assert await now.claim(source) == [("a", NOON_US + SECOND_US)]


async def test_max_runs_counts_what_was_started(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(max_runs=2))
    clock.advance(60)
    skipped = await now.claim(source)
    await now.tend(source, *skipped)  # by its policy for overlap, say: it does not count
    for dispatched in (0, 1):
        clock.advance(60)
        [claim] = await now.claims(source)
        assert claim.dispatched == dispatched
        firing = "a", claim.firings[0].scheduled_us
        assert await source.start(*firing) is None
        assert await source.start(*firing) is None
        await now.tend(source, firing)
    clock.advance(60)
    assert await now.claims(source) == []
    assert await source.next_due_us() is None
    assert await source.get_schedules() == []
    await source.add_schedule(made(max_runs=1))  # its id is free, and the count begins anew
    assert await source.get_schedules() == [made(max_runs=1)]
    clock.advance(60)
    [claim] = await now.claims(source)
    assert claim.dispatched == 0


async def test_claims_that_a_change_took_back_do_not_count_towards_max_runs(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(max_runs=1))
    clock.advance(60)
    assert await now.claim(source) == [minute(1)]
    await source.add_schedule(made(max_runs=1, args=[1]), replace=True)
    clock.advance(60)
    assert await now.claim(source) == [minute(2)]


async def test_a_recurring_schedule_that_is_done_begins_anew_when_it_is_added(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    for _ in range(2):
        await source.add_schedule(made(interval=60, end=NOON + timedelta(days=1), max_runs=1))
        clock.advance(60)
        [firing] = await now.claim(source)
        await source.start(*firing)
        await now.tend(source, firing)
        assert await source.get_schedules() == []


async def test_claims_that_have_not_started_count_towards_max_runs(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(max_runs=3, coalesce="all", catchup_window="unlimited"))
    clock.advance(600)
    first = await now.claim(source)
    assert first == [minute(1), minute(2), minute(3)]
    assert await now.claim(source) == []
    assert await now.due_us(source) > clock.now_us()  # there is no use in asking all the time
    await source.start(*first[0])
    assert await now.claim(source) == []
    await now.tend(source, first[1])
    assert await now.claim(source) == [minute(4)]


async def test_first_runs_are_skipped_before_the_moment_to_begin(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(interval=10))
    clock.advance(30)
    [claim] = await now.claims(source, not_before_us=NOON_US + MINUTE_US)
    assert claim.firings == []
    assert claim.stretches == [
        Stretch(NOON_US + 10 * SECOND_US, NOON_US + 50 * SECOND_US, 5, "skipped", "first-run")
    ]


async def test_a_source_that_nobody_joined_as_holds_nothing_up(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    adding, serving = await machine(), await machine("ledger")
    await adding.add_schedule(made())
    clock.advance(60)
    assert await adding.next_due_us() == NOON_US + MINUTE_US
    assert await now.claim(serving) == [minute(1)]


async def test_nothing_is_loaded_when_nothing_is_due(
    machine: Machine, redis: Any, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    content = await redis.hget(f"{BASE}:schedules", "a")
    state = await redis.hget(f"{BASE}:states", "a")
    assert content is not None
    assert state is not None
    for key, value in (("schedules", content), ("states", state), ("due", NOON_US + MINUTE_US)):
        values = {f"s{number}": value for number in range(100_000)}
        command = redis.zadd if key == "due" else redis.hset
        await command(f"{BASE}:{key}", mapping=values)
    before = await redis.info("commandstats")
    assert await now.claims(source) == []
    after = await redis.info("commandstats")
    reading = ("hget", "hmget", "hgetall", "hscan", "hvals")
    calls = [
        [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in reading]
        for stats in (before, after)
    ]
    assert calls[0] == calls[1]


# -- who may start --------------------------------------------------------------------------------


async def test_only_the_holder_of_a_claim_may_start_it(
    machine: Machine, clock: FakeClock, redis: Any, now: Any
) -> None:
    one, other = await machine("one"), await machine("other")
    await one.add_schedule(made())
    clock.advance(60)
    [firing] = await now.claim(one)
    assert await other.start(*firing) == "taken-over"
    assert await one.start(*firing) is None
    assert await one.start(*firing) is None
    assert await other.start(*firing) == "taken-over"
    assert await redis.zcard(f"{BASE}:leases") == 0
    assert await one.start("a", 1) == "taken-over"
    assert await one.start("nobody", 1) == "removed"


async def test_another_process_of_the_ledger_may_start_what_one_claimed(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    claiming, starting = await machine("ledger"), await machine("ledger")
    await claiming.add_schedule(made())
    clock.advance(60)
    [firing] = await now.claim(claiming)
    assert await starting.start(*firing) is None
    assert list(starting.outstanding) == [firing]
    await now.tend(claiming, firing)
    await now.tend(starting, firing)
    assert not claiming.outstanding
    assert not starting.outstanding


async def test_what_is_removed_or_changed_before_its_start_does_not_start(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    for schedule_id in ("gone", "changed", "kept"):
        await source.add_schedule(made(schedule_id))
    clock.advance(60)
    await now.claim(source)
    await source.delete_schedule("gone")
    await source.add_schedule(made("changed", args=[1]), replace=True)
    await source.add_schedule(made("kept"), replace=True)
    for _ in range(2):
        assert await source.start(*minute(1, "gone")) == "removed"
        assert await source.start(*minute(1, "changed")) == "edited"
        assert await source.start(*minute(1, "kept")) is None
    await now.tend(source, minute(1, "gone"), minute(1, "changed"))
    assert list(source.outstanding) == [minute(1, "kept")]


async def test_a_firing_claimed_ahead_is_claimed_anew_when_its_schedule_changes(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    one, other = await machine("one"), await machine("other")
    await one.add_schedule(made())
    clock.advance(59.5)
    assert len(await now.claims(one, ahead_s=1)) == 1
    await other.add_schedule(made(args=[1]), replace=True)
    await now.tend(one, minute(1))
    [claim] = await now.claims(other, ahead_s=1)
    assert claim.schedule == made(args=[1])
    assert await other.start(*minute(1)) is None
    assert await one.start(*minute(1)) == "taken-over"


async def test_a_started_firing_is_not_claimed_anew_when_its_schedule_changes(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    clock.advance(59.5)
    await now.claims(source, ahead_s=1)
    await source.start(*minute(1))
    await source.add_schedule(made(args=[1]), replace=True)
    assert await now.claims(source, ahead_s=1) == []
    clock.advance(60.5)
    assert await now.claim(source) == [minute(2)]


async def test_what_is_started_while_its_schedule_changes_is_not_claimed_anew(
    machine: Machine, clock: FakeClock, now: Any, meanwhile: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    clock.advance(59.5)
    await now.claims(source, ahead_s=1)
    meanwhile(source, "put", lambda: source.start(*minute(1)))
    await source.add_schedule(made(args=[1]), replace=True)
    assert await now.claims(source, ahead_s=1) == []
    await now.tend(source, minute(1))
    assert await now.claims(source, ahead_s=1) == []


async def test_a_firing_that_runs_is_not_claimed_even_if_redis_forgot_that_it_was(
    machine: Machine, clock: FakeClock, redis: Any, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    before = await redis.hget(f"{BASE}:states", "a"), await source.next_due_us()
    clock.advance(60)
    [firing] = await now.claim(source)
    await source.start(*firing)
    await redis.hset(f"{BASE}:states", "a", before[0])
    await redis.zadd(f"{BASE}:due", {"a": before[1]})
    assert await now.claim(source) == []
    await now.tend(source, firing)
    assert await now.claim(source) == [firing]


async def test_a_one_shot_that_waits_keeps_its_firing_through_a_change(
    machine: Machine, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(time=NOON))
    await now.claim(source)
    await source.add_schedule(made(time=NOON, args=[1]), replace=True)
    assert await now.claim(source) == [("a", NOON_US)]
    assert await source.start("a", NOON_US) is None


# -- who gets the next ones -----------------------------------------------------------------------


async def test_who_has_an_unfinished_firing_also_gets_the_next_ones(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    one, other = await machine("one"), await machine("other")
    await one.add_schedule(made())
    clock.advance(60)
    [first] = await now.claim(one)
    clock.advance(60)
    assert await now.claim(other) == []
    assert await now.due_us(other) > clock.now_us()
    [second] = await now.claim(one)
    await one.start(*first)
    await now.tend(one, first)
    clock.advance(60)
    assert await now.claim(other) == []
    await now.tend(one, second)
    assert await now.claim(other) == [minute(3)]


async def test_schedules_that_others_hold_do_not_hide_those_that_are_free(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    one, other = await machine("one"), await machine("other")
    for number in range(250):
        await one.add_schedule(made(f"s{number}"))
    clock.advance(60)
    await now.claim(one)
    await one.add_schedule(made("z", interval=61))
    clock.advance(61)
    assert await now.claim(other, 1) == [("z", clock.now_us())]


async def test_another_process_of_the_ledger_is_not_kept_from_its_schedules(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    one, twin = await machine("ledger"), await machine("ledger")
    await one.add_schedule(made())
    clock.advance(60)
    await now.claim(one)
    clock.advance(60)
    assert await now.claim(twin) == [minute(2)]


# -- a clock that is put back ---------------------------------------------------------------------


async def run_minutes(source: RedisScheduleSource, clock: FakeClock, now: Any, count: int) -> Any:
    ran = []
    for _ in range(count):
        clock.advance(60)
        found = await now.claim(source)
        for firing in found:
            await source.start(*firing)
        await now.tend(source, *found)
        ran += found
    return ran


async def test_a_clock_put_back_repeats_nothing(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    ran = await run_minutes(source, clock, now, 10)
    clock.set_back(300)
    await source.pull_back(clock.now_us())
    ran += await run_minutes(source, clock, now, 10)
    assert ran == [minute(number) for number in range(1, 16)]


async def test_a_clock_put_back_parks_nothing_in_the_future(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    await source.add_schedule(made("once", time=NOON + timedelta(days=900)))
    await source.add_schedule(made("resting", paused=True))
    clock.set_forward(timedelta(days=365))
    assert len(await now.claim(source)) == 1
    clock.set_back(timedelta(days=365))
    assert await now.due_us(source) > clock.now_us() + MINUTE_US
    await source.pull_back(clock.now_us())
    assert await source.next_due_us() == NOON_US + MINUTE_US
    await now.tend(source, *source.outstanding)
    assert len(await run_minutes(source, clock, now, 3)) == 3


async def test_a_schedule_that_changes_while_the_clock_is_mended_stays_as_it_is_then(
    machine: Machine, clock: FakeClock, now: Any, meanwhile: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    clock.set_forward(3600)
    await now.tend(source, *await now.claim(source))
    clock.set_back(3600)
    change = made(interval=7)
    meanwhile(source, "pull_back", lambda: source.add_schedule(change, replace=True))
    await source.pull_back(clock.now_us())
    assert await source.next_due_us() == NOON_US + 7 * SECOND_US


async def test_joining_notices_that_the_clock_was_put_back(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made(interval=3600))
    clock.set_forward(36_000)
    await now.tend(source, *await now.claim(source))
    clock.set_back(36_000)
    other = await machine("other")
    assert await other.next_due_us() == NOON_US + 3600 * SECOND_US


async def test_removing_a_schedule_does_not_make_its_firings_new(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    ran = await run_minutes(source, clock, now, 3)
    await source.delete_schedule("a")
    clock.set_back(120)
    await source.add_schedule(made())
    ran += await run_minutes(source, clock, now, 3)
    assert ran == [minute(number) for number in (1, 2, 3, 4)]


# -- answers that are lost ------------------------------------------------------------------------


@contextmanager
def losing(
    monkeypatch: pytest.MonkeyPatch, source: RedisScheduleSource, *, arrives: bool
) -> Iterator[None]:
    """Break the connection while a claim is under way: before, or after, it has arrived."""
    run = source._connection.run

    async def broken(name: str, *arguments: str) -> Any:
        if name == "claim" and not arrives:
            raise StorageError("it never arrived")
        answer = await run(name, *arguments)
        if name == "claim":
            raise StorageError("the answer was lost")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(source._connection, "run", broken)
        yield


async def test_what_was_claimed_by_a_call_whose_answer_was_lost_comes_with_the_next(
    machine: Machine, clock: FakeClock, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = await machine("ledger"), await machine("other")
    await source.add_schedule(made("late", interval=20, catchup_window="none"))
    await source.add_schedule(made())
    clock.advance(60)
    with losing(monkeypatch, source, arrives=True), pytest.raises(StorageError):
        await now.claims(source)
    assert await now.claims(other) == []
    claims = {claim.schedule.schedule_id: claim for claim in await now.claims(source)}
    assert [firing.scheduled_us for firing in claims["a"].firings] == [minute(1)[1]]
    assert [stretch.count for stretch in claims["late"].stretches] == [2]
    assert await source.start(*minute(1)) is None
    assert await now.claims(source) == []


async def test_a_claim_that_never_reached_redis_is_planned_again(
    machine: Machine, clock: FakeClock, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    clock.advance(60)
    with losing(monkeypatch, source, arrives=False), pytest.raises(StorageError):
        await now.claims(source)
    clock.advance(60)
    [claim] = await now.claims(source)
    assert [firing.scheduled_us for firing in claim.firings] == [minute(2)[1]]
    assert [stretch.first_us for stretch in claim.stretches] == [minute(1)[1]]


async def test_who_joins_again_is_given_again_what_it_may_not_have_written_down(
    machine: Machine, clock: FakeClock, now: Any
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made("started"))
    await source.add_schedule(made())
    clock.advance(60)
    assert len(await now.claim(source)) == 2
    await source.start(*minute(1, "started"))
    await source.join("ledger", resend=False)
    assert list(source.outstanding) == [minute(1, "started")]
    assert await now.claim(source) == [minute(1)]
    assert await source.start(*minute(1)) is None


async def test_claims_survive_a_redis_that_is_killed(
    machine: Machine, clock: FakeClock, now: Any, redis_server: RedisServer
) -> None:
    one, other = await machine("one"), await machine("other")
    await one.add_schedule(made())
    clock.advance(60)
    [firing] = await now.claim(one)
    redis_server.stop(9)
    redis_server.start()
    assert await now.claim(other) == []
    assert await other.start(*firing) == "taken-over"
    assert await one.start(*firing) is None

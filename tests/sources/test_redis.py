"""Schedules in Redis: adding, listing, removing, and a Redis in trouble."""

import asyncio
import logging
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sqlsched.exceptions import (
    DuplicateScheduleError,
    InvalidScheduleError,
    ScheduleNotFoundError,
    StorageError,
)
from sqlsched.instants import to_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.redis import RedisScheduleSource
from sqlsched.testing import FakeClock
from tests.servers import RedisServer, free_port

BASE = "{sqlsched}"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
Machine = Callable[..., Awaitable[RedisScheduleSource]]


def made(schedule_id: str = "a", **fields: Any) -> ScheduledTask:
    if not {"cron", "time", "interval"} & fields.keys():
        fields["cron"] = "* * * * *"
    return ScheduledTask(**{"task_name": "app:f", "schedule_id": schedule_id} | fields)


EVERYTHING = ScheduledTask(
    task_name="app:f",
    args=[1, "ünï ☃ 𝄞", None, 1.5, 2**63 - 1, []],
    kwargs={"a": {"b": True, "c": {}}},
    labels={"tenant": "acme", "x": [None]},
    schedule_id="all-of-it",
    cron="*/5 9-17 * * 1-5",
    cron_offset="Europe/Berlin",
    start=NOON,
    end=NOON + timedelta(days=900),
    max_runs=7,
    jitter=3,
    catchup_window="unlimited",
    coalesce="all",
    overlap="buffer-one",
    timeout=60,
    retries=3,
    retry_delay=2,
    expires=9,
    note='said "so"\n',
)


async def test_a_schedule_comes_back_as_it_was_added(machine: Machine) -> None:
    source = await machine()
    offset = made("offset", cron="0 9 * * *", cron_offset=timedelta(hours=-3, minutes=-30))
    once = made("once", time=NOON + timedelta(microseconds=1))
    for schedule in (EVERYTHING, offset, once):
        await source.add_schedule(schedule)
    found = {schedule.schedule_id: schedule for schedule in await source.get_schedules()}
    assert found == {"all-of-it": EVERYTHING, "offset": offset, "once": once}


async def test_schedules_are_listed_in_the_order_of_their_making(
    machine: Machine, clock: FakeClock
) -> None:
    source = await machine()
    ids = [f"s{number * 7 % 20}" for number in range(20)]
    for schedule_id in ids:
        await source.add_schedule(made(schedule_id))
        clock.advance(1)
    assert [schedule.schedule_id for schedule in await source.get_schedules()] == ids


async def test_the_same_content_again_changes_nothing(
    machine: Machine, clock: FakeClock, redis: Any
) -> None:
    source = await machine()
    await source.add_schedule(made(interval=60))
    before = await redis.hgetall(f"{BASE}:states"), await source.next_due_us()
    clock.advance(30)
    await source.add_schedule(made(interval=60))
    await source.add_schedule(made(interval=60), replace=True)
    await source.add_schedule(made(interval=60, paused=True))
    assert (await redis.hgetall(f"{BASE}:states"), await source.next_due_us()) == before


async def test_other_content_under_an_id_is_refused_unless_it_replaces(machine: Machine) -> None:
    source = await machine()
    await source.add_schedule(made())
    with pytest.raises(DuplicateScheduleError, match="'a' and other content exists"):
        await source.add_schedule(made(args=[1]))
    await source.add_schedule(made(args=[1]), replace=True)
    assert await source.get_schedules() == [made(args=[1])]


async def test_two_who_add_one_id_at_once_do_not_both_succeed(machine: Machine) -> None:
    sources = [await machine() for _ in range(5)]
    results = await asyncio.gather(
        *(source.add_schedule(made(args=[n])) for n, source in enumerate(sources)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == [
        *["DuplicateScheduleError"] * 4,
        "NoneType",
    ]


async def test_a_removed_schedule_is_gone_and_its_id_free(machine: Machine) -> None:
    source = await machine()
    await source.add_schedule(made())
    await source.delete_schedule("a")
    assert await source.get_schedules() == []
    assert await source.next_due_us() is None
    with pytest.raises(ScheduleNotFoundError, match="no schedule has the id 'a'"):
        await source.delete_schedule("a")
    await source.add_schedule(made(args=[2]))
    assert await source.get_schedules() == [made(args=[2])]


async def test_a_schedule_that_never_fires_is_refused(machine: Machine) -> None:
    source = await machine()
    with pytest.raises(InvalidScheduleError, match="end 2026-11-23T11:59:00"):
        await source.add_schedule(made(end=NOON - timedelta(minutes=1)))
    await source.add_schedule(made())
    with pytest.raises(InvalidScheduleError, match="leaves no firing"):
        await source.add_schedule(made(end=NOON), replace=True)
    assert await source.get_schedules() == [made()]


async def test_an_interval_counts_from_its_creation_also_after_a_change_of_content(
    machine: Machine, clock: FakeClock
) -> None:
    source = await machine()
    await source.add_schedule(made(interval=60))
    assert await source.next_due_us() == to_us(NOON + timedelta(seconds=60))
    clock.advance(90)
    await source.add_schedule(made(interval=60, args=[1]), replace=True)
    assert await source.next_due_us() == to_us(NOON + timedelta(seconds=120))
    await source.add_schedule(made(interval=40), replace=True)
    assert await source.next_due_us() == to_us(NOON + timedelta(seconds=130))


async def test_what_is_paused_is_listed_and_not_due(machine: Machine) -> None:
    source = await machine()
    await source.add_schedule(made(paused=True))
    assert await source.get_schedules() == [made(paused=True)]
    assert await source.next_due_us() is None
    await source.add_schedule(made("b"))
    await source.add_schedule(made("b", args=[1], paused=True), replace=True)
    assert await source.next_due_us() is None


async def test_prefixes_keep_schedules_apart(redis_url: str) -> None:
    one, other = (RedisScheduleSource(redis_url, prefix) for prefix in ("one", "other"))
    await one.add_schedule(made())
    assert await other.get_schedules() == []
    assert await one.get_schedules() == [made()]
    await one.shutdown()
    await other.shutdown()


async def test_starting_and_stopping_may_be_repeated(machine: Machine) -> None:
    source = await machine()
    await source.startup()
    await source.add_schedule(made())
    await source.shutdown()
    await source.shutdown()
    assert await source.get_schedules() == [made()]  # whoever asks is connected again
    await source.startup()


# -- what others left in Redis --------------------------------------------------------------------


DAMAGED_ROWS: dict[str, str | bytes] = {
    "no-json": "{",
    "no-object": "[1]",
    "of-another": '{"schedule_id": "someone"}',
    "no-text": b"\xff\xfe",
    "deep": "[" * 100_000,
    "twice": '{"schedule_id": "twice", "schedule_id": "twice"}',
    "bad id": '{"schedule_id": "bad id"}',
}


async def test_a_damaged_row_is_named_once_skipped_and_kept(
    machine: Machine, redis: Any, now: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made("well"))
    state = await redis.hget(f"{BASE}:states", "well")
    for schedule_id, content in DAMAGED_ROWS.items():
        await redis.hset(f"{BASE}:schedules", schedule_id, content)
        await redis.hset(f"{BASE}:states", schedule_id, state)
        await redis.zadd(f"{BASE}:due", {schedule_id: 1})
    clock.advance(60)
    for _ in range(2):
        assert [s.schedule_id for s in await source.get_schedules()] == ["well"]
    assert await now.claim(source) == [("well", clock.now_us())]
    assert await redis.zrange(f"{BASE}:due", 0, -1) == ["well"]
    await source.pull_back(clock.now_us())
    kept = await redis.hkeys(f"{BASE}:schedules")
    assert set(kept) == {"well", *DAMAGED_ROWS}
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == len(DAMAGED_ROWS)
    for schedule_id in DAMAGED_ROWS:
        assert sum(f"schedule '{schedule_id}' " in line for line in said) == 1
    assert all(line.isprintable() and len(line) < 400 for line in said)


@pytest.mark.parametrize(
    "state",
    ["", "{", "[]", "{}", '{"version": 3}', b"\xff", '{"version":"v","created_us":"x"}'],
)
async def test_a_damaged_state_stops_nothing_else(
    machine: Machine, redis: Any, now: Any, clock: FakeClock, state: str | bytes
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made("bad"))
    await source.add_schedule(made("well"))
    await redis.hset(f"{BASE}:states", "bad", state)
    clock.advance(60)
    assert await now.claim(source) == [("well", clock.now_us())]
    assert await source.get_schedules() == [made("well")]
    with pytest.raises(StorageError, match="schedule bad was changed by other means"):
        await source.add_schedule(made("bad", args=[1]), replace=True)
    await source.delete_schedule("bad")
    await source.add_schedule(made("bad"))
    assert len(await source.get_schedules()) == 2


async def test_content_without_a_state_and_a_state_without_content_stop_nothing_else(
    machine: Machine, redis: Any, now: Any, clock: FakeClock
) -> None:
    source = await machine("ledger")
    for schedule_id in ("headless", "hollow", "well"):
        await source.add_schedule(made(schedule_id))
    await redis.hdel(f"{BASE}:states", "headless")
    await redis.hdel(f"{BASE}:schedules", "hollow")
    clock.advance(60)
    assert await now.claim(source) == [("well", clock.now_us())]
    assert await source.get_schedules() == [made("well")]


async def test_a_row_of_an_older_version_may_lack_a_field(machine: Machine, redis: Any) -> None:
    source = await machine()
    await source.add_schedule(made())
    content = await redis.hget(f"{BASE}:schedules", "a")
    assert content is not None
    await redis.hset(f"{BASE}:schedules", "a", content.replace('"expires":null,', ""))
    assert await source.get_schedules() == [made()]


async def test_a_key_of_another_type_is_named(machine: Machine, redis: Any, redis_url: str) -> None:
    source = await machine()
    await redis.set(f"{BASE}:schedules", "somebody else's")
    with pytest.raises(StorageError, match=r"the key \{sqlsched\}:schedules is a string and not a"):
        await source.get_schedules()
    with pytest.raises(StorageError, match="give another prefix"):
        await RedisScheduleSource(redis_url).startup()


# -- a Redis that is not there --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunt/er@hunter2@localhost:x/0", "redis://localhost:x/0"),
        ("redis://:hunter2@localhost:p", "redis://localhost:p"),
        ("http://u:hunter2@localhost", "http://localhost"),
        ("http://localhost?password=hunter2", "http://localhost"),
        ("u:hunter2", "the given text"),
        ("", "the given text"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, shown: str) -> None:
    with pytest.raises(StorageError) as caught:
        RedisScheduleSource(url)
    assert str(caught.value) == f"{shown} is no Redis URL; give one like redis://host:6379/0"
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("prefix", ["", "a b", "{a}", "a\n", "x" * 101])
def test_a_wrong_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(StorageError, match="prefix '"):
        RedisScheduleSource("redis://localhost", prefix)


async def test_a_server_that_is_down_is_named_without_the_password() -> None:
    port = free_port()
    source = RedisScheduleSource(f"redis://user:hunter2@127.0.0.1:{port}/0?client_name=hunter2")
    for call in (source.startup, source.get_schedules, source.next_due_us):
        with pytest.raises(StorageError, match=f"^redis://127.0.0.1:{port}/0 cannot") as caught:
            await call()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
        assert "\n" not in str(caught.value)
    await source.shutdown()


async def test_a_server_that_takes_no_more_is_not_called_unreachable(
    machine: Machine, redis: Any, redis_server: RedisServer
) -> None:
    source = await machine()
    await redis.config_set("maxmemory", "1")
    with pytest.raises(StorageError, match=f"^{redis_server.url} refuses: .*maxmemory"):
        await source.add_schedule(made())


async def test_nothing_is_claimed_for_nobody(machine: Machine, now: Any) -> None:
    source = await machine()
    with pytest.raises(RuntimeError, match="call join first"):
        await now.claims(source)


TWO_LOOPS = """
import asyncio, sys
from sqlsched import ScheduledTask
from sqlsched.sources.redis import RedisScheduleSource
source = RedisScheduleSource(sys.argv[1])
asyncio.run(source.add_schedule(ScheduledTask(task_name="app:f", schedule_id="a", interval=1)))
print(len(asyncio.run(source.get_schedules())))
"""


def test_one_event_loop_after_the_other_can_be_served(redis_url: str) -> None:
    command = [sys.executable, "-c", TWO_LOOPS, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_without_redis_py_the_extra_is_named() -> None:
    code = "import sys; sys.modules['redis.asyncio'] = None; import sqlsched.sources.redis"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    needs = "ImportError: sqlsched.sources.redis needs redis: pip install 'sqlsched[redis]'"
    assert done.stderr.splitlines()[-1] == needs


async def test_a_wrong_password_is_no_secret_spilt(redis: Any, redis_server: RedisServer) -> None:
    await redis.config_set("requirepass", "right")
    url = redis_server.url.replace("//", "//:hunter2@")
    with pytest.raises(StorageError, match="password") as caught:
        await RedisScheduleSource(url).startup()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    await redis.config_set("requirepass", "")


async def test_every_call_works_again_after_redis_was_killed_and_started(
    machine: Machine, redis_server: RedisServer, now: Any, clock: FakeClock
) -> None:
    source = await machine("ledger")
    for schedule_id in ("a", "b"):
        await source.add_schedule(made(schedule_id))
    clock.advance(60)
    [claimed] = await now.claim(source, 1)
    redis_server.stop(9)
    with pytest.raises(StorageError, match="cannot be reached"):
        await source.get_schedules()
    redis_server.start()  # its append-only file has everything, its memory has no script
    assert await source.start(*claimed) is None
    assert len(await now.claim(source)) == 1
    assert await now.tend(source, claimed) == []
    assert len(await source.get_schedules()) == 2
    redis_server.stop()
    redis_server.start()  # this time nobody saw it go
    await source.add_schedule(made("c"))
    await source.delete_schedule("b")
    await source.leave()
    assert {schedule.schedule_id for schedule in await source.get_schedules()} == {"a", "c"}


async def test_a_dropped_connection_is_not_noticed(
    machine: Machine, redis: Any, now: Any, clock: FakeClock
) -> None:
    source = await machine("ledger")
    await source.add_schedule(made())
    clock.advance(60)
    await redis.client_kill_filter(_type="normal", skipme=True)
    assert await now.claim(source) == [("a", clock.now_us())]


async def test_cancellation_passes(machine: Machine, redis: Any, now: Any) -> None:
    source = await machine("ledger")
    await redis.client_pause(300)
    task = asyncio.create_task(source.get_schedules())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await redis.client_unpause()
    assert await source.get_schedules() == []
    assert await now.claim(source) == []

"""What every source of schedules must do, whatever keeps them. A new one adds a line to `SOURCES`.

Each source is served by the real loop on a fake clock; a `Keeper` is how its owner puts schedules
in and takes them out.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from sqlsched import (
    DuplicateScheduleError,
    InProcessBroker,
    LabelScheduleSource,
    ScheduledTask,
    ScheduleNotFoundError,
    Scheduler,
    ScheduleSource,
    SqliteScheduleSource,
)
from sqlsched.storage import runs
from sqlsched.storage.connection import open_for_reading, open_for_writing
from sqlsched.testing import FakeClock

if TYPE_CHECKING:
    from tests.servers import RedisServer

START = datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NEEDS_REDIS = {"redis", "taskiq-redis"}


@dataclass
class Keeper:
    """A source as its owner sees it: `make` opens it anew, as a restarted program does."""

    directory: Path
    clock: FakeClock
    broker: InProcessBroker
    url: str = ""
    seen: list[tuple[str, datetime]] = field(default_factory=list)

    def make(self) -> ScheduleSource:
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of what sources leave open."""

    async def put(self, schedule: ScheduledTask) -> None:
        """Add a schedule."""
        source = self.make()
        await source.startup()
        await source.add_schedule(schedule)
        await source.shutdown()

    async def drop(self, schedule_id: str) -> None:
        """Take a schedule out."""
        source = self.make()
        await source.startup()
        await source.delete_schedule(schedule_id)
        await source.shutdown()

    async def spoil(self) -> None:
        """Put in something that is no schedule."""
        raise NotImplementedError

    async def run(self, duration: timedelta, **arguments: Any) -> None:
        """What a program does that serves this source for a while."""
        scheduler = Scheduler(
            self.broker, [self.make()], clock=self.clock, database=self.directory / "ledger.db"
        )
        await scheduler.run(until=self.clock.now() + duration, **arguments)

    def calls(self) -> list[str]:
        return sorted(f"{name} {when:%H:%M:%S}" for name, when in self.seen)


class SqliteKeeper(Keeper):
    def make(self) -> ScheduleSource:
        return SqliteScheduleSource(self.directory / "ledger.db", clock=self.clock)

    async def spoil(self) -> None:
        await self.put(schedule("spoilt"))
        database = open_for_writing(self.directory / "ledger.db")
        database.execute("UPDATE schedules SET cron = 'x' WHERE schedule_id = 'spoilt'")
        database.close()


class OtherSqliteKeeper(SqliteKeeper):
    """A database beside the ledger's own."""

    def make(self) -> ScheduleSource:
        return SqliteScheduleSource(self.directory / "other.db", clock=self.clock)

    async def spoil(self) -> None:
        await self.put(schedule("spoilt"))
        database = open_for_writing(self.directory / "other.db")
        database.execute("UPDATE schedules SET cron = 'x' WHERE schedule_id = 'spoilt'")
        database.close()


class LabelKeeper(Keeper):
    def make(self) -> ScheduleSource:
        return LabelScheduleSource(self.broker)

    def _declare(self, entries: list[Any]) -> None:
        async def declared(name: str) -> None:
            self.seen.append((name, self.clock.now()))

        self.broker.tasks.pop("t:declared", None)
        self.broker.task(task_name="t:declared", schedule=entries)(declared)

    def _entries(self) -> list[Any]:
        task = self.broker.tasks.get("t:declared")
        return list(getattr(task, "schedule", []))

    async def put(self, schedule: ScheduledTask) -> None:
        fields = ("cron", "cron_offset", "time", "interval", "args", "labels", "schedule_id")
        entry = {name: getattr(schedule, name) for name in fields}
        self._declare([*self._entries(), entry])

    async def drop(self, schedule_id: str) -> None:
        self._declare([e for e in self._entries() if e["schedule_id"] != schedule_id])

    async def spoil(self) -> None:
        self._declare([{"cron": "x"}, *self._entries()])


class TaskiqKeeper(Keeper):
    """A source of taskiq's, in memory."""

    listed: list[Any]

    def make(self) -> ScheduleSource:
        from taskiq import ScheduleSource as TheirSource

        from sqlsched.sources.taskiq import TaskiqScheduleSource

        self.listed = getattr(self, "listed", [])
        keeper = self

        class InMemory(TheirSource):
            async def get_schedules(self) -> list[Any]:
                return list(keeper.listed)

            async def add_schedule(self, schedule: Any) -> None:
                keeper.listed.append(schedule)

            async def delete_schedule(self, schedule_id: str) -> None:
                keeper.listed = [s for s in keeper.listed if s.schedule_id != schedule_id]

        return TaskiqScheduleSource(InMemory())

    async def spoil(self) -> None:
        await self.put(schedule("spoilt"))
        self.listed[-1] = self.listed[-1].model_copy(update={"cron": "x"})


class TaskiqRedisKeeper(Keeper):
    """taskiq-redis's own list source, which leaves its connections to others to close."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pools: list[Any] = []

    async def close(self) -> None:
        for pool in self.pools:
            await pool.disconnect()

    def _theirs(self) -> Any:
        from taskiq.serializers import JSONSerializer
        from taskiq_redis import ListRedisScheduleSource

        source = ListRedisScheduleSource(self.url, serializer=JSONSerializer())
        self.pools.append(source._connection_pool)
        return source

    def make(self) -> ScheduleSource:
        from sqlsched.sources.taskiq import TaskiqScheduleSource

        return TaskiqScheduleSource(self._theirs())

    async def spoil(self) -> None:
        from taskiq import ScheduledTask as Theirs

        theirs = self._theirs()
        wrong = Theirs(task_name="t:note", labels={}, args=[], kwargs={}, cron="x")
        await theirs.add_schedule(wrong)


class RedisKeeper(Keeper):
    def make(self) -> ScheduleSource:
        from sqlsched.sources.redis import RedisScheduleSource

        return RedisScheduleSource(self.url, clock=self.clock)

    async def spoil(self) -> None:
        await self.put(schedule("spoilt"))
        client = Redis.from_url(self.url)
        for key in await client.keys("*"):
            if await client.type(key) == b"hash" and await client.hexists(key, "spoilt"):
                await client.hset(key, "spoilt", "{not ours")
        await client.aclose()


SOURCES: dict[str, type[Keeper]] = {
    "sqlite": SqliteKeeper,
    "other-sqlite": OtherSqliteKeeper,
    "label": LabelKeeper,
    "taskiq": TaskiqKeeper,
    "taskiq-redis": TaskiqRedisKeeper,
    "redis": RedisKeeper,
}
STORING = [name for name in SOURCES if name != "label"]


def schedule(schedule_id: str, **fields: Any) -> ScheduledTask:
    given = {"cron": "* * * * *", "task_name": "t:note"} | fields
    return ScheduledTask(schedule_id=schedule_id, args=[schedule_id], **given)


@pytest.fixture(params=list(SOURCES))
async def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Keeper]:
    url = ""
    if request.param in NEEDS_REDIS:
        server: RedisServer = request.getfixturevalue("shared_redis")
        url = server.url
        async with Redis.from_url(url) as client:
            await client.flushall()
    made = SOURCES[request.param](tmp_path, FakeClock(START), InProcessBroker(), url)

    async def note(name: str) -> None:
        made.seen.append((name, made.clock.now()))

    made.broker.tasks["t:note"] = note
    async with asyncio.timeout(30):
        yield made
    await made.close()


def is_label(keeper: Keeper) -> bool:
    return isinstance(keeper, LabelKeeper)


async def listed(keeper: Keeper) -> dict[str, ScheduledTask]:
    source = keeper.make()
    await source.startup()
    found = {schedule.schedule_id: schedule for schedule in await source.get_schedules()}
    await source.shutdown()
    return found


async def test_a_schedule_is_listed_as_it_was_put_in(keeper: Keeper) -> None:
    put = [
        schedule("a", cron="30 9 * * 1-5", cron_offset="Europe/Berlin", labels={"x": "1"}),
        schedule("b", cron="0 * * * *", cron_offset=timedelta(hours=2)),
        schedule("c", cron=None, interval=90),
        schedule("d", cron=None, time=START - timedelta(hours=1)),
    ]
    for one in put:
        await keeper.put(one)
    found = await listed(keeper)
    assert set(found) == {"a", "b", "c", "d"}
    for one in put:
        content = found[one.schedule_id].content()
        name = {"task_name": "t:declared"} if is_label(keeper) else {}
        assert content == one.content() | name


async def test_ids_are_the_same_whenever_they_are_asked_for(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    await keeper.put(schedule("b", cron="0 * * * *"))
    first, again = await listed(keeper), await listed(keeper)
    assert list(first) == list(again)
    assert set(first) == {"a", "b"}


async def test_what_is_listed_may_be_changed_by_whoever_asked(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    source = keeper.make()
    await source.startup()
    (await source.get_schedules()).clear()
    [kept] = await source.get_schedules()
    kept.args.append("more")
    kept.labels["more"] = 1
    await source.shutdown()
    assert (await listed(keeper))["a"].args == ["a"]


async def test_a_cron_fires_at_its_minutes(keeper: Keeper) -> None:
    await keeper.put(schedule("a", cron="*/2 * * * *"))
    keeper.clock.advance(MINUTE)
    await keeper.run(4 * MINUTE)
    assert keeper.calls() == ["a 12:02:00", "a 12:04:00"]


async def test_zones_and_offsets_are_kept(keeper: Keeper) -> None:
    await keeper.put(schedule("zone", cron="15 13 * * *", cron_offset="Europe/Berlin"))
    await keeper.put(schedule("offset", cron="20 14 * * *", cron_offset=timedelta(hours=2)))
    await keeper.run(timedelta(minutes=30))
    assert keeper.calls() == ["offset 12:20:00", "zone 12:15:00"]


async def test_an_interval_fires_on_and_on_whatever_restarts_do(keeper: Keeper) -> None:
    await keeper.put(schedule("a", cron=None, interval=20))
    await keeper.run(timedelta(seconds=45))
    await keeper.run(timedelta(seconds=45))
    times = sorted(when for _, when in keeper.seen)
    steps = {(later - one).total_seconds() for one, later in pairwise(times)}
    assert (len(times), steps) == (4, {20.0})


async def test_a_time_in_the_past_fires_once_over_all_restarts(keeper: Keeper) -> None:
    await keeper.put(schedule("a", cron=None, time=START - timedelta(hours=1)))
    for _ in range(3):
        await keeper.run(2 * MINUTE)
    assert keeper.calls() == ["a 12:00:30"]


async def test_a_time_to_come_fires_at_its_instant(keeper: Keeper) -> None:
    if isinstance(keeper, TaskiqRedisKeeper):
        pytest.skip("it lists a time only in its minute of the real clock")
    await keeper.put(schedule("a", cron=None, time=START + timedelta(seconds=100)))
    await keeper.run(3 * MINUTE)
    assert keeper.calls() == ["a 12:02:10"]


async def test_a_restart_within_the_minute_repeats_nothing(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    keeper.clock.advance(40)
    for _ in range(3):
        await keeper.run(timedelta(seconds=5))
    assert keeper.calls() == ["a 12:01:10"]


async def test_a_firing_of_this_minute_that_nobody_served_still_runs(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    keeper.clock.advance(MINUTE)
    await keeper.run(timedelta(seconds=1))
    assert keeper.calls() == ["a 12:01:30"]


async def test_skip_first_run_waits_for_the_next_minute(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    await keeper.put(schedule("late", cron=None, time=START - timedelta(hours=1)))
    keeper.clock.advance(MINUTE)
    await keeper.run(2 * MINUTE, skip_first_run=True)
    assert keeper.calls() == ["a 12:02:00", "a 12:03:00", "late 12:02:00"]


async def test_what_is_dropped_fires_no_more(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    await keeper.put(schedule("b"))
    await keeper.run(MINUTE)
    await keeper.drop("a")
    await keeper.run(MINUTE)
    assert [call for call in keeper.calls() if "12:02" in call] == ["b 12:02:00"]


async def test_something_that_is_no_schedule_stops_nothing_else(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    await keeper.put(schedule("a"))
    await keeper.spoil()
    keeper.clock.advance(MINUTE)
    await keeper.run(MINUTE)
    assert keeper.calls() == ["a 12:01:30", "a 12:02:00"]
    assert any(record.levelname == "ERROR" for record in caplog.records)


async def test_every_firing_ends_in_the_ledger(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    keeper.clock.advance(MINUTE)
    await keeper.run(2 * MINUTE)
    database = open_for_reading(keeper.directory / "ledger.db")
    rows = [(row.status, row.schedule_id) for row in runs.history(database)]
    database.close()
    assert rows == [("succeeded", "a")] * 3


async def test_a_source_is_started_and_stopped_again_and_again(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    source = keeper.make()
    for _ in range(2):
        await source.startup()
        await source.startup()
        assert [found.schedule_id for found in await source.get_schedules()] == ["a"]
        await source.shutdown()
        await source.shutdown()


async def test_once_runs_what_is_due_and_ends(keeper: Keeper) -> None:
    await keeper.put(schedule("a"))
    await keeper.put(schedule("b", cron="0 0 1 1 *"))
    keeper.clock.advance(MINUTE)
    scheduler = Scheduler(
        keeper.broker,
        [keeper.make()],
        clock=keeper.clock,
        database=keeper.directory / "ledger.db",
    )
    await scheduler.run(once=True)
    assert keeper.calls() == ["a 12:01:30"]


@pytest.mark.parametrize("keeper", STORING, indirect=True)
async def test_the_same_content_again_is_no_change(keeper: Keeper) -> None:
    source = keeper.make()
    await source.startup()
    for _ in range(2):
        await source.add_schedule(schedule("a"))
    assert [found.schedule_id for found in await source.get_schedules()] == ["a"]
    with pytest.raises(DuplicateScheduleError):
        await source.add_schedule(schedule("a", cron="0 * * * *"))
    await source.add_schedule(schedule("a", cron="0 * * * *"), replace=True)
    [found] = await source.get_schedules()
    assert found.cron == "0 * * * *"
    await source.delete_schedule("a")
    assert await source.get_schedules() == []
    if isinstance(keeper, TaskiqKeeper | TaskiqRedisKeeper):
        return  # taskiq's sources do not say whether there was one
    with pytest.raises(ScheduleNotFoundError):
        await source.delete_schedule("a")
    await source.shutdown()


def test_every_source_of_the_package_is_held_to_this() -> None:
    import sqlsched.sources

    directory = Path(sqlsched.sources.__path__[0])
    found = {path.stem for path in directory.iterdir() if not path.stem.startswith("_")}
    assert found <= set(SOURCES), found - set(SOURCES)

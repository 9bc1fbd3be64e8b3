"""A Redis of our own, and schedulers of several machines that share it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from sqlsched.instants import SECOND_US
from sqlsched.planner import Claim, Identity, Moment
from sqlsched.sources.redis import RedisScheduleSource, connection
from sqlsched.testing import FakeClock

if TYPE_CHECKING:
    from tests.servers import RedisServer

BASE = "{sqlsched}"
Machine = Callable[..., Awaitable[RedisScheduleSource]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 23, 12, tzinfo=UTC))


@pytest.fixture
async def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty Redis: the test's own if it has one, to stop it; else one that they share."""
    if "redis_server" in request.fixturenames:
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    server = request.getfixturevalue("shared_redis")
    async with Redis.from_url(server.url) as client:
        await client.flushall()
    return server.url


@pytest.fixture
async def machine(redis_url: str, clock: FakeClock) -> AsyncIterator[Machine]:
    """Start a source; with the name of a ledger it also joins."""
    made: list[RedisScheduleSource] = []

    async def make(owner: str | None = None, *, resend: bool = False) -> RedisScheduleSource:
        source = RedisScheduleSource(redis_url, clock=clock)
        made.append(source)
        await source.startup()
        if owner is not None:
            await source.join(owner, resend=resend)
        return source

    yield make
    for source in made:
        await source.shutdown()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """A client, to look at what is in Redis, and to damage it."""
    client = Redis.from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence of 0.2 s counts as death. Who calls in between is alive."""
    monkeypatch.setattr(connection, "LEASE_MS", 200)


class Claiming:
    """Calls of a source, at the time that the clock shows."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    async def claims(
        self, source: RedisScheduleSource, limit: int = 1000, ahead_s: float = 0, **moment: Any
    ) -> list[Claim]:
        now_us = self.clock.now_us()
        since_us = moment.pop("serving_since_us", now_us)
        until_us = now_us + round(ahead_s * SECOND_US)
        return await source.claim(Moment(now_us, since_us, **moment), until_us, limit)

    async def claim(self, source: RedisScheduleSource, limit: int = 1000) -> list[Identity]:
        return identities(await self.claims(source, limit))

    async def due_us(self, source: RedisScheduleSource) -> int:
        due_us = await source.next_due_us()
        assert due_us is not None
        return due_us

    async def tend(self, source: RedisScheduleSource, *over: Identity) -> list[Identity]:
        found = await source.tend(over, self.clock.now_us())
        return [(schedule.schedule_id, us) for schedule, us in found]


def identities(claims: list[Claim]) -> list[Identity]:
    return [(c.schedule.schedule_id, f.scheduled_us) for c in claims for f in c.firings]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let something happen just before a source takes a certain step, once."""

    def arrange(source: RedisScheduleSource, step: str, do: Callable[[], Awaitable[Any]]) -> None:
        run = source._connection.run

        async def interrupted(name: str, *arguments: str) -> Any:
            if name == step:
                monkeypatch.setattr(source._connection, "run", run)
                await do()
            return await run(name, *arguments)

        monkeypatch.setattr(source._connection, "run", interrupted)

    return arrange


@pytest.fixture
def now(clock: FakeClock) -> Claiming:
    return Claiming(clock)


@pytest.fixture
def kill(redis: Any) -> Callable[[str], Awaitable[None]]:
    """Let a ledger's lease run out, as if none of its processes had been heard of for long."""

    async def kill(owner: str) -> None:
        await redis.zadd(f"{BASE}:owners", {owner: 1})
        for entry in await redis.zrange(f"{BASE}:members", 0, -1):
            if entry.endswith(f" {owner}"):
                await redis.zadd(f"{BASE}:members", {entry: 1})
        for name in await redis.zrange(f"{BASE}:leases", 0, -1):
            schedule_id, scheduled = name.split("@")
            row = await redis.hget(f"{BASE}:firings:{schedule_id}", scheduled)
            if json.loads(row)["owner"] == owner:
                await redis.zadd(f"{BASE}:leases", {name: 1})

    return kill

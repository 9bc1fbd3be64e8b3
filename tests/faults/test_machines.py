"""Three machines on one Redis, one of them killed: no firing is lost, none is doubled."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.harness import Account, now
from tests.faults.machines import Machines
from tests.servers import RedisServer

REDIS_DIES = -1


async def share(
    directory: Path, server: RedisServer, *, schedules: int, seconds: int, fault: int | None
) -> Account:
    """Three machines share schedules that fire each second; one of them has a `fault`, a signal,
    in the middle, or Redis itself. What it held becomes free when its lease ends, within 30 s."""
    machines = Machines(directory, server.url)
    first = now() + 3
    for number in range(schedules):
        await machines.add(
            f"s{number}", first, first + seconds - 1, overlap="allow", coalesce="all"
        )
    started = [machines.start() for _ in range(3)]
    await asyncio.sleep(first + seconds / 2 - now())
    if fault == REDIS_DIES:
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        await asyncio.sleep(3)
        await asyncio.to_thread(server.start)
    elif fault is not None:
        started[0].send_signal(fault)
    deadline = first + seconds + (45 if fault is not None else 2)
    account = machines.account()
    while (account.lost or now() < first + seconds + 1) and now() < deadline:
        await asyncio.sleep(0.5)
        account = machines.account()
    machines.stop()
    account = machines.account()
    assert not account.doubled, str(account)
    assert not account.lost, str(account)
    assert not account.unaccounted, str(account)
    return account


async def test_three_machines_share_one_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    account = await share(tmp_path, redis_server, schedules=6, seconds=4, fault=None)
    assert set(account.statuses) == {"succeeded"}, str(account)


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", [signal.SIGKILL, signal.SIGSTOP, REDIS_DIES], ids=["kill", "stop", "redis"]
)
async def test_three_machines_for_a_minute_with_a_fault(
    tmp_path: Path, redis_server: RedisServer, fault: int
) -> None:
    print(await share(tmp_path, redis_server, schedules=10, seconds=60, fault=fault))

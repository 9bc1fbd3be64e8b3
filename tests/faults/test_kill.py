"""Several schedulers on one database, and kill -9: no firing is lost, none is doubled."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.harness import Account, Fleet, now, wait_until


def share(directory: Path, schedules: int, seconds: int, broker: str) -> str:
    """Three processes share schedules that fire every second."""
    fleet = Fleet(directory, broker)
    first = now() + 2
    for number in range(schedules):
        fleet.add(f"s{number}", first, first + seconds - 1)
    for _ in range(3):
        fleet.start()
    wait_until(first + seconds + 1)
    fleet.stop()
    account = hold_to_account(fleet)
    assert set(account.statuses) <= {"succeeded", "skipped", "missed"}, str(account)
    assert account.statuses["succeeded"] > account.expected * 0.8, str(account)
    return str(account)


def hold_to_account(fleet: Fleet) -> Account:
    account = fleet.account()
    assert not account.doubled, str(account)
    assert not account.lost, str(account)
    assert not account.unaccounted, str(account)
    assert fleet.is_sound()
    assert fleet.live_runs() == 0
    return account


def kill(directory: Path, firings: int, kills: int, seed: int) -> str:
    """Three processes; one of them at a time is killed and replaced, at random moments."""
    rng = random.Random(seed)
    fleet = Fleet(directory)
    schedules = 10
    seconds = max(firings // schedules, 4)
    first = now() + 2
    for number in range(schedules):
        fleet.add(f"s{number}", first, first + seconds - 1, overlap="allow", coalesce="all")
    for _ in range(3):
        fleet.start()
    wait_until(first)
    for index in range(kills):
        wait_until(first + (index + rng.random()) * seconds / kills)
        fleet.kill_one(rng)
    wait_until(first + seconds + 1)
    deadline = time.monotonic() + 30
    while fleet.live_runs() and time.monotonic() < deadline:
        time.sleep(0.1)
    fleet.stop()
    account = hold_to_account(fleet)
    assert set(account.statuses) <= {"succeeded", "abandoned"}, str(account)
    assert account.statuses["succeeded"] > account.expected * 0.5, str(account)
    return str(account)


@pytest.mark.parametrize("broker", ["subprocess", "in-process"])
def test_three_processes_share_a_database_without_doubling_or_losing(
    tmp_path: Path, broker: str
) -> None:
    share(tmp_path, schedules=10, seconds=4, broker=broker)


def test_processes_killed_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    kill(tmp_path, firings=60, kills=8, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("broker", ["subprocess", "in-process"])
def test_a_hundred_schedules_every_second_for_a_minute(tmp_path: Path, broker: str) -> None:
    print(f"\n{broker}: {share(tmp_path, schedules=100, seconds=60, broker=broker)}")


@pytest.mark.long
def test_a_hundred_kills_over_five_hundred_firings(tmp_path: Path) -> None:
    print(f"\n{kill(tmp_path, firings=500, kills=100, seed=2)}")

"""kill -9 while a database is made: whatever is left of it, the next one makes it, or goes on."""

import random
import time
from pathlib import Path

from sqlsched import SqlschedError
from tests.faults.harness import LATE, Fleet
from tests.faults.registry import Row
from tests.faults.victim import KillAt

LONGEST_SECONDS = 0.08
"""By then it is made."""


def making(directory: Path, count: int, seed: int) -> Row:
    """Kill all of one to three processes that make a database, so many times."""
    total = Row(count=0)
    for number in range(count):
        total += _make(directory / str(number), random.Random(f"{seed} {number}"))
    return total


def _make(directory: Path, rng: random.Random) -> Row:
    fleet = Fleet(directory, "in-process")
    for _ in range(rng.randint(1, 3)):
        point = rng.choice(("before-commit", "after-commit"))
        fleet.fork(kill_at=rng.choice((KillAt(point, rng.randint(1, 3)), None)))
    time.sleep(rng.uniform(0, LONGEST_SECONDS))
    for process in fleet.processes:
        process.kill()
        process.wait(20)
    try:
        now = time.time()
        fleet.add("s", now, now, **LATE)
    except SqlschedError as error:
        return Row(count=1, violations=(f"{directory.name}: {error}",))
    status = fleet.fork("--until-idle").wait(60)
    fleet.stop()
    account, broken = fleet.account(), fleet.remains()
    if status != 0 or fleet.ask("PRAGMA journal_mode") != [("wal",)]:
        broken.append(f"{directory.name}: exit {status}, {fleet.ask('PRAGMA journal_mode')}")
    return Row(
        count=1,
        expected=account.expected,
        lost=len(account.lost),
        doubled=len(account.doubled),
        violations=(*broken, *account.violations("succeeded")),
    )

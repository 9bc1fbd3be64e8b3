"""Nothing is broken: three processes share what fires every second, and each firing runs once."""

import time
from pathlib import Path

from tests.faults.harness import LATE, Fleet
from tests.faults.registry import Row

SCHEDULES = 100


def share(directory: Path, count: int, _seed: int) -> Row:
    """Both kinds of brokers that run tasks, for so many seconds each."""
    row = Row(count=0)
    for broker in ("subprocess", "in-process"):
        row += shared(directory / broker, broker, SCHEDULES, count // 2)
    return row


def shared(directory: Path, broker: str, schedules: int, seconds: int) -> Row:
    """One kind, with the program started as one would type it."""
    fleet = Fleet(directory, broker)
    first = time.time() + 1
    for number in range(schedules):
        fleet.plan(f"s{number}", first, first + seconds - 1, **LATE)
    fleet.add_planned()
    for _ in range(3):
        fleet.start()
    fleet.settle(seconds + 60)
    fleet.stop()
    account, broken = fleet.account(), fleet.remains()
    return Row(
        count=seconds,
        expected=account.expected,
        lost=len(account.lost),
        doubled=len(account.doubled),
        violations=(*broken, *account.violations("succeeded")),
    )

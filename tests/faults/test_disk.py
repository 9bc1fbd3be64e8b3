"""A disk that is full, broken, read-only or locked by others, at each operation of a scripted day.

Each time one operation fails, or it and some that follow; then it clears. Commands say so in one
line and leave nothing half done, and succeed when called again; `run` says so, and goes on.
"""

import errno
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.day import Tally, day, plain, problems
from tests.faults.disk import CHANGES, LOCK, READ_ONLY
from tests.faults.player import Players, Script

FAULTS = {
    "full": (CHANGES, errno.ENOSPC),
    "broken": (CHANGES, errno.EIO),
    "read-only": (READ_ONLY, errno.EROFS),
    "locked": (LOCK, errno.EAGAIN),
}
MESSAGE = r"^Error: |^\S+ error: |^\S+ warning: (the next|process)"
SPANS = (1, 1, 2, 8, 40)
"""How many operations fail: one, or all until it clears."""


def scripts(
    players: Players, directory: Path, fault: str, count: int | None, seed: int
) -> Iterator[Script]:
    """A day for each operation that may fail, or for so many of them."""
    counted, error = FAULTS[fault]
    whole = Script(directory / "whole", day(), counted=counted)
    ((_, played),) = players.play([whole])
    assert not list(problems(whole, played))
    rng = random.Random(seed)
    numbers = range(1, played.count + 1)
    for number in numbers if count is None else sorted(rng.sample(numbers, count)):
        yield Script(
            directory / str(number),
            day(),
            counted=counted,
            error=error,
            first=number,
            last=number + rng.choice(SPANS) - 1,
            attempts=max(SPANS) + 2,
            wait_s=0.02,
        )


def trouble(
    players: Players, directory: Path, fault: str, count: int | None = None, seed: int = 1
) -> Tally:
    """Let a disk fail in one way, at each operation of the day, or at `count` of them."""
    tally = Tally()
    for script, played in players.play(scripts(players, directory, fault, count, seed)):
        tally.cases += 1
        said = [line for call in played.calls for line in call.err.splitlines()]
        lines = {plain(line) for line in said if re.search(MESSAGE, line)}
        tally.noticed += bool(lines)
        tally.messages.update(lines)
        found = [f"{fault} at {script.first}-{script.last}: {p}" for p in problems(script, played)]
        tally.problems += found
        if not found:
            shutil.rmtree(script.directory)
    return tally


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_in_trouble_loses_and_doubles_nothing(
    fault: str, players: Players, tmp_path: Path
) -> None:
    tally = trouble(players, tmp_path, fault, count=6)
    assert not tally.problems, "\n".join(tally.problems)


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_in_trouble_at_each_operation_of_a_day(
    fault: str, players: Players, tmp_path: Path
) -> None:
    tally = trouble(players, tmp_path, fault)
    print(f"\n{fault}: {tally}")
    assert not tally.problems, "\n".join(tally.problems)

"""A disk that is full, broken, read-only or locked by others, at each operation of a scripted day.

Each time one operation fails, or it and some that follow; then it clears. Commands say so in one
line and leave nothing half done, and succeed when called again; `run` says so, and goes on.
"""

import errno
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults.day import RUNS, day, problems, row
from tests.faults.disk import CHANGES, LOCK, READ_ONLY
from tests.faults.player import Players, Script
from tests.faults.registry import Row

FAULTS = {
    "full": (CHANGES, errno.ENOSPC),
    "broken": (CHANGES, errno.EIO),
    "read-only": (READ_ONLY, errno.EROFS),
    "locked": (LOCK, errno.EAGAIN),
}
SPANS = (1, 1, 2, 8, 40)
"""How many operations fail: one, or all until it clears."""

_MESSAGE = re.compile(r"^(?:Error: |\S+ error: |\S+ (?=warning: (?:the next|process)))(.*)")
_VARIABLE = re.compile(r"\S*/(?=day\.db)|-?[\da-f]{12}|\d+")


def full(directory: Path, count: int, seed: int) -> Row:
    """No room: ENOSPC."""
    return _trouble(directory, "full", count, seed)


def broken(directory: Path, count: int, seed: int) -> Row:
    """An I/O error: EIO."""
    return _trouble(directory, "broken", count, seed)


def read_only(directory: Path, count: int, seed: int) -> Row:
    """A file system that has become read-only: EROFS."""
    return _trouble(directory, "read-only", count, seed)


def locked(directory: Path, count: int, seed: int) -> Row:
    """A lock of SQLite's that another program holds: EAGAIN."""
    return _trouble(directory, "locked", count, seed)


def _trouble(directory: Path, fault: str, count: int, seed: int) -> Row:
    with Players(directory) as players:
        return trouble(players, directory, fault, count, seed)


def trouble(players: Players, directory: Path, fault: str, count: int, seed: int) -> Row:
    """Let a disk fail in one way, at `count` operations of the day, or each if it has no more."""
    found: list[str] = []
    messages: Counter[str] = Counter()
    scripts = _scripts(players, directory, fault, count, seed)
    for script, played in players.play(scripts):
        wrong = [f"{fault} at {script.first}-{script.last}: {p}" for p in problems(script, played)]
        found += wrong
        messages.update({line for call in played.calls for line in _said(call.err)})
        if not wrong:
            shutil.rmtree(script.directory)
    return row(found, messages, len(scripts), len(scripts) * len(RUNS))


def _scripts(players: Players, directory: Path, fault: str, count: int, seed: int) -> list[Script]:
    """A day for each operation that is to fail."""
    counted, error = FAULTS[fault]
    whole = Script(directory / "whole", day(), counted=counted)
    ((_, played),) = players.play([whole])
    assert not list(problems(whole, played))
    rng = random.Random(seed)
    numbers = range(1, played.count + 1)
    return [
        Script(
            directory / str(number),
            day(),
            counted=counted,
            error=error,
            first=number,
            last=number + rng.choice(SPANS) - 1,
            attempts=max(SPANS) + 2,
            wait_s=0.02,
        )
        for number in (sorted(rng.sample(numbers, count)) if count < len(numbers) else numbers)
    ]


def _said(err: str) -> Iterator[str]:
    """Errors, without what is another in each case."""
    for line in err.splitlines():
        if found := _MESSAGE.match(line):
            yield _VARIABLE.sub("…", found[1])

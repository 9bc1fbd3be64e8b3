"""Long forms that are tests, too, as faults of the one table."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import fuzz, test_children, test_clock
from tests.faults.courses import Result
from tests.faults.registry import Row


@contextmanager
def _without_log() -> Iterator[None]:
    """These run in this process itself, and log what is no news."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@_without_log()
def clock(_directory: Path, count: int, _seed: int) -> Row:
    """The clock is set so many times, over years."""
    return _row(test_clock.clock_steps(count))


@_without_log()
def zones(_directory: Path, count: int, _seed: int) -> Row:
    """So many of the next clock changes of every zone."""
    return _row(test_clock.clock_changes(count=count))


@_without_log()
def children(_directory: Path, count: int, _seed: int) -> Row:
    """So many rounds of every misbehaving child; AssertionError says which did what."""
    return _row(test_children.children(count))


def words(directory: Path, count: int, seed: int) -> Row:
    """So many fuzzed calls of the program."""
    return _fuzzed(fuzz.words(directory, count, seed))


def databases(directory: Path, count: int, seed: int) -> Row:
    """So many damaged databases."""
    return _fuzzed(fuzz.databases(directory, count, seed))


def _row(result: Result) -> Row:
    years = Counter({"simulated days": round(result.years * 365.25)}) if result.years else Counter()
    return Row(
        count=result.cases,
        expected=result.firings,
        lost=len(result.lost),
        doubled=len(result.doubled),
        figures=years,
    )


def _fuzzed(tally: fuzz.Tally) -> Row:
    return Row(count=tally.count, violations=tuple(tally.violations), figures=tally.figures)

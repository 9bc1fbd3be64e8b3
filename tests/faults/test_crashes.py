"""The short form of every fault that processes suffer: what is promised holds all the same.

`python -m tests.faults` is the long form.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.__main__ import line
from tests.faults.kill import QUEUE, local, queue, queue_at_most_once
from tests.faults.making import making
from tests.faults.races import Race
from tests.faults.registry import TABLE, Row
from tests.faults.share import shared
from tests.faults.signals import Stops, Terms
from tests.faults.soak import Soak


def kept(row: Row) -> Row:
    """The row, if no promise was broken."""
    assert row.is_good, "\n".join([str(row), *row.violations])
    assert row.expected
    return row


@pytest.mark.parametrize("fault", [local, queue, queue_at_most_once], ids=lambda f: f.__name__)
def test_seventeen_kills(tmp_path: Path, fault: Callable[[Path, int, int], Row]) -> None:
    row = kept(fault(tmp_path, 17, 1))
    assert row.count >= 17


def test_kills_while_a_database_is_made(tmp_path: Path) -> None:
    kept(making(tmp_path, 10, 1))


@pytest.mark.parametrize(
    "brokers", [("in-process", "subprocess"), (QUEUE,)], ids=["tasks", "queue"]
)
def test_processes_that_are_stopped_and_go_on(tmp_path: Path, brokers: tuple[str, ...]) -> None:
    # Who is stopped for longer than half a second is overdue, where it would be five.
    kept(Stops(tmp_path, random.Random(1), brokers, overdue_seconds=0.5).go(6))


def test_processes_that_are_asked_to_end_once_and_twice(tmp_path: Path) -> None:
    row = kept(Terms(tmp_path, random.Random(1)).go(6))
    assert row.figures["exit 0"]


def test_people_at_the_command_line_race_runners_that_come_and_go(tmp_path: Path) -> None:
    kept(Race(tmp_path, 1).go(4))


def test_runners_grow_no_descriptors_and_no_wal(tmp_path: Path) -> None:
    row = kept(Soak(tmp_path, 1).go(4, 100, (1, 3)))
    assert row.figures["memory at most"]


@pytest.mark.parametrize("broker", ["subprocess", "in-process"])
def test_three_processes_share_a_database(tmp_path: Path, broker: str) -> None:
    kept(shared(tmp_path, broker, 10, 3))


@pytest.mark.long
@pytest.mark.parametrize("name", TABLE)
def test_the_long_form(tmp_path: Path, name: str) -> None:
    fault = TABLE[name]
    row = fault.strike(tmp_path, fault.count, 1)
    print(line(name, fault, row, 0))
    kept(row)

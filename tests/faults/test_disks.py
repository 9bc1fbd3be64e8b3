"""Disks in trouble, power failures, and files that are swapped while a scheduler runs.

`python -m tests.faults` is the long form: each operation and each sync of a day.
"""

import random
from pathlib import Path

import pytest

from tests.faults import swap
from tests.faults.player import Players
from tests.faults.power import failed_syncs, power_loss
from tests.faults.registry import Row
from tests.faults.trouble import FAULTS, trouble


def kept(row: Row) -> Row:
    """The row, if no promise was broken."""
    assert row.is_good, "\n".join([str(row), *row.violations])
    assert row.expected
    return row


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_in_trouble_loses_and_doubles_nothing(
    fault: str, players: Players, tmp_path: Path
) -> None:
    kept(trouble(players, tmp_path, fault, 4, 1))


@pytest.mark.parametrize("scheduler", ["local", "queue"])
def test_a_power_failure_takes_nothing_that_was_acknowledged(
    scheduler: str, players: Players, tmp_path: Path
) -> None:
    kept(power_loss(players, tmp_path, scheduler, 8, 1))


def test_a_sync_that_failed_took_nothing_with_it_that_was_acknowledged(
    players: Players, tmp_path: Path
) -> None:
    kept(failed_syncs(players, tmp_path, 1, 1))


def test_what_happens_to_the_files_of_a_running_scheduler_is_noticed(tmp_path: Path) -> None:
    events = [
        *(swap.deleted, swap.replaced, swap.overwritten_with_a_copy),
        *(swap.overwritten_with_a_backup, swap.without_its_log, swap.damaged),
    ]
    kept(swap.happen(tmp_path, events, random.Random(1)))

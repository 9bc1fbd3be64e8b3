"""What the tests of disks share."""

from collections.abc import Iterator

import pytest

from tests.faults.player import Players


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Players]:
    """Processes that play scripts, on disks that fail when they are told to."""
    with Players(tmp_path_factory.mktemp("players")) as started:
        yield started

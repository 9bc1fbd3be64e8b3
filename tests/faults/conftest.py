"""What the tests of disks share."""

from collections.abc import Iterator

import pytest

from tests.faults.disk import require_disk
from tests.faults.player import Players


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Players]:
    """Processes that play scripts, on disks that fail when they are told to."""
    directory = tmp_path_factory.mktemp("players")
    require_disk(directory)
    with Players(directory) as started:
        yield started

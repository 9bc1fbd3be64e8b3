"""A fresh database for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Schedulers without an engine over one database file."""
    with Bench(tmp_path / "test.db") as made:
        yield made

"""A fresh database for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .bench import Bench


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with nothing in it: a copy is made quicker than another one."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    Bench(path).database.close()
    return path


@pytest.fixture
def bench(tmp_path: Path, empty: Path) -> Iterator[Bench]:
    """Schedulers without an engine over one database file."""
    path = tmp_path / "test.db"
    shutil.copy(empty, path)
    with Bench(path) as made:
        yield made

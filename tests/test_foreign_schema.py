"""What others put into a database's schema has no say in what is executed: it is refused."""

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched import ScheduledTask
from sqlsched.storage import additions
from sqlsched.storage.connection import open_for_reading, open_for_writing
from sqlsched.storage.errors import DamagedDatabaseError
from tests.servers import Program, wait_for

Sqlsched = Callable[..., CompletedProcess[str]]

ADD = ("add", "--id", "new", "--every", "5m", "--shell", "true")
COMMANDS = (
    *(("list",), ("show", "old"), ("next", "old"), ("history",), ("logs", "1"), ("export",)),
    *(ADD, ("rm", "old"), ("pause", "--all"), ("trigger", "old"), ("cancel", "1")),
    ("run", "--once", "--broker", "in-process"),
)
TRIGGER = """CREATE TRIGGER planted AFTER INSERT ON schedules BEGIN
    UPDATE schedules SET args = '["touch hijacked"]'; END"""
PLANTED = {
    "a trigger 'planted'": TRIGGER,
    "a view 'planted'": "CREATE VIEW planted AS SELECT * FROM schedules",
    "a table 'planted'": "CREATE TABLE planted (x)",
    "a virtual table 'planted'": "CREATE VIRTUAL TABLE planted USING fts5(x)",
    "no table 'outputs'": "DROP TABLE outputs",
}
HARMLESS = ("CREATE INDEX theirs ON runs (reason)", "ANALYZE", "VACUUM")


@pytest.fixture
def good(sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of ours, with a schedule."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert sqlsched("add", "--id", "old", "--every", "5m", "--shell", "true").returncode == 0
    return tmp_path / "sqlsched.db"


def do(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(statement)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as other:
        return list(other.iterdump())


@pytest.mark.parametrize("named", PLANTED)
def test_what_was_planted_is_named_and_nothing_is_done(
    sqlsched: Sqlsched, good: Path, named: str
) -> None:
    do(good, PLANTED[named])
    before = dump(good)
    for command in COMMANDS:
        result = sqlsched(*command)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith("Error: sqlsched.db ")
        assert named in result.stderr
    assert dump(good) == before


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_changes_no_meaning_is_let_be(sqlsched: Sqlsched, good: Path, statement: str) -> None:
    do(good, statement)
    assert sqlsched("list").returncode == 0
    assert sqlsched(*ADD).returncode == 0


def test_an_open_database_is_looked_at_again_before_it_is_written_to(good: Path) -> None:
    schedule = ScheduledTask(task_name="m:f", interval=60)
    with closing(open_for_writing(good)) as database:
        do(good, HARMLESS[0])
        additions.add(database, schedule, 0)
        do(good, TRIGGER)
        before = dump(good)
        with pytest.raises(DamagedDatabaseError, match="a trigger 'planted'"):
            additions.add(database, schedule, 0, replace_other=True)
        assert dump(good) == before
        do(good, "DROP TRIGGER planted")
        assert additions.add(database, schedule, 0).changed is False


@pytest.mark.parametrize("named", ["a trigger 'planted'", "no table 'outputs'"])
def test_a_run_notices_what_is_planted_and_ends(
    good: Path, start_program: Callable[..., Program], named: str
) -> None:
    running = start_program("sqlsched", "run", "--broker", "in-process")
    wait_for(lambda: "serving" in running.said())
    do(good, PLANTED[named])
    wait_for(lambda: running.process.poll() is not None)
    assert running.process.returncode == 1
    _, last = running.said().splitlines()
    assert last.startswith("Error: sqlsched.db ")
    assert named in last


def test_what_a_schema_says_is_not_trusted_with_functions(good: Path) -> None:
    for open_database in open_for_reading, open_for_writing:
        with closing(open_database(good)) as database:
            assert database.execute("PRAGMA trusted_schema").fetchone() == (0,)

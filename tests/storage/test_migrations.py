"""An older database is brought up to date when it is opened for writing, and keeps what it has."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sqlsched.clock import now_us
from sqlsched.storage import migrations, runs
from sqlsched.storage.connection import open_for_reading, open_for_writing
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.migrations import VERSION, migrate


@contextmanager
def older(
    path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sqlite3.Connection]:
    """A database as the sqlsched of that version made it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "STEPS", migrations.STEPS[:version])
            patch.setattr(migrations, "VERSION", version)
            migrate(connection, 0)
        yield connection
    path.chmod(0o600)


def schema(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
        ).fetchall()


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_older_database_becomes_what_a_new_one_is(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with older(old, version, monkeypatch):
        pass
    for path in (old, new):
        open_for_writing(path, create=True).close()
    assert schema(old) == schema(new)


def test_runs_their_output_and_their_numbers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.db"
    with older(path, 1, monkeypatch) as old:
        old.executemany(
            """INSERT INTO runs (run_id, schedule_id, task_name, scheduled_us, attempt, trigger,
                   status, due_us, finished_us)
               VALUES (?, 'job', 'm:f', ?, 1, 'schedule', ?, 0, ?)""",
            [(7, 1, "succeeded", 5), (8, 2, "claimed", None), (9, 3, "failed", None)],
        )
        old.execute("INSERT INTO outputs VALUES (7, x'68', x'', 1)")
        old.execute("DELETE FROM runs WHERE run_id = 9")
    database = open_for_writing(path)
    assert [(run.run_id, run.status) for run in runs.history(database)] == [
        (8, "claimed"),
        (7, "succeeded"),
    ]
    assert runs.output(database, 7) == (b"h", b"", 1)
    added = database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status, due_us)
           VALUES ('job', 'm:f', 4, 1, 'schedule', 'claimed', 0) RETURNING run_id"""
    ).fetchone()
    assert added == (10,), "the number of a run that is gone is never given again"
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()


def test_who_only_looks_brings_it_up_to_date_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.db"
    with older(path, 1, monkeypatch):
        pass
    with closing(open_for_reading(path)) as database:
        assert list(runs.history(database)) == []
        with pytest.raises(sqlite3.OperationalError):
            database.execute("DELETE FROM runs")


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_the_tables_of_a_version_are_those_that_its_steps_make(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with older(tmp_path / "old.db", version, monkeypatch) as old:
        query = """SELECT name FROM sqlite_schema
                   WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"""
        assert {name for (name,) in old.execute(query)} == migrations.tables(version)


def test_with_a_trigger_in_it_nothing_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.db"
    with older(path, 1, monkeypatch) as old:
        old.execute("CREATE TRIGGER planted AFTER DELETE ON runs BEGIN DELETE FROM owners; END")
    before = schema(path)
    for open_database in (open_for_reading, open_for_writing):
        with pytest.raises(DamagedDatabaseError, match="a trigger 'planted'"):
            open_database(path)
    assert schema(path) == before


def test_of_an_older_database_it_is_known_that_changes_were_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, unused = tmp_path / "used.db", tmp_path / "unused.db"
    with older(used, 2, monkeypatch) as connection:
        connection.execute(
            """INSERT INTO schedules (schedule_id, task_name, args, kwargs, labels, interval_s,
                   created_us, anchor_us) VALUES ('job', 'm:f', '[]', '{}', '{}', 60, 0, 0)"""
        )
    with older(unused, 2, monkeypatch):
        pass
    with closing(open_for_writing(used)) as database:
        assert now_us() - 60_000_000 < runs.forgotten_us(database) <= now_us()
    with closing(open_for_writing(unused)) as database:
        assert runs.forgotten_us(database) == 0

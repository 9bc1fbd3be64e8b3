"""A transaction is whole or not at all, whatever interrupts it, and goes into its own file only."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sqlsched.exceptions import StorageError
from sqlsched.storage.connection import (
    Database,
    data_version,
    open_for_reading,
    open_for_writing,
    transaction,
)
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.migrations import migrate

from .bench import Bench

INSERT = "INSERT INTO meta VALUES ('probe', 1)"


def probes(bench: Bench) -> list[object]:
    return bench.ask("SELECT value FROM meta WHERE key = 'probe'")


def write_and_raise(bench: Bench, error: BaseException | type[BaseException]) -> None:
    with transaction(bench.database):
        bench.database.execute(INSERT)
        raise error


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_an_exception_interrupts_is_undone(
    bench: Bench, interruption: type[BaseException]
) -> None:
    with pytest.raises(interruption):
        write_and_raise(bench, interruption)
    assert not bench.database.in_transaction
    assert probes(bench) == []
    with transaction(bench.database):
        bench.database.execute(INSERT)
    assert probes(bench) == [1]


def test_what_a_kill_interrupts_is_undone(bench: Bench) -> None:
    script = f"""if True:
        import os, sys
        from pathlib import Path
        from sqlsched.storage.connection import open_for_writing, transaction
        database = open_for_writing(Path(sys.argv[1]))
        with transaction(database):
            database.execute("{INSERT}")
            os.kill(os.getpid(), 9)
    """
    ended = subprocess.run([sys.executable, "-c", script, str(bench.path)], check=False)
    assert ended.returncode == -9
    assert probes(bench) == []
    with transaction(bench.database):
        bench.database.execute(INSERT)


def test_an_error_of_sqlite_is_undone_and_told_in_one_line_that_names_the_file(
    bench: Bench,
) -> None:
    with pytest.raises(StorageError) as told:
        write_and_raise(bench, sqlite3.OperationalError("disk I/O error"))
    assert str(bench.path) in str(told.value)
    assert "\n" not in str(told.value)
    assert probes(bench) == []


def test_a_file_that_was_replaced_is_not_written_to(bench: Bench, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(bench.path, copy)
    os.replace(copy, bench.path)  # noqa: PTH105 - the plainest word for it
    with (
        pytest.raises(DamagedDatabaseError, match="replaced by another file"),
        transaction(bench.database),
    ):
        bench.database.execute(INSERT)
    assert not bench.database.in_transaction


def test_a_file_that_was_deleted_is_not_written_to(bench: Bench) -> None:
    bench.path.unlink()
    with pytest.raises(DamagedDatabaseError, match="deleted"), transaction(bench.database):
        bench.database.execute(INSERT)
    assert not bench.path.exists()


def test_a_write_is_durable_and_safe_by_the_settings_of_the_connection(bench: Bench) -> None:
    settings = {
        name: bench.ask(f"PRAGMA {name}")[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
    }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "trusted_schema": 0,
    }


def test_a_reader_cannot_write_and_sees_what_is_written(bench: Bench) -> None:
    reader = open_for_reading(bench.path)
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute(INSERT)
        before = data_version(reader)
        with transaction(bench.database):
            bench.database.execute(INSERT)
        assert data_version(reader) != before
    finally:
        reader.close()


def test_a_reader_is_let_in_while_someone_writes(bench: Bench) -> None:
    reader = open_for_reading(bench.path)
    try:
        with transaction(bench.database):
            bench.database.execute(INSERT)
            assert reader.execute("SELECT * FROM meta").fetchall() == []
    finally:
        reader.close()


def test_opened_twice_at_once_it_is_one_database(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    first, second = open_for_writing(path, create=True), open_for_writing(path, create=True)
    try:
        with transaction(first):
            first.execute(INSERT)
        with transaction(second):
            assert second.execute("SELECT value FROM meta").fetchall() == [(1,)]
    finally:
        first.close()
        second.close()


# -- making it ------------------------------------------------------------------------------------


@pytest.fixture(params=[None, 4096, 40960], ids=["whole", "a page", "ten pages"])
def half_made(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """What a kill leaves while the first commit writes into the file, which has a journal then."""
    made, path = tmp_path / "made.db", tmp_path / "test.db"
    database = sqlite3.connect(made, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")  # it goes into the file before the commit
    database.execute("BEGIN IMMEDIATE")
    migrate(database, 0)
    shutil.copy(made, path)
    shutil.copy(f"{made}-journal", f"{path}-journal")
    database.close()
    (tmp_path / "test.db-gate").touch()
    if request.param is not None:
        os.truncate(path, request.param)
    return path


def test_what_a_kill_left_of_a_new_database_is_none_and_is_made_anew(half_made: Path) -> None:
    with pytest.raises(StorageError, match="there is no database"):
        open_for_reading(half_made)
    open_for_writing(half_made, create=True).close()
    open_for_reading(half_made).close()


@pytest.mark.parametrize("opens", [open_for_reading, open_for_writing])
def test_a_switch_to_wal_that_was_cut_short_is_undone_by_whoever_comes_first(
    tmp_path: Path, opens: Callable[[Path], sqlite3.Connection]
) -> None:
    made, path = tmp_path / "made.db", tmp_path / "test.db"
    open_for_writing(made, create=True).close()
    database = sqlite3.connect(made, isolation_level=None)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    database.execute("CREATE TABLE half (x)")
    database.executemany("INSERT INTO half VALUES (?)", [(bytes(2000),)] * 50)
    shutil.copy(made, path)
    shutil.copy(f"{made}-journal", f"{path}-journal")
    database.close()
    opens(path).close()
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM schedules").fetchone() == (0,)
        assert reader.execute("SELECT * FROM sqlite_schema WHERE name = 'half'").fetchall() == []


def test_a_journal_of_somebody_elses_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    shutil.copy(__file__, path)
    journal = tmp_path / "other.db-journal"
    journal.write_bytes(b"something")
    with pytest.raises(DamagedDatabaseError):
        open_for_writing(path, create=True)
    assert journal.read_bytes() == b"something"


def test_a_database_whose_maker_was_killed_before_it_was_in_wal_mode_gets_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        migrate(database, 0)
    open_for_writing(path).close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_that_a_failing_disk_keeps_out_of_wal_mode_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, path = Database.execute, tmp_path / "test.db"

    def execute(self: Database, statement: str, *values: Any) -> sqlite3.Cursor:
        # Of a sync that failed at the switch, SQLite says nothing but that the mode is as before.
        return plain(self, statement.removesuffix(" = WAL"), *values)

    monkeypatch.setattr(Database, "execute", execute)
    with pytest.raises(StorageError, match="cannot be switched to WAL"):
        open_for_writing(path, create=True)
    monkeypatch.undo()
    open_for_writing(path).close()


# -- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_shm", [False, True])
@pytest.mark.parametrize("open_", [open_for_reading, open_for_writing])
def test_a_database_whose_checkpoint_was_killed_midway_is_whole(
    tmp_path: Path, open_: Callable[[Path], Database], with_shm: bool
) -> None:
    path, killed = tmp_path / "test.db", tmp_path / "killed.db"
    open_for_writing(path, create=True).close()
    size = path.stat().st_size
    database = open_for_writing(path)
    with transaction(database):
        database.execute(
            "INSERT INTO meta SELECT 'more' || value, randomblob(9999) FROM json_each('[1,2,3]')"
        )
    shutil.copy(f"{path}-wal", f"{killed}-wal")
    if with_shm:
        shutil.copy(f"{path}-shm", f"{killed}-shm")
    database.execute("PRAGMA wal_checkpoint")
    shutil.copy(path, killed)
    os.truncate(killed, size)  # its first page says that it is larger
    database.close()
    with closing(open_(killed)) as database:
        query = "SELECT count(*) FROM meta WHERE key LIKE 'more%'"
        assert database.execute(query).fetchone() == (3,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_is_never_called_damaged_while_others_grow_it(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    database = open_for_writing(path, create=True)
    database.execute("PRAGMA wal_autocheckpoint = 1")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            open_for_reading(path).close()

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(look) for _ in range(2)]
        for number in range(60):
            with transaction(database):
                database.execute(
                    "INSERT INTO meta VALUES (?, randomblob(40000))", (f"probe{number}",)
                )
        stop.set()
        for reader in readers:
            reader.result()
    database.close()

"""An open database whose files are changed by something else than SQLite, and what is not that."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sqlsched.storage import owners
from sqlsched.storage.connection import (
    Database,
    check_files,
    open_for_reading,
    open_for_writing,
    transaction,
)
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.seal import Seal

from .bench import NOON_US

Copy = Callable[[Path, Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    open_for_writing(tmp_path / "test.db", create=True).close()
    return tmp_path / "test.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = open_for_writing(path)
    yield opened
    opened.close()


def live(database: Database) -> None:
    """What schedulers do all day, and SQLite at times: its log is moved into the file."""
    _, lock = owners.register(database, "boot", NOON_US)
    lock.release()
    write(database)
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("PRAGMA wal_checkpoint(RESTART)")
    write(database)


def write(database: Database, key: str = "probe") -> None:
    with transaction(database):
        database.execute("INSERT OR REPLACE INTO meta VALUES (?, 1)", (key,))


def raw(path: Path, to: Path) -> None:
    shutil.copyfile(path, to)


def backup(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def vacuum(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source:
        source.execute("VACUUM INTO ?", (str(to),))


@pytest.mark.parametrize("copy", [raw, backup, vacuum])
def test_a_backup_copied_over_an_open_database_is_noticed_and_stays_as_it_is(
    database: Database, path: Path, tmp_path: Path, copy: Copy
) -> None:
    saved = tmp_path / "saved"
    live(database)
    copy(path, saved)
    live(database)
    shutil.copyfile(saved, path)
    assert database.seal.differs()
    with pytest.raises(DamagedDatabaseError, match="was overwritten"):
        write(database)
    database.close()
    assert path.read_bytes() == saved.read_bytes()
    with closing(open_for_writing(path)) as again:
        write(again)
    assert (tmp_path / "test.db-wal-old").stat().st_size > 0


def test_bytes_of_before_are_noticed_once_sqlite_has_moved_the_log_of_its_own_accord(
    database: Database, path: Path, tmp_path: Path
) -> None:
    raw(path, tmp_path / "saved")
    database.execute("PRAGMA wal_autocheckpoint = 1")
    _, lock = owners.register(database, "boot", NOON_US)
    lock.release()
    database.execute("PRAGMA wal_autocheckpoint = 0")
    shutil.copyfile(tmp_path / "saved", path)
    with pytest.raises(DamagedDatabaseError, match="was overwritten"):
        write(database)


def test_a_backup_put_in_the_place_of_an_open_database_is_not_mixed_with_its_log(
    database: Database, path: Path, tmp_path: Path
) -> None:
    backup(path, tmp_path / "saved")
    live(database)
    (tmp_path / "saved").replace(path)
    before = path.read_bytes()
    with pytest.raises(DamagedDatabaseError, match="was deleted or replaced"):
        write(database)
    database.close()
    assert path.read_bytes() == before
    with closing(open_for_reading(path)) as reader:
        assert reader.execute("SELECT count(*) FROM meta").fetchone() == (0,)


def test_all_who_have_it_open_notice(database: Database, path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "saved")
    with closing(open_for_writing(path)) as other:
        live(database)
        write(other)
        shutil.copyfile(tmp_path / "saved", path)
        for one in (database, other):
            with pytest.raises(DamagedDatabaseError):
                write(one)
    assert path.read_bytes() == (tmp_path / "saved").read_bytes()


@pytest.mark.parametrize("end", ["-wal", "-shm"])
@pytest.mark.parametrize("taken", [Path.unlink, lambda path: raw(path, path.with_suffix(".new"))])
def test_a_log_taken_away_is_noticed_and_what_was_written_is_kept(
    database: Database, path: Path, end: str, taken: Callable[[Path], None]
) -> None:
    write(database, "before")
    beside = Path(f"{path}{end}")
    taken(beside)
    if beside.exists():
        beside.with_suffix(".new").replace(beside)
    assert database.seal.differs()
    with pytest.raises(DamagedDatabaseError, match="has lost its -wal or -shm"):
        write(database, "after")
    database.close()
    with closing(open_for_reading(path)) as reader:
        assert reader.execute("SELECT key FROM meta").fetchall() == [("before",)]


def test_of_two_that_lose_their_log_the_last_keeps_what_was_written(
    database: Database, path: Path
) -> None:
    with closing(open_for_writing(path)) as other:
        live(other)
        write(other, "after")
        Path(f"{path}-wal").unlink()
    database.close()
    with closing(open_for_reading(path)) as reader:
        assert reader.execute("SELECT count(*) FROM meta").fetchone() == (2,)


def flip(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(range(256)))


@pytest.mark.parametrize(
    "spoil",
    [lambda path: flip(path, 2), lambda path: flip(path, 5), lambda path: os.truncate(path, 8192)],
    ids=["a page", "another", "cut short"],
)
def test_damage_done_to_an_open_file_is_noticed(
    database: Database, path: Path, spoil: Callable[[Path], None]
) -> None:
    write(database)
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(DamagedDatabaseError, match="is damaged"):
        write(database)
    database.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"hello\n" * 3000])
def test_what_is_no_database_any_more_is_left_alone(
    database: Database, path: Path, content: bytes
) -> None:
    write(database)
    with path.open("r+b") as file:
        file.truncate()
        file.write(content)
    with pytest.raises(DamagedDatabaseError):
        write(database)
    database.close()
    assert path.read_bytes() == content


CHECKPOINT, VACUUM = "PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM"


@pytest.mark.parametrize("statement", [CHECKPOINT, VACUUM])
def test_what_another_program_does_by_way_of_sqlite_is_no_trouble(
    database: Database, path: Path, statement: str
) -> None:
    live(database)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(statement)
        other.execute(CHECKPOINT)
    assert database.seal.differs()
    write(database)
    assert not database.seal.differs()


@pytest.mark.parametrize("touch", [os.utime, lambda path: path.chmod(0o640)])
def test_a_touch_is_no_trouble(
    database: Database, path: Path, touch: Callable[[Path], None]
) -> None:
    touch(path)
    write(database)
    assert not database.seal.differs()


def test_a_page_that_a_full_disk_let_in_by_half_as_the_log_was_moved_is_no_trouble(
    database: Database, path: Path, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqlite_sequence VALUES ('owners', 0), ('runs', 9)")
    live(database)
    _, lock = owners.register(database, "boot", NOON_US)
    lock.release()
    moved = tmp_path / "moved.db"
    for name in ("", "-wal"):
        shutil.copyfile(f"{path}{name}", f"{moved}{name}")
    with closing(sqlite3.connect(moved)) as other:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_sequence'"
        at = (other.execute(query).fetchone()[0] - 1) * 4096
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    half = moved.read_bytes()[at : at + 2048]
    with path.open("r+b") as file:
        file.seek(at)
        file.write(half)
    open_for_reading(path).close()  # it goes on from what was noted
    write(database)
    assert database.execute("SELECT max(owner) FROM owners").fetchone() == (2,)


def test_a_checkpoint_of_ours_is_known_to_the_others_who_need_not_look_for_damage(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_for_writing(path)) as other:
        other.execute("PRAGMA wal_autocheckpoint = 1")
        write(other)
        assert database.seal.differs()
        monkeypatch.setattr(Seal, "_damage", lambda _: "not asked for")
        write(database)


def test_a_backup_restored_by_way_of_sqlite_is_noticed_and_kept_whole(
    database: Database, path: Path, tmp_path: Path
) -> None:
    backup(path, tmp_path / "saved")
    live(database)
    backup(tmp_path / "saved", path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(CHECKPOINT)
    with pytest.raises(DamagedDatabaseError, match="was restored from a backup"):
        write(database)
    database.close()
    with closing(open_for_writing(path)) as again:
        assert again.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert again.execute("SELECT count(*) FROM meta").fetchone() == (0,)
        write(again)


def test_who_reads_again_and_again_is_told_as_well(path: Path) -> None:
    with closing(open_for_reading(path)) as reader:
        check_files(reader)
        path.unlink()
        with pytest.raises(DamagedDatabaseError, match="was deleted"):
            check_files(reader)


# -- at the start ---------------------------------------------------------------------------------


def killed(path: Path) -> None:
    """A scheduler was killed, and its log is there still, with what is not in the file yet."""
    database = open_for_writing(path)
    live(database)
    write(database, "a")
    database.interrupt()  # it then closes as a killed process does
    sqlite3.Connection.close(database)
    database.gate.close()
    assert Path(f"{path}-wal").stat().st_size > 0


def in_its_place(saved: Path, path: Path) -> None:
    path.unlink()
    saved.rename(path)


@pytest.mark.parametrize("put", [in_its_place, shutil.copyfile, shutil.copy2])
@pytest.mark.parametrize("copy", [raw, backup, vacuum])
def test_a_backup_put_beside_the_log_of_who_was_killed_is_not_mixed_with_it(
    path: Path, tmp_path: Path, copy: Copy, put: Copy
) -> None:
    copy(path, tmp_path / "saved")
    killed(path)
    put(tmp_path / "saved", path)
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    for opens in (open_for_reading, open_for_writing):
        with pytest.raises(DamagedDatabaseError, match=r"delete test\.db-wal"):
            opens(path)
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before
    Path(f"{path}-wal").unlink()
    with closing(open_for_writing(path)) as database:
        assert database.execute("SELECT count(*) FROM meta").fetchone() == (0,)
        write(database)


def test_who_was_killed_left_nothing_in_the_way(path: Path) -> None:
    killed(path)
    for opens in (open_for_reading, open_for_writing):
        with closing(opens(path)) as database:
            assert database.execute("SELECT count(*) FROM meta").fetchone() == (2,)


def test_damage_beside_the_log_of_who_was_killed_is_called_so(path: Path) -> None:
    killed(path)
    flip(path, 2)
    for opens in (open_for_reading, open_for_writing):
        with pytest.raises(DamagedDatabaseError, match="is damaged"):
            opens(path)


def test_a_database_and_its_log_may_be_moved_together(path: Path, tmp_path: Path) -> None:
    killed(path)
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("copied"))
    with closing(open_for_writing(copied / path.name)) as database:
        assert database.execute("SELECT count(*) FROM meta").fetchone() == (2,)
        write(database)

"""Copies of a database, taken while it is in use, and put in its place again."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from sqlsched import ScheduledTask
from sqlsched.cli import main
from sqlsched.exceptions import StorageError
from sqlsched.storage import additions, backups, connection, errors, files, migrations, runs
from sqlsched.storage.connection import open_for_reading, open_for_writing
from tests.servers import Program, wait_for
from tests.storage.bench import NOON_US

Sqlsched = Callable[..., CompletedProcess[str]]

ADD = ("add", "--every", "1h", "--shell", "true", "--id")


@pytest.fixture
def db(tmp_path: Path, sqlsched: Sqlsched) -> Path:
    """A database with a schedule, closed."""
    assert sqlsched(*ADD, "old").returncode == 0
    return tmp_path / "sqlsched.db"


def ids(sqlsched: Sqlsched, path: Path | str = "sqlsched.db") -> list[str]:
    exported = sqlsched("--db", str(path), "export")
    assert (exported.returncode, exported.stderr) == (0, "")
    return [line.split('"')[3] for line in exported.stdout.splitlines()]


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def refused(result: CompletedProcess[str], *words: str) -> bool:
    """Exit status 1 and one line with these words in it."""
    return (
        (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        and result.stderr.startswith("Error: ")
        and all(word in result.stderr for word in words)
    )


# -- backup ---------------------------------------------------------------------------------------


def test_a_backup_is_a_database_of_its_own_private_and_nothing_else_is_left(
    sqlsched: Sqlsched, db: Path
) -> None:
    before = names(db.parent)
    result = sqlsched("backup", "copy.db")
    assert (result.returncode, result.stdout) == (0, "")
    copy = db.with_name("copy.db")
    size = copy.stat().st_size / 1024
    assert result.stderr == f"backed up 1 schedule to copy.db, {size:.1f} KiB\n"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert names(db.parent) - before <= {"copy.db", "sqlsched.db-shm", "sqlsched.db-wal"}
    assert ids(sqlsched, copy) == ["old"]
    with closing(sqlite3.connect(copy)) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_backup_is_of_one_instant_and_holds_up_nobody(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "_STEP_PAGES", 1)
    steps: list[tuple[int, int]] = []
    with closing(open_for_reading(db)) as reader, closing(open_for_writing(db)) as writer:

        def write(copied: int, total: int) -> None:
            steps.append((copied, total))
            task = ScheduledTask(task_name="m:f", interval=60, schedule_id=f"new{len(steps)}")
            additions.add(writer, task, NOON_US)

        assert backups.back_up(reader, db.with_name("copy.db"), NOON_US, write) == 1
    assert steps == [(n, len(steps)) for n in range(1, len(steps) + 1)]
    assert len(steps) > 10
    for path, count in ((db.with_name("copy.db"), 1), (db, 1 + len(steps))):
        with closing(sqlite3.connect(path)) as plain:
            assert plain.execute("SELECT count(*) FROM schedules").fetchone() == (count,)
            assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_later_backup_takes_the_place_of_an_earlier_one_that_was_looked_into(
    sqlsched: Sqlsched, db: Path
) -> None:
    sqlsched("backup", "copy.db")
    assert ids(sqlsched, "copy.db") == ["old"]
    assert "copy.db-shm" in names(db.parent)
    sqlsched(*ADD, "new")
    assert sqlsched("backup", "copy.db").returncode == 0
    assert "copy.db-shm" not in names(db.parent)
    assert ids(sqlsched, "copy.db") == ["old", "new"]


def test_an_empty_file_may_be_filled_with_a_backup(sqlsched: Sqlsched, db: Path) -> None:
    db.with_name("copy.db").touch(0o600)
    assert sqlsched("backup", "copy.db").returncode == 0
    assert ids(sqlsched, "copy.db") == ["old"]


def text(path: Path) -> None:
    path.write_text("my thesis\n" * 100)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (id)")


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [text, foreign, directory])
def test_a_backup_replaces_nothing_but_a_sqlsched_database(
    sqlsched: Sqlsched, db: Path, make: Callable[[Path], None]
) -> None:
    other = db.with_name("other")
    make(other)
    before = other.read_bytes() if other.is_file() else b""
    assert refused(sqlsched("backup", "other"), "other")
    assert before == (other.read_bytes() if other.is_file() else b"")


@pytest.mark.parametrize(
    "name", ["sqlsched.db", "link", "./sub/../sqlsched.db", "sqlsched.db-wal", "sqlsched.db-gate"]
)
def test_a_backup_goes_to_a_file_of_its_own(sqlsched: Sqlsched, db: Path, name: str) -> None:
    db.with_name("link").symlink_to(db)
    db.with_name("sub").mkdir()
    before = db.read_bytes()
    assert refused(sqlsched("backup", name), "give the backup a file of its own")
    assert db.read_bytes() == before


def test_a_backup_does_not_take_the_place_of_a_database_in_use(
    sqlsched: Sqlsched, db: Path
) -> None:
    other = db.with_name("other.db")
    with closing(open_for_writing(other, create=True)) as database:
        additions.add(database, ScheduledTask(task_name="m:f", interval=60), NOON_US)
        assert refused(sqlsched("backup", "other.db"), "other.db is in use")
    lock = files.OwnerLock(other, "token")
    lock.acquire()
    assert refused(sqlsched("backup", "other.db"), f"process {os.getpid()} serves other.db")
    lock.release()
    assert sqlsched("backup", "other.db").returncode == 0


def test_a_missing_directory_is_named_and_a_missing_database_too(
    sqlsched: Sqlsched, db: Path
) -> None:
    assert refused(sqlsched("backup", "missing/copy.db"), "its directory missing does not exist")
    db.unlink()
    assert refused(sqlsched("backup", "copy.db"), "there is no database at sqlsched.db")
    assert refused(sqlsched("restore", "copy.db"), "there is no backup at copy.db")
    assert not {"copy.db", "sqlsched.db"} & names(db.parent)


def spoil(path: Path) -> None:
    """Damage the page of a table, as a bad disk would."""
    with closing(sqlite3.connect(path)) as database:
        page = database.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'runs'"
        ).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\x77" * 4096)


def test_a_damaged_database_does_not_replace_a_good_backup(sqlsched: Sqlsched, db: Path) -> None:
    sqlsched("backup", "copy.db")
    before = db.with_name("copy.db").read_bytes()
    spoil(db)
    assert refused(sqlsched("backup", "copy.db"), "sqlsched.db is damaged", "nothing was replaced")
    assert db.with_name("copy.db").read_bytes() == before
    assert not [name for name in names(db.parent) if name.startswith(".")]


def test_an_interrupted_backup_leaves_the_earlier_one(sqlsched: Sqlsched, db: Path) -> None:
    sqlsched("backup", "copy.db")
    before, there = db.with_name("copy.db").read_bytes(), names(db.parent)

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with closing(open_for_reading(db)) as reader, pytest.raises(KeyboardInterrupt):
        backups.back_up(reader, db.with_name("copy.db"), NOON_US, interrupt)
    assert db.with_name("copy.db").read_bytes() == before
    assert names(db.parent) - there <= {"sqlsched.db-shm", "sqlsched.db-wal"}


def test_want_of_room_is_named_and_leaves_nothing(db: Path) -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "from sqlsched.cli import main; main(['backup', 'copy.db'])"
    )
    there = names(db.parent)
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=db.parent, capture_output=True, text=True, check=False
    )
    result = CompletedProcess(ran.args, ran.returncode, ran.stdout, ran.stderr)
    assert refused(result, "copy.db")
    assert names(db.parent) - there <= {"sqlsched.db-shm", "sqlsched.db-wal"}


# -- restore --------------------------------------------------------------------------------------


def test_a_restored_database_is_the_backup_and_the_old_one_is_kept(
    sqlsched: Sqlsched, db: Path
) -> None:
    sqlsched("backup", "copy.db")
    sqlsched(*ADD, "new")
    db.chmod(0o640)
    result = sqlsched("restore", "copy.db")
    assert (result.returncode, result.stdout) == (0, "")
    first, last = result.stderr.splitlines()
    assert first.startswith("restored 1 schedule from copy.db, as of 20")
    kept = Path(last.removeprefix("the database that was there is kept as "))
    assert ids(sqlsched) == ["old"]
    assert ids(sqlsched, kept) == ["old", "new"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (db, kept)] == [0o600, 0o600]
    assert db.stat().st_nlink == 1
    assert not [name for name in names(db.parent) if name.startswith(".")]
    assert sqlsched("restore", str(kept)).returncode == 0
    assert ids(sqlsched) == ["old", "new"]


@pytest.mark.usefixtures("db")
def test_what_was_missed_is_said(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--at", "2020-01-01", "--id", "due", "--shell", "true")
    sqlsched("trigger", "old")
    sqlsched("backup", "copy.db")
    result = sqlsched("restore", "copy.db")
    assert "on record as restored: 1 firing missed, 1 run abandoned\n" in result.stderr
    assert sqlsched("history", "due").stdout.split()[-2:] == ["missed", "restored"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can restore for others")
def test_a_database_that_root_restores_stays_its_owners(sqlsched: Sqlsched, db: Path) -> None:
    sqlsched("backup", "copy.db")
    for path in (db, db.parent):
        os.chown(path, 12345, 12345)
    assert sqlsched("restore", "copy.db").returncode == 0
    assert (db.stat().st_uid, stat.S_IMODE(db.stat().st_mode)) == (12345, 0o600)


def leave_a_log(db: Path, schedule_id: str) -> None:
    """Make the database as a killed process leaves it: what was written last is in its log."""
    with closing(open_for_writing(db, create=True)) as writer:
        task = ScheduledTask(task_name="m:f", interval=3600, schedule_id=schedule_id)
        additions.add(writer, task, NOON_US)
        left = {path: path.read_bytes() for path in (db, Path(f"{db}-wal"))}
    for path, data in left.items():
        path.write_bytes(data)
        path.chmod(0o600)


def test_the_log_of_the_old_database_never_gets_into_the_new_one(
    sqlsched: Sqlsched, db: Path
) -> None:
    sqlsched("backup", "copy.db")
    leave_a_log(db, "logged")
    kept = sqlsched("restore", "copy.db").stderr.split()[-1]
    assert ids(sqlsched) == ["old"]
    assert ids(sqlsched, kept) == ["old", "logged"]


def test_who_still_reads_the_old_database_does_no_harm_to_the_new_one(
    sqlsched: Sqlsched, db: Path
) -> None:
    sqlsched("backup", "copy.db")
    writer, reader = open_for_writing(db), open_for_reading(db)
    additions.add(writer, ScheduledTask(task_name="m:f", interval=60, schedule_id="x"), NOON_US)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM schedules").fetchone() == (2,)
    assert sqlsched("restore", "copy.db").returncode == 0
    with closing(open_for_writing(db)) as new:
        task = ScheduledTask(task_name="m:f", interval=60, schedule_id="y")
        additions.add(new, task, NOON_US)
        with pytest.raises(errors.DamagedDatabaseError, match="replaced by another file"):
            additions.add(writer, task, NOON_US)
        assert reader.execute("SELECT count(*) FROM schedules").fetchone() == (2,)
        for old in (writer, reader):
            old.close()
        assert Path(f"{db}-wal").stat().st_size > 0
    assert ids(sqlsched) == ["old", "y"]
    with closing(sqlite3.connect(db)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class Killed(BaseException):
    """The process is gone."""


STEPS = [(os, "link"), (Path, "unlink"), (Path, "replace"), (files, "sync")]


def die_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the n-th of the steps that change what is where."""
    taken = iter(range(1, 1000))

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            if next(taken) == number:
                raise Killed
            return original(*args, **options)

        return step

    for place, name in STEPS:
        monkeypatch.setattr(place, name, dying(getattr(place, name)))


@pytest.mark.parametrize("number", range(1, 10))
def test_a_restore_that_is_killed_anywhere_leaves_the_old_or_the_new_database(
    sqlsched: Sqlsched, db: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlsched("backup", "copy.db")
    leave_a_log(db, "logged")
    with monkeypatch.context() as patch:
        die_at(number, patch)
        with pytest.raises(Killed):
            backups.restore(db, db.with_name("copy.db"), NOON_US)
    exported = sqlsched("export")
    if exported.returncode:  # two names, so that nobody uses it without its log
        assert refused(exported, "more than one hard link")
    else:
        assert ids(sqlsched) in (["old", "logged"], ["old"])
    kept = sqlsched("restore", "copy.db").stderr.split()[-1]
    assert ids(sqlsched) == ["old"]
    if exported.returncode or "logged" in exported.stdout:
        assert ids(sqlsched, kept) == ["old", "logged"]


def test_the_steps_of_a_restore_are_all_tried(
    sqlsched: Sqlsched, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlsched("backup", "copy.db")
    leave_a_log(db, "logged")
    with monkeypatch.context() as patch:
        die_at(10, patch)
        backups.restore(db, db.with_name("copy.db"), NOON_US)


def test_a_restore_waits_for_who_is_writing_and_who_waits_writes_to_nowhere(
    sqlsched: Sqlsched, db: Path
) -> None:
    sqlsched("backup", "copy.db")
    late = open_for_writing(db)
    restoring = threading.Thread(target=backups.restore, args=(db, db.with_name("copy.db"), 0))
    with connection.transaction(late):
        restoring.start()
        restoring.join(0.1)
        assert restoring.is_alive()
        late.execute("UPDATE schedules SET note = 'written'")
    restoring.join()
    late.close()
    (kept,) = db.parent.glob("*.replaced-*Z")
    with closing(sqlite3.connect(kept)) as old:
        assert old.execute("SELECT note FROM schedules").fetchone() == ("written",)
    assert ids(sqlsched) == ["old"]


def test_a_running_scheduler_is_named_and_nothing_is_replaced(
    sqlsched: Sqlsched, db: Path, start_program: Callable[..., Program]
) -> None:
    sqlsched("backup", "copy.db")
    before = db.stat().st_ino
    program = start_program("sqlsched", "run")
    wait_for(lambda: "serving" in program.said())
    pid = program.process.pid
    assert refused(sqlsched("restore", "copy.db"), f"process {pid} serves sqlsched.db")
    assert db.stat().st_ino == before
    program.stop(signal.SIGKILL)
    assert sqlsched("restore", "copy.db").returncode == 0
    assert ids(sqlsched) == ["old"]
    assert not [name for name in names(db.parent) if "-owner-" in name]


def test_who_begins_to_serve_while_the_backup_is_copied_is_noticed(
    sqlsched: Sqlsched, db: Path
) -> None:
    sqlsched("backup", "copy.db")
    lock, before = files.OwnerLock(db, "token"), db.stat().st_ino
    calls: list[tuple[int, ...]] = []

    def begin(*done: int) -> None:
        calls.append(done)
        lock.acquire()

    for _ in "early", "late":
        with pytest.raises(StorageError, match=r"serves .*sqlsched\.db; end what runs first"):
            backups.restore(db, db.with_name("copy.db"), NOON_US, progress=begin)
    lock.release()
    assert len(calls) == 1, "whoever serves it from the start is noticed before anything is copied"
    assert db.stat().st_ino == before


def test_a_backup_put_in_place_by_hand_works(
    sqlsched: Sqlsched, tmp_path: Path, start_program: Callable[..., Program]
) -> None:
    def add(name: str, line: str) -> None:
        sqlsched("add", "--at", "2020-01-01", "--id", name, "--shell", line)

    add("long", "touch started; sleep 60")
    first = start_program("sqlsched", "run", "--drain", "1s")
    wait_for((tmp_path / "started").exists)
    assert sqlsched("backup", "copy.db").returncode == 0
    sqlsched("cancel", "1")
    assert first.stop() == 0
    shutil.copy("copy.db", "sqlsched.db")
    add("new", "touch done")
    second = start_program("sqlsched", "run", "--until-idle")
    assert second.process.wait(20) == 0, second.said()
    assert (tmp_path / "done").exists()
    with closing(open_for_reading(tmp_path / "sqlsched.db")) as database:
        ended = {run.schedule_id: (run.status, run.reason) for run in runs.history(database)}
    assert ended == {"long": ("abandoned", "restored"), "new": ("succeeded", None)}


def older(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(migrations, "STEPS", migrations.STEPS[:1])
            patch.setattr(migrations, "VERSION", 1)
            migrations.migrate(database, 0)
        database.execute("PRAGMA journal_mode = WAL")
    path.chmod(0o600)


def test_a_backup_of_an_older_format_is_brought_up_to_date_and_left_as_it_is(
    sqlsched: Sqlsched, db: Path
) -> None:
    copy = db.with_name("copy.db")
    older(copy)
    before = copy.read_bytes()
    assert sqlsched("restore", "copy.db").returncode == 0
    assert ids(sqlsched) == []
    assert copy.read_bytes() == before
    assert not {"copy.db-wal", "copy.db-shm", "copy.db-gate"} & names(db.parent)


def newer(path: Path) -> None:
    older(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    with closing(open_for_writing(path, create=True)):
        pass
    spoil(path)


def headless(path: Path) -> None:
    damaged(path)
    path.write_bytes(b"x" * 100 + path.read_bytes()[100:])


def writable_by_all(path: Path) -> None:
    with closing(open_for_writing(path, create=True)):
        pass
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text, "not a SQLite database"),
        (foreign, "another application"),
        (directory, "is a directory"),
        (newer, "newer sqlsched"),
        (damaged, "copy.db is damaged"),
        (headless, "not a SQLite database"),
        (writable_by_all, "writable by everyone"),
    ],
)
def test_what_is_no_good_backup_is_not_restored(
    sqlsched: Sqlsched, db: Path, make: Callable[[Path], None], words: str
) -> None:
    make(db.with_name("copy.db"))
    before = db.read_bytes()
    assert refused(sqlsched("restore", "copy.db"), "copy.db", words)
    assert db.read_bytes() == before


@pytest.mark.usefixtures("db")
def test_the_database_itself_is_no_backup(sqlsched: Sqlsched) -> None:
    assert refused(sqlsched("restore", "sqlsched.db"), "is the database itself")


@pytest.mark.parametrize("make", [damaged, headless, text])
def test_a_backup_takes_the_place_of_a_damaged_database(
    sqlsched: Sqlsched, db: Path, make: Callable[[Path], None]
) -> None:
    sqlsched("backup", "copy.db")
    db.unlink()
    make(db)
    before = db.read_bytes()
    kept = sqlsched("restore", "copy.db").stderr.split()[-1]
    assert ids(sqlsched) == ["old"]
    assert Path(kept).read_bytes() == before


def test_a_backup_takes_the_place_of_a_database_that_is_gone(sqlsched: Sqlsched, db: Path) -> None:
    sqlsched("backup", "copy.db")
    leave_a_log(db, "logged")
    db.unlink()
    result = sqlsched("restore", "copy.db")
    assert result.returncode == 0
    assert "kept" not in result.stderr
    assert ids(sqlsched) == ["old"]


@pytest.mark.parametrize("make", [foreign, directory])
def test_what_is_not_ours_is_not_replaced(
    sqlsched: Sqlsched, db: Path, make: Callable[[Path], None]
) -> None:
    sqlsched("backup", "copy.db")
    make(db.with_name("theirs"))
    assert refused(sqlsched("--db", "theirs", "restore", "copy.db"), "theirs")
    assert refused(sqlsched("--db", "gone/theirs", "restore", "copy.db"), "its directory gone")


def test_a_backup_that_is_asked_to_end_leaves_nothing_behind(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(backups, "_copy", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main(["--db", str(db), "backup", str(db.parent / "copy.db")])
    assert end.value.code == 143
    assert sorted(path.name for path in db.parent.iterdir() if "copy" in path.name) == []
    assert list(db.parent.glob(".sqlsched-*")) == []
    assert signal.getsignal(signal.SIGTERM) == before

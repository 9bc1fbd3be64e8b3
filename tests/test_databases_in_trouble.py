"""Files that are no database of ours, or one in trouble: one line, exit 1, not a byte changed."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.cli import past
from sqlsched.storage import connection, files

Sqlsched = Callable[..., CompletedProcess[str]]

ADD = ("add", "--id", "new", "--every", "5m", "--shell", "true")
RUN = ("run", "--once", "--broker", "in-process")
READERS = {
    "list": ("list",),
    "show": ("show", "old"),
    "next": ("next", "old"),
    "history": ("history",),
    "logs": ("logs", "1"),
}
WRITERS = {
    "add": ADD,
    "edit": ("edit", "old", "--every", "6m"),
    "rm": ("rm", "old"),
    "pause": ("pause", "--all"),
    "trigger": ("trigger", "old"),
    "cancel": ("cancel", "1"),
    "run": RUN,
}


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the database is; `run` of this process may change `sys.path`, and nobody waits."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(connection, "WAIT_S", 0.1)
    return tmp_path / "sqlsched.db"


@pytest.fixture
def good(db: Path, sqlsched: Sqlsched) -> Path:
    """A database of ours, with a schedule and a run to come, closed."""
    assert sqlsched("add", "--id", "old", "--every", "5m", "--shell", "true").returncode == 0
    assert sqlsched("trigger", "old").stdout == "1\n"
    return db


def text(path: Path) -> None:
    path.write_text("id,task\n1,shop.jobs:send_mail\n" * 100)


def short_text(path: Path) -> None:
    path.write_text("hello\n")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def header_alone(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def cut_short(path: Path) -> None:
    foreign(path)
    os.truncate(path, 2000)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.executescript("CREATE TABLE schedules (id); INSERT INTO schedules VALUES (1)")


def foreign_with_wal(path: Path) -> None:
    """As its application was killed: all that it wrote is in the log still."""
    live = path.with_name("live")
    with closing(sqlite3.connect(live)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE theirs (id)")
        for end in ("", "-wal"):
            shutil.copy(f"{live}{end}", f"{path}{end}")
    live.unlink()


def half_made(path: Path) -> None:
    """As the disk was full when it was made: SQLite undoes it when it is opened next."""
    made = path.with_name("made")
    with closing(sqlite3.connect(made, isolation_level=None)) as other:
        other.execute("PRAGMA cache_size = 1")
        other.execute("BEGIN")
        other.execute("CREATE TABLE schedules (id)")
        other.executemany("INSERT INTO schedules VALUES (?)", [(bytes(2000),)] * 50)
        for end in ("", "-journal"):
            shutil.copy(f"{made}{end}", f"{path}{end}")
        other.execute("ROLLBACK")
    made.unlink()


def newer(path: Path) -> None:
    foreign(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA application_id = {0x73716C73}")
        other.execute("PRAGMA user_version = 99")


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


TROUBLES: dict[Callable[[Path], None], str] = {
    text: "not a SQLite database",
    short_text: "not a SQLite database",
    binary: "not a SQLite database",
    header_alone: "not a SQLite database",
    cut_short: "",
    foreign: "another application",
    foreign_with_wal: "another application",
    newer: "newer sqlsched",
    directory: "is a directory",
    fifo: "not a regular file",
    device: "not a regular file",
    link_to_itself: "",
}


def bytes_of(place: Path) -> dict[str, bytes]:
    """What the databases there hold, with their logs; an empty log is as good as none."""
    found = (p for p in place.iterdir() if p.is_file() and p.suffix in {".db", ".db-wal"})
    return {path.name: data for path in found if (data := path.read_bytes())}


def refused(result: CompletedProcess[str], path: Path) -> bool:
    """Exit status 1 and one line, which names the path."""
    return (
        result.returncode == 1
        and result.stdout == ""
        and result.stderr.startswith("Error: ")
        and result.stderr.count("\n") == 1
        and path.name in result.stderr
    )


@pytest.mark.parametrize("command", [*READERS.values(), *WRITERS.values()], ids=lambda c: c[0])
@pytest.mark.parametrize("make", TROUBLES, ids=lambda make: make.__name__)
def test_what_is_no_database_of_ours_is_named_and_left_alone(
    sqlsched: Sqlsched, db: Path, make: Callable[[Path], None], command: tuple[str, ...]
) -> None:
    make(db)
    before = bytes_of(db.parent)
    result = sqlsched(*command)
    assert refused(result, db), result
    assert TROUBLES[make] in result.stderr
    assert bytes_of(db.parent) == before


def hard_link(path: Path) -> None:
    os.link(path, path.with_name("other"))


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def open_directory(path: Path) -> None:
    path.parent.chmod(0o777)


@pytest.mark.parametrize("command", [*READERS.values(), *WRITERS.values()], ids=lambda c: c[0])
@pytest.mark.parametrize("spoil", [hard_link, open_to_all, open_directory])
def test_a_database_that_others_may_change_is_not_trusted(
    sqlsched: Sqlsched, good: Path, spoil: Callable[[Path], None], command: tuple[str, ...]
) -> None:
    spoil(good)
    before = bytes_of(good.parent)
    assert refused(sqlsched(*command), good)
    assert bytes_of(good.parent) == before


def test_a_directory_that_everyone_can_write_to_gets_no_database(
    sqlsched: Sqlsched, db: Path
) -> None:
    db.parent.chmod(0o777)
    assert refused(sqlsched(*ADD), db)
    assert refused(sqlsched(*RUN), db)
    assert not db.exists()
    db.parent.chmod(0o1777)
    assert sqlsched(*ADD).returncode == 0


def test_a_group_that_may_write_is_warned_of(sqlsched: Sqlsched, good: Path) -> None:
    good.chmod(0o660)
    result = sqlsched(*ADD)
    assert (result.returncode, result.stdout) == (0, "new\n")
    assert result.stderr.startswith("Warning: sqlsched.db is writable by its group")


@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS)
def test_a_read_only_database_is_not_written_to_even_by_root(
    sqlsched: Sqlsched, good: Path, command: tuple[str, ...]
) -> None:
    good.chmod(0o444)
    before = bytes_of(good.parent)
    result = sqlsched(*command)
    assert refused(result, good)
    assert "is read-only" in result.stderr
    assert bytes_of(good.parent) == before


def test_a_read_only_database_can_be_looked_at(sqlsched: Sqlsched, good: Path) -> None:
    good.chmod(0o444)
    result = sqlsched("list")
    assert (result.returncode, result.stderr) == (0, "")
    assert "old" in result.stdout


@pytest.mark.parametrize("command", [*READERS.values(), *WRITERS.values()], ids=lambda c: c[0])
def test_a_missing_directory_is_named_and_not_made(
    sqlsched: Sqlsched, db: Path, command: tuple[str, ...]
) -> None:
    missing = db.parent / "missing" / "jobs.db"
    assert refused(sqlsched("--db", str(missing), *command), missing)
    assert not missing.parent.exists()


@pytest.mark.parametrize("command", [*READERS.values(), *WRITERS.values()], ids=lambda c: c[0])
def test_an_empty_file_counts_as_missing(
    sqlsched: Sqlsched, db: Path, command: tuple[str, ...]
) -> None:
    db.touch(0o600)
    result = sqlsched(*command)
    if command in (ADD, RUN):
        assert result.returncode == 0, result
        assert db.stat().st_size > 0
    else:
        assert refused(result, db)
        assert "there is no database" in result.stderr
        assert db.stat().st_size == 0


@pytest.mark.parametrize("command", [*READERS.values(), *WRITERS.values()], ids=lambda c: c[0])
def test_a_file_that_was_never_finished_counts_as_missing(
    sqlsched: Sqlsched, db: Path, command: tuple[str, ...]
) -> None:
    half_made(db)
    before = bytes_of(db.parent)
    assert len(before["sqlsched.db"]) > 4096
    result = sqlsched(*command)
    if command in (ADD, RUN):
        assert result.returncode == 0, result
        assert sqlsched("list").returncode == 0
    else:
        assert refused(result, db)
        assert "there is no database" in result.stderr
        assert bytes_of(db.parent) == before


def test_an_empty_file_that_is_read_only_stays_empty(sqlsched: Sqlsched, db: Path) -> None:
    db.touch(0o444)
    assert refused(sqlsched(*ADD), db)
    assert (db.stat().st_size, stat.S_IMODE(db.stat().st_mode)) == (0, 0o444)


def test_a_symbolic_link_is_followed_by_everyone_to_one_gate(
    sqlsched: Sqlsched, good: Path
) -> None:
    link = good.parent / "sub" / "link.db"
    link.parent.mkdir()
    link.symlink_to(good)
    assert sqlsched("--db", str(link), *ADD).returncode == 0
    assert "new" in sqlsched("list").stdout
    assert [path.name for path in link.parent.iterdir()] == ["link.db"]


def test_a_damaged_database_is_called_so(sqlsched: Sqlsched, good: Path) -> None:
    data = bytearray(good.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    good.write_bytes(data)
    for command in (*READERS.values(), *WRITERS.values()):
        result = sqlsched(*command)
        assert refused(result, good), result
        assert "is damaged" in result.stderr
        assert good.read_bytes() == data


# `run` keeps trying, and is for the tests of faults.
@pytest.mark.parametrize("command", [c for c in WRITERS.values() if c is not RUN])
def test_a_lock_of_another_program_is_waited_for_and_then_named(
    sqlsched: Sqlsched, good: Path, command: tuple[str, ...]
) -> None:
    with closing(sqlite3.connect(good, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        result = sqlsched(*command)
        assert refused(result, good), result
        assert "is locked by another program" in result.stderr
        assert "old" in sqlsched("list").stdout
        other.execute("ROLLBACK")
    assert sqlsched("list").stdout.count("\n") == 2


@pytest.mark.parametrize(
    "command", [("trigger", "old", "--wait"), ("logs", "--follow", "1")], ids=lambda c: c[0]
)
def test_who_follows_a_run_is_told_that_the_database_is_gone(
    sqlsched: Sqlsched, good: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(past, "pause", lambda _: good.unlink())
    result = sqlsched(*command)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: sqlsched.db was deleted or replaced")


HOLD_THE_GATE = """
import sys
from pathlib import Path
from sqlsched.storage.files import Gate
with Gate(Path(sys.argv[1])).held(0):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(good: Path) -> Iterator[int]:
    """The pid of a process that holds the gate, as a stopped writer would."""
    command = [sys.executable, "-c", HOLD_THE_GATE, str(good)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


@pytest.mark.parametrize("command", [c for c in WRITERS.values() if c is not RUN])
def test_who_holds_the_gate_for_too_long_is_named(
    sqlsched: Sqlsched, good: Path, holder: int, command: tuple[str, ...]
) -> None:
    before = bytes_of(good.parent)
    result = sqlsched(*command)
    assert refused(result, good), result
    assert f"process {holder} is writing" in result.stderr
    assert bytes_of(good.parent) == before


def test_who_waited_at_the_gate_in_vain_does_not_wait_again_to_close(
    sqlsched: Sqlsched, holder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(files, "_flock_within", lambda _, timeout_s: waits.append(timeout_s))
    assert f"process {holder} is writing" in sqlsched(*ADD).stderr
    assert len(waits) == 1


def test_readers_do_not_wait_at_the_gate(sqlsched: Sqlsched, holder: int) -> None:
    assert holder
    for name in ("list", "show", "next", "history"):
        assert sqlsched(*READERS[name]).returncode == 0


NONSENSE = (
    *("cron = 'nonsense', interval_s = NULL",),
    *("time_us = 4611686018427387904, interval_s = NULL", "interval_s = -5", "interval_s = 0"),
    *("args = '['", "args = '{}'", "kwargs = '[1]'", "labels = '7'", "args = '[NaN]'"),
    *("cron_offset = 'Mars/Olympus'", "catchup_window = 3.5", "catchup_window = x'00'"),
    *("task_name = 'no task'", "max_runs = 0", "coalesce = 'none'", "overlap = ''"),
    *("next_us = 4611686018427387904", "created_us = -4611686018427387904", "paused_us = -1 << 62"),
    *("schedule_id = 'a b'", "start_us = 1 << 62", "end_us = -1", "note = x'ff'"),
)  # fmt: skip


def spoil_row(path: Path, change: str) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("PRAGMA ignore_check_constraints = ON")
        other.execute(f"UPDATE schedules SET {change} WHERE schedule_id = 'old'")  # noqa: S608


@pytest.mark.parametrize("change", NONSENSE)
def test_a_row_edited_into_nonsense_is_named_and_the_others_are_shown(
    sqlsched: Sqlsched, good: Path, change: str
) -> None:
    assert sqlsched(*ADD).returncode == 0
    try:
        spoil_row(good, change)
    except sqlite3.IntegrityError:
        return  # the database itself would not have it
    for option in ((), ("--json",)):
        result = sqlsched("list", *option)
        assert result.returncode == 0, result
        assert "new" in result.stdout
        assert "old" not in result.stdout
        assert result.stderr.startswith("Warning: schedule ")
        assert result.stderr.count("\n") == 1
    left = "a b" if "schedule_id" in change else "old"
    for command in ("show", "next", "trigger"):
        result = sqlsched(command, left)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result
        assert left in result.stderr
    assert sqlsched("rm", left).returncode == 0
    assert sqlsched("list").stderr == ""


@pytest.fixture
def program(tmp_path: Path) -> Sqlsched:
    """The program in a process of its own, told what it may use."""

    def call(*arguments: str, before: str = "") -> CompletedProcess[str]:
        script = f"import os, resource, sys\n{before}\nfrom sqlsched.cli import main\nmain()"
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


def test_run_serves_the_others_and_says_which_row_is_bad(
    sqlsched: Sqlsched, program: Sqlsched, good: Path
) -> None:
    assert sqlsched("add", "--id", "due", "--at", "2020-01-01", "--shell", "true").returncode == 0
    spoil_row(good, "cron = 'nonsense', interval_s = NULL, next_us = 1, wake_us = 1")
    result = program(*RUN)
    assert result.returncode == 0, result
    assert "schedule old is put aside" in result.stderr
    assert "Traceback" not in result.stderr
    assert "succeeded" in sqlsched("history", "due").stdout


NO_ROOM = "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.mark.parametrize("size", [0, 4096, 40_000])
def test_a_database_that_cannot_be_made_for_want_of_room_says_so(
    program: Sqlsched, db: Path, size: int
) -> None:
    result = program(*ADD, before=NO_ROOM.format(size))
    assert refused(result, db), result
    result = program(*ADD)
    assert (result.returncode, result.stdout) == (0, "new\n"), result


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir(0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_named_and_what_is_there_can_be_read_and_goes_on(
    program: Sqlsched, small_disk: Path
) -> None:
    path = small_disk / "sqlsched.db"
    at = ("--db", str(path))
    assert program(*at, "add", "--id", "old", "--every", "5m", "--shell", "true").returncode == 0
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        fill(filler)
    result = program(*at, *ADD)
    assert refused(result, path), result
    filler.unlink()
    assert "old" in program(*at, "list").stdout
    assert program(*at, *ADD).returncode == 0


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277, 0o777])
def test_the_files_of_a_database_are_private_whatever_the_umask(
    program: Sqlsched, db: Path, umask: int
) -> None:
    assert program(*ADD, before=f"os.umask({umask})").returncode == 0
    with closing(sqlite3.connect(db)) as reader:  # so that the log stays
        reader.execute("SELECT * FROM schedules")
        result = program("rm", "new", before=f"os.umask({umask})")
        assert result.returncode == 0, result
        modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in db.parent.iterdir()}
    names = ("sqlsched.db", "sqlsched.db-gate", "sqlsched.db-shm", "sqlsched.db-wal")
    assert modes == dict.fromkeys(names, "0o600")

"""`sqlsched doctor`: each check fails for its defect and for nothing else."""

import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched import doctor, trial
from sqlsched.instants import DAY_US, MINUTE_US, SECOND_US
from sqlsched.storage import connection, file_systems, files, owners
from sqlsched.storage.connection import open_for_writing
from sqlsched.storage.file_systems import FileSystem, innermost, read_mount, read_mountinfo
from tests.cli.test_backup import damaged, directory, foreign, headless, newer, older, text
from tests.servers import Program, wait_for

Sqlsched = Callable[..., CompletedProcess[str]]
Checks = dict[str, str]

ALWAYS = {"file", "file-system", "disk", "sqlite", "time-zones", "clock"}
INSIDE = {"integrity", "format", "record", "running", "schedules", "tasks", "firing", "failing"}
HOURLY = ("add", "--every", "1h", "--id")


@pytest.fixture
def db(tmp_path: Path, sqlsched: Sqlsched, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good database with a schedule, closed; nobody waits long for a lock."""
    monkeypatch.setattr(connection, "WAIT_S", 0.1)
    assert sqlsched(*HOURLY, "old", "--shell", "true").returncode == 0
    return tmp_path / "sqlsched.db"


@pytest.fixture
def failed(sqlsched: Sqlsched) -> Callable[..., Checks]:
    """The checks that fail, with what they say."""

    def ask(*arguments: str) -> Checks:
        result = sqlsched(*arguments, "doctor", "--json")
        assert result.stderr == ""
        found = json.loads(result.stdout)
        assert found["ok"] == (result.returncode == 0) == all(c["ok"] for c in found["checks"])
        assert all(c["detail"] for c in found["checks"])
        names = [c["name"] for c in found["checks"]]
        assert len(names) == len(set(names))
        assert set(names) <= {*ALWAYS, *INSIDE, "database", "writing"}
        return {c["name"]: c["detail"] for c in found["checks"] if not c["ok"]}

    return ask


Failed = Callable[..., Checks]


@pytest.fixture
def details(sqlsched: Sqlsched) -> Callable[[], Checks]:
    """What each check says."""

    def ask() -> Checks:
        checks = json.loads(sqlsched("doctor", "--json").stdout)["checks"]
        return {check["name"]: check["detail"] for check in checks}

    return ask


def sql(path: Path, statement: str, *values: object) -> None:
    """What somebody does by other means."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(statement, values)


def shift(path: Path, seconds: float, schedule_id: str = "old") -> None:
    """Move what a schedule does next."""
    moved = round(seconds * SECOND_US)
    sql(
        path,
        "UPDATE schedules SET next_us = ?1, wake_us = ?1 WHERE schedule_id = ?2",
        doctor_now() + moved,
        schedule_id,
    )


def doctor_now() -> int:
    from sqlsched.clock import now_us

    return now_us()


# -- as a whole -----------------------------------------------------------------------------------


def test_a_good_database_is_healthy_and_left_as_it_is(
    sqlsched: Sqlsched, db: Path, failed: Failed, start_program: Callable[..., Program]
) -> None:
    assert start_program("sqlsched", "run", "--once").process.wait(20) == 0
    before, there = db.read_bytes(), set(db.parent.iterdir())
    result = sqlsched("doctor")
    assert (result.returncode, result.stderr) == (0, "healthy\n")
    lines = [line.split()[:2] for line in result.stdout.splitlines()]
    assert {name for _, name in lines} == {*ALWAYS, *INSIDE, "writing"}
    assert {ok for ok, _ in lines} == {"ok"}
    assert failed() == {}
    assert (db.read_bytes(), set(db.parent.iterdir())) == (before, there)


def test_what_is_not_healthy_is_told_and_is_the_exit_status(sqlsched: Sqlsched, db: Path) -> None:
    db.chmod(0o666)
    result = sqlsched("doctor")
    assert (result.returncode, result.stderr) == (1, "not healthy\n")
    assert re.search(r"^FAIL +file +.*writable by everyone", result.stdout)


def test_a_terminal_gets_lines_that_fit(
    sqlsched: Sqlsched, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlsched(*HOURLY, "b", "--", "./" + "long " * 5 + "name", *["word"] * 50)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
    lines = sqlsched("doctor").stdout.splitlines()
    assert max(map(len, lines)) <= 60
    assert len(lines) > 15
    assert db.exists()


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (lambda _: None, "file", "there is no database"),
        (text, "database", "not a SQLite database"),
        (headless, "database", "not a SQLite database"),
        (foreign, "database", "another application"),
        (newer, "database", "newer sqlsched"),
        (damaged, "integrity", "restore a backup"),
        (directory, "file", "is a directory"),
        (lambda path: os.mkfifo(path), "file", "not a regular file"),
        (lambda path: path.symlink_to(path), "file", "symbolic link"),
    ],
    ids=[
        *("missing", "text", "headless", "foreign", "newer", "damaged", "directory", "fifo"),
        "loop",
    ],
)
def test_what_cannot_be_examined_is_one_check_that_failed(
    db: Path, failed: Failed, make: Callable[[Path], None], name: str, words: str
) -> None:
    db.unlink()
    make(db)
    found = failed()
    assert list(found) == [name]
    assert words in found[name]


def test_a_missing_directory_is_no_traceback(failed: Failed) -> None:
    assert list(failed("--db", "gone/x.db")) == ["file"]


def test_an_older_format_is_left_as_it_is(db: Path, failed: Failed) -> None:
    db.unlink()
    older(db)
    assert failed() == {}
    with closing(sqlite3.connect(db)) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_wrong_app_dir_is_named(sqlsched: Sqlsched) -> None:
    result = sqlsched("doctor", "--app-dir", "nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--app-dir 'nowhere'" in result.stderr


# -- the file, and what is around it --------------------------------------------------------------


def hard_link(path: Path) -> None:
    os.link(path, path.with_name("other"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (hard_link, "hard link"),
        (lambda path: path.parent.chmod(0o777), "directory that everyone can write to"),
    ],
    ids=["hard-link", "open-directory"],
)
def test_a_file_that_cannot_be_trusted_is_named(
    db: Path, failed: Failed, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(db)
    assert words in failed()["file"]


def test_nothing_of_a_file_that_is_not_trusted_is_imported(
    sqlsched: Sqlsched, db: Path, failed: Failed
) -> None:
    db.with_name("planted.py").write_text("open('ran', 'w')\ndef task(): pass\n")
    sqlsched(*HOURLY, "planted", "planted:task")
    db.chmod(0o666)
    assert list(failed()) == ["file"]
    assert not db.with_name("ran").exists()
    db.chmod(0o600)
    assert failed() == {}
    assert db.with_name("ran").exists()


MOUNTINFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
60 27 0:50 / /srv rw shared:7 master:1 - nfs4 server:/export rw,vers=4.2
61 60 0:51 /sub /srv/my\040share rw - virtiofs share rw
62 27 0:52 / /mnt rw - ext4 /dev/vdb rw
63 27 0:53 / /mnt rw - 9p host rw
""".strip()
MOUNT = """
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
//ada@server/a%20share on /Volumes/a share (smbfs, nodev, nosuid, mounted by ada)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
""".strip()


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/home/x.db", "ext4", None),
        ("/srv/x.db", "nfs4", "NFS"),
        ("/srvx.db", "ext4", None),
        ("/srv/my share/x.db", "virtiofs", "a share of a virtual machine"),
        ("/mnt/x.db", "9p", "a share of a virtual machine"),
        ("/proc/x.db", "proc", None),
    ],
)
def test_the_innermost_mount_says_which_file_system_it_is(
    path: str, kind: str, shared: str | None
) -> None:
    found = innermost(Path(path), read_mountinfo(MOUNTINFO))
    assert found is not None
    assert (found.kind, found.shared) == (kind, shared)


def test_the_mounts_of_macos_are_read() -> None:
    assert list(read_mount(MOUNT)) == [
        FileSystem("apfs", Path("/")),
        FileSystem("smbfs", Path("/Volumes/a share")),
        FileSystem("autofs", Path("/System/Volumes/Data/home")),
    ]
    assert FileSystem("smbfs", Path("/")).shared == "an SMB share"


def test_a_file_system_that_is_shared_is_named_by_doctor_and_by_run(
    sqlsched: Sqlsched,
    db: Path,
    failed: Failed,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(
        file_systems, "_mounted", lambda: [FileSystem("cifs", db.parent), FileSystem("", Path("/"))]
    )
    assert sqlsched("run", "--once", "--broker", "in-process").returncode == 0
    assert "sqlsched.db lies on an SMB share (cifs" in caplog.text
    assert list(failed()) == ["file-system"]


def test_this_file_system_is_known() -> None:
    found = file_systems.file_system(Path(__file__))
    assert found is not None
    assert Path(__file__).is_relative_to(found.place)


def test_a_disk_that_is_nearly_full_is_named(
    db: Path, failed: Failed, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(db)
    short = os.statvfs_result((*real[:4], 8000, *real[5:]))  # of 4 KiB, mostly
    assert short.f_bavail == 8000
    monkeypatch.setattr(doctor, "LEAST_FREE", 8000 * real.f_frsize + 1)
    monkeypatch.setattr(os, "statvfs", lambda _: short)
    assert "a full disk stops every write" in failed()["disk"]
    monkeypatch.setattr(doctor, "LEAST_FREE", 8000 * real.f_frsize)
    assert failed() == {}


def test_a_log_that_only_grows_is_named(
    db: Path, failed: Failed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LARGEST_LOG", 0)
    assert failed() == {}
    with closing(sqlite3.connect(db)) as reader, closing(open_for_writing(db)) as writer:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM schedules").fetchone()
        while files.size(Path(f"{db}-wal")) <= 2 * db.stat().st_size:
            with connection.transaction(writer):
                writer.execute("UPDATE schedules SET note = hex(randomblob(8000))")
        assert "something keeps reading" in failed()["disk"]


@pytest.mark.parametrize(
    ("version", "ok", "race"),
    [
        ((3, 37, 1), False, False),
        ((3, 37, 2), True, True),
        ((3, 44, 5), True, True),
        ((3, 44, 6), True, False),
        ((3, 45, 0), True, True),
        ((3, 50, 7), True, False),
        ((3, 51, 2), True, True),
        ((3, 51, 3), True, False),
        ((3, 53, 0), True, False),
    ],
)
def test_what_a_version_of_sqlite_can_do_to_the_file_is_told(
    version: tuple[int, int, int], ok: bool, race: bool
) -> None:
    is_ok, detail = doctor.check_sqlite(version)
    assert (is_ok, "let sqlsched alone write" in detail) == (ok, race)


def test_time_zones_and_their_release_are_told(db: Path, details: Callable[[], Checks]) -> None:
    assert db.exists()
    assert re.match(r"tzdata 20\d\d[a-z]", details()["time-zones"])


def test_a_clock_that_was_never_set_is_named() -> None:
    assert doctor.check_clock(1_700_000_000 * SECOND_US) == (
        False,
        "2023-11-14T22:13:20+00:00 cannot be; set the clock",
    )
    assert doctor.check_clock(1_704_067_200 * SECOND_US)[0]


# -- the database as a whole ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "check", "words"),
    [
        *(
            (f"CREATE {what}", "database", "'planted'")
            for what in (
                "TRIGGER planted AFTER INSERT ON runs BEGIN SELECT 1; END",
                "VIEW planted AS SELECT 1",
            )
        ),
        ("DROP INDEX schedules_due", "format", "index schedules_due"),
    ],
)
def test_what_does_not_belong_into_the_database_or_is_missing_is_named(
    db: Path, failed: Failed, statement: str, check: str, words: str
) -> None:
    sql(db, statement)
    assert list(failed()) == [check]
    assert words in failed()[check]


def serve(path: Path, now_us: int) -> files.OwnerLock:
    """Enter somebody who serves the database."""
    with closing(open_for_writing(path)) as database:
        return owners.register(database, "boot", now_us)[1]


@pytest.mark.parametrize(("ahead_us", "ok"), [(59 * MINUTE_US, True), (61 * MINUTE_US, False)])
def test_a_clock_behind_the_record_is_named_as_run_would_wait(
    db: Path, failed: Failed, ahead_us: int, ok: bool
) -> None:
    serve(db, doctor_now() + ahead_us).release()
    found = failed()
    assert list(found) == ([] if ok else ["record"])
    assert ok or "--accept-clock" in found["record"]


def test_another_program_that_locks_the_database_is_told_of(db: Path, failed: Failed) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "is locked by another program" in failed()["writing"]
        other.execute("ROLLBACK")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        assert "is locked by another program" in str(failed())


def test_a_file_that_cannot_be_written_to_is_named(db: Path, failed: Failed) -> None:
    db.chmod(0o444)
    assert list(failed()) == ["writing"]
    assert "is read-only" in failed()["writing"]


def test_a_group_that_may_write_is_told_of(
    db: Path, failed: Failed, details: Callable[[], Checks]
) -> None:
    db.chmod(0o660)
    assert failed() == {}
    assert "its group can write to it" in details()["file"]


def test_who_holds_the_gate_is_named(db: Path, failed: Failed) -> None:
    gate = files.Gate(db)
    with gate.held(1):
        assert list(failed()) == ["writing"]
        assert f"process {os.getpid()} is writing" in failed()["writing"]
    gate.close()


# -- what runs ------------------------------------------------------------------------------------


def test_nobody_need_run_while_nothing_is_late(
    db: Path, failed: Failed, details: Callable[[], Checks]
) -> None:
    assert details()["running"] == "nobody is running; nothing is overdue"
    shift(db, -50)
    assert failed() == {}
    shift(db, -70)
    assert re.fullmatch(
        r"nobody is running, and old has been due since 20\S+ \(1m1\ds\)", failed()["running"]
    )


def test_what_is_paused_is_not_late(sqlsched: Sqlsched, db: Path, failed: Failed) -> None:
    shift(db, -7000)
    sqlsched("trigger", "old")
    sql(db, "UPDATE runs SET due_us = due_us - 70000000")
    assert "running" in failed()
    sql(db, "UPDATE runs SET manual_key = 0, attempt = 2")
    sqlsched("pause", "old")
    assert failed() == {}


@pytest.mark.parametrize("status", ["waiting", "claimed"])
def test_a_run_that_nobody_starts_is_late(
    sqlsched: Sqlsched, db: Path, failed: Failed, status: str
) -> None:
    serve(db, doctor_now()).release()
    sqlsched("trigger", "old")
    sql(db, "UPDATE runs SET status = ?, owner = 1, due_us = due_us - 70000000", status)
    assert list(failed()) == ["running"]
    assert "old has been due since" in failed()["running"]


def test_a_late_copy_is_named_with_its_source(db: Path, failed: Failed) -> None:
    shift(db, -70)
    sql(db, "UPDATE schedules SET source = 'label:app'")
    assert failed()["running"].endswith("s, from label:app)")


def test_who_runs_is_named_and_is_late_too(
    db: Path, failed: Failed, details: Callable[[], Checks]
) -> None:
    lock = serve(db, doctor_now())
    me = rf"process {os.getpid()} since 20\S+"
    assert re.fullmatch(rf"{me}; nothing is overdue", details()["running"])
    shift(db, -70)
    assert re.match(rf"{me}, and old has been due since", failed()["running"])
    lock.release()
    assert failed()["running"].startswith("nobody is running, and")


def test_who_gives_no_sign_of_life_is_named(db: Path, failed: Failed) -> None:
    lock = serve(db, doctor_now() - 2 * MINUTE_US)
    assert failed() == {}
    sql(db, "UPDATE owners SET seen_us = seen_us - 120000000")
    assert f"no sign of life from {os.getpid()} since 20" in failed()["running"]
    lock.release()
    assert failed() == {}


def test_a_program_that_runs_is_healthy_and_one_that_is_stopped_is_found_by_what_is_late(
    sqlsched: Sqlsched, db: Path, failed: Failed, start_program: Callable[..., Program]
) -> None:
    program = start_program("sqlsched", "run")
    wait_for(lambda: "serving" in program.said())
    assert failed() == {}
    os.kill(program.process.pid, signal.SIGSTOP)
    sqlsched("trigger", "old")
    sql(db, "UPDATE runs SET due_us = due_us - 70000000")
    assert failed()["running"].startswith(f"process {program.process.pid} since ")


NONSENSE = (
    *("cron = 'nonsense', interval_s = NULL", "cron = '99 9 9 9 9', interval_s = NULL"),
    *("cron = '* * * * *', cron_offset = 'Mars/Olympus', interval_s = NULL", "interval_s = -5"),
    *("args = '['", "args = '{}'", "kwargs = '[1]'", "labels = '7'", "args = '[]'"),
    *("catchup_window = 3.5", "task_name = 'no task'", "max_runs = 0", "coalesce = 'none'"),
    *("next_us = 1 << 62", "created_us = -(1 << 62)", "schedule_id = 'a b'", "note = x'00'"),
    *("interval_s = NULL, time_us = 1 << 62", "start_us = 1 << 62"),
)


@pytest.mark.parametrize("change", NONSENSE)
def test_a_row_that_cannot_be_read_is_named(
    sqlsched: Sqlsched, db: Path, failed: Failed, change: str
) -> None:
    for name in ("b", "c"):  # of which something is known when the bad one comes
        sqlsched(*HOURLY, name, "--shell", "true")
    try:
        sql(db, f"UPDATE schedules SET {change} WHERE schedule_id = 'b'")  # noqa: S608
    except sqlite3.IntegrityError:
        return
    found = failed()
    assert "schedules" in found or "integrity" in found, found
    if "schedules" in found:
        assert ("a b: " if "a b" in change else "cannot be read: b: ") in found["schedules"]
        assert "more" not in found["schedules"]


def test_rows_that_have_something_in_common_are_each_read(
    sqlsched: Sqlsched, db: Path, failed: Failed
) -> None:
    for number in range(5):
        sqlsched("add", "--at", "2040-01-01", "--id", f"n{number}", "--label", f"n={number}", "m:f")
    db.with_name("m.py").write_text("def f(): pass")
    assert failed() == {}
    sql(db, "UPDATE schedules SET labels = '[]', time_us = -1 WHERE schedule_id GLOB 'n[0-9]'")
    assert re.match(r"cannot be read: n0: .*; n1: .*; n2: .*; and 2 more", failed()["schedules"])


@pytest.fixture
def tasks(sqlsched: Sqlsched, db: Path) -> Callable[..., None]:
    """Write a module and add a schedule for each of its tasks, twice."""

    def make(source: str, *names: str) -> None:
        db.with_name("jobs.py").write_text(source)
        for name in names:
            for copy in "ab":
                assert sqlsched(*HOURLY, f"{name}-{copy}", f"jobs:{name}").returncode == 0

    return make


def test_a_task_that_cannot_be_imported_is_named(
    tasks: Callable[..., None], failed: Failed
) -> None:
    tasks("def good(): pass\nnumber = 1", "good", "gone", "number")
    assert failed()["tasks"] == (
        "jobs:gone (gone-a): there is no 'gone' in jobs; "
        "jobs:number (number-a): jobs:number is of type int, which cannot be called"
    )


def test_tasks_are_imported_once_in_another_process_and_in_its_directory(
    sqlsched: Sqlsched, tasks: Callable[..., None], tmp_path: Path
) -> None:
    tasks(
        "import os\nopen('pids', 'a').write(f'{os.getpid()} ')\ndef one(): pass\ntwo = one", "two"
    )
    sqlsched(*HOURLY, "one", "jobs:one")
    (tmp_path / "app").mkdir()
    (tmp_path / "jobs.py").rename(tmp_path / "app" / "jobs.py")
    assert sqlsched("doctor", "--app-dir", "app").returncode == 0
    (pid,) = (tmp_path / "app" / "pids").read_text().split()
    assert int(pid) != os.getpid()
    assert "jobs" not in sys.modules
    result = sqlsched("doctor")
    assert "there is no module 'jobs'" in result.stdout


def test_an_import_that_ends_its_process_or_never_ends_is_named_and_the_others_are_tried(
    tasks: Callable[..., None], failed: Failed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_NAMED", 9)
    left_behind = f"77.{os.getpid()}"
    tasks(
        "import os, signal, subprocess, sys, time\n"
        "def good(): pass\n"
        "def __getattr__(name):\n"
        "    if name == 'quits': os._exit(0)\n"
        "    if name == 'exits': sys.exit(3)\n"
        "    if name == 'dies': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if name == 'hangs':\n"
        f"        subprocess.Popen(['sleep', '{left_behind}'])\n"
        "        assert 5 < signal.setitimer(signal.ITIMER_REAL, 0.1)[0] <= 10\n"
        "        open('started', 'w')\n"
        "        time.sleep(60)\n"
        "    if name == 'prints': print('[1]', flush=True); return good\n"
        "    raise AttributeError(name)\n",
        *("quits", "exits", "dies", "prints", "hangs", "good"),
    )
    found = failed()["tasks"].split("; ")
    assert found == [
        "jobs:dies (dies-a): its import ended the process by signal 11",
        "jobs:exits (exits-a): SystemExit on import",
        "jobs:hangs (hangs-a): its import took more than 10 s",
        "jobs:quits (quits-a): its import ended the process with status 0",
    ]
    assert (tmp_path / "started").exists()
    wait_for(lambda: not any(left_behind in line for line in _processes()))


def _processes() -> Iterator[str]:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            yield (place / "cmdline").read_text()
        except OSError:
            continue


def test_what_there_is_no_time_for_is_told(
    tasks: Callable[..., None],
    failed: Failed,
    details: Callable[[], Checks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks("import time\ntime.sleep(60)\ndef slow(): pass", "slow")
    monkeypatch.setattr(trial, "ALL_SECONDS", 0.3)
    assert failed() == {}
    assert details()["tasks"] == "2 can be found; 1 more for want of time not tried"


def test_a_name_that_only_a_broker_knows_is_its_business(
    sqlsched: Sqlsched, db: Path, failed: Failed
) -> None:
    sqlsched(*HOURLY, "x", "m:f")
    for name in ("heavy", "app:main.<locals>.task", "__main__:task"):
        sql(db, "UPDATE schedules SET task_name = ? WHERE schedule_id = 'x'", name)
        assert failed() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others")
def test_root_does_not_run_the_code_of_others(
    tasks: Callable[..., None], db: Path, failed: Failed, details: Callable[[], Checks]
) -> None:
    tasks("open('ran', 'w')", "gone")
    os.chown(db, 12345, 12345)
    os.chown(db.parent, 12345, 12345)
    assert failed() == {}
    assert "user 12345" in details()["tasks"]
    assert not db.with_name("ran").exists()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("nonesuch --all | sort", "nonesuch"),
        ("A=1 B=x/y nonesuch", "nonesuch"),
        ("  ./nonesuch;ls", "./nonesuch"),
        ("/bin/nonesuch&", "/bin/nonesuch"),
        ("curl -fsS https://example.org >/dev/null", "curl"),
        ("[ -e x ] && y", None),
        ("(cd x; y)", None),
        ("$HOME/bin/x", None),
        ("~/x", None),
        ('"my program" x', None),
        ("x() { y; }; x", None),
        ('A="b c" nonesuch', None),
        ("2>/dev/null nonesuch", None),
    ],
)
def test_the_command_of_a_plain_line_is_found(line: str, word: str | None) -> None:
    assert trial.first_word(line) == word


def run_of(argument: str | Sequence[str]) -> tuple[str, ...]:
    return ("--shell", argument) if isinstance(argument, str) else ("--", *argument)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nonesuch x", "nonesuch x (x): there is no command 'nonesuch'"),
        ("./script.sh x", None),
        ("./gone.sh x", "there is no command './gone.sh'"),
        ("./data x", "there is no command './data'"),
        ("cd app && ls", None),
        ("if true; then date; fi", None),
        (["nonesuch", "x"], "nonesuch (x): there is no such program"),
        (["./script.sh"], None),
        (["./data"], "there is no such program"),
        (["cd", "app"], "cd (x): there is no such program"),
        (["/bin/sh", "-c", "nonesuch"], None),
    ],
)
def test_a_command_that_is_not_there_is_named(
    sqlsched: Sqlsched,
    db: Path,
    failed: Failed,
    what: str | Sequence[str],
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = db.with_name("app")
    app.mkdir()
    (app / "script.sh").touch(0o755)
    (app / "data").touch(0o644)
    sqlsched(*HOURLY, "x", *run_of(what))
    monkeypatch.chdir(app)
    found = failed("--db", "../sqlsched.db")
    assert words in found.get("tasks", "") if words else found == {}


def test_what_is_paused_or_done_is_not_tried(sqlsched: Sqlsched, db: Path, failed: Failed) -> None:
    sqlsched(*HOURLY, "x", "nonesuch:task")
    sqlsched(*HOURLY, "y", "--shell", "nonesuch")
    assert set(failed()) == {"tasks"}
    sqlsched("pause", "x")
    sql(
        db,
        "UPDATE schedules SET next_us = NULL, wake_us = NULL, max_runs = 1 WHERE schedule_id = 'y'",
    )
    assert failed() == {}


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        ("wake_us = NULL", False),
        ("wake_us = NULL, paused_us = 1", True),
        ("wake_us = NULL, shared = 1", True),
        ("wake_us = NULL, next_us = NULL", False),
        ("wake_us = NULL, next_us = NULL, max_runs = 3", True),
        ("wake_us = NULL, next_us = NULL, end_us = start_us", True),
        ("wake_us = NULL, next_us = NULL, end_us = 32503680000000000", False),
        ("wake_us = NULL, next_us = NULL, interval_s = NULL, time_us = 1", True),
    ],
)
def test_a_schedule_that_will_not_fire_again_though_it_should_is_named(
    db: Path, failed: Failed, change: str, ok: bool
) -> None:
    sql(db, "UPDATE schedules SET start_us = created_us")
    sql(db, f"UPDATE schedules SET {change}")  # noqa: S608
    found = failed()
    assert list(found) == ([] if ok else ["firing"])
    assert ok or found["firing"].startswith("will not fire again: old: ")


@pytest.mark.parametrize(("status", "stuck"), [("running", True), ("claimed", True)])
def test_a_run_that_nobody_has_is_named(
    sqlsched: Sqlsched, db: Path, failed: Failed, status: str, stuck: bool
) -> None:
    serve(db, doctor_now()).release()
    sqlsched("trigger", "old")
    sql(db, "UPDATE runs SET owner = 1, status = ?", status)
    assert failed() == {}, "the next run takes over from who died"
    sql(db, "UPDATE owners SET stopped_us = 1")
    assert list(failed()) == ["firing"]
    assert "its run 1 is" in failed()["firing"]
    assert stuck


def runs(path: Path, *statuses: str, schedule_id: str = "old") -> None:
    """The latest runs of a schedule, oldest first."""
    for number, status in enumerate(statuses):
        ended = None if status in {"running", "waiting"} else number * DAY_US
        sql(
            path,
            """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
                   due_us, started_us, finished_us, error)
               VALUES (?1, 'm:f', ?2, 1, 'schedule', ?3, ?2, ?5, ?4, ?3 || '!')""",
            *(schedule_id, number * DAY_US, status, ended),
            None if status in {"skipped", "missed", "waiting"} else number * DAY_US,
        )


BAD = ("failed", "timed_out", "failed")


@pytest.mark.parametrize(
    ("statuses", "times"),
    [
        (("succeeded", *BAD), 3),
        (BAD[:2], None),
        ((*BAD, "succeeded"), None),
        (("failed", "succeeded", "failed", "failed"), None),
        ((*BAD, "skipped", "missed", "running", "waiting"), 3),
        ((*BAD, *BAD), 6),
        ((*BAD, "abandoned"), None),
    ],
)
def test_a_schedule_that_fails_each_time_is_named(
    sqlsched: Sqlsched, db: Path, failed: Failed, statuses: Sequence[str], times: int | None
) -> None:
    serve(db, 1).release()
    runs(db, *statuses)
    sql(db, "UPDATE runs SET owner = 1")
    sql(db, "UPDATE runs SET held = 1 WHERE status = 'waiting'")
    found = failed()
    if times is None:
        assert found == {}
    else:
        start = f"old has failed {times} times in a row, last at 1970-01-0"
        assert found.pop("failing").startswith(start)
        assert found == {}
        sqlsched("pause", "old")
        assert failed() == {}

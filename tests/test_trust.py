"""Whoever can write a database decides what is executed: by whom else it could be, it is refused.

Where a test needs files of somebody else, it takes root, and acts as that somebody.
"""

import grp
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.storage import trust

Sqlsched = Callable[..., CompletedProcess[str]]

ADD = ("add", "--id", "new", "--every", "5m", "--shell", "true")
COMMANDS = (("list",), ("history",), ADD, ("run", "--once", "--broker", "in-process"))
MALLORY, ALICE = 64_001, 64_002
"""Numbers that no account has."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of somebody else")


# -- the rule, on made-up files and groups --------------------------------------------------------

US = os.geteuid()
ANNE, BOB = 1001, 1002
USERS = {"root": (0, 0), "anne": (ANNE, 100), "bob": (BOB, 200), "us": (US, 300)}
"""Accounts: user id and primary group."""
GROUPS = {100: ("anne", []), 200: ("staff", []), 300: ("us", ["root"]), 400: ("us2", ["us"])}
GROUPS |= {500: ("web", ["us", "bob"]), 600: ("empty", []), 0: ("root", [])}
"""Groups: name and members beside those whose primary group it is."""


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the accounts and groups above."""
    users = [
        pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))
        for name, (uid, gid) in USERS.items()
    ]
    groups = {
        gid: grp.struct_group((name, "x", gid, members)) for gid, (name, members) in GROUPS.items()
    }
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(pwd, "getpwuid", {user.pw_uid: user for user in users}.__getitem__)
    monkeypatch.setattr(grp, "getgrgid", groups.__getitem__)
    monkeypatch.setattr(os, "geteuid", lambda: US)


def status(mode: int, uid: int = US, gid: int = 300) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize(
    ("mode", "gid", "named"),
    [
        (0o600, 500, None),
        (0o644, 500, None),
        (0o666, 300, "everyone"),
        (0o602, 300, "everyone"),
        (0o664, 300, None),  # our own group; root may what it likes
        (0o664, 400, None),
        (0o660, 600, None),
        (0o660, 500, "group web"),
        (0o660, 200, "group staff"),  # Bob's primary group
        (0o660, 999, "group 999"),
    ],
)
def test_what_others_can_write_is_not_trusted(mode: int, gid: int, named: str | None) -> None:
    problem = trust.problem_of(status(mode, gid=gid))
    assert (named is None) == (problem is None)
    assert (named or "") in (problem or "")


@pytest.mark.usefixtures("accounts")
def test_a_group_without_a_name_is_its_owners_if_it_is_his_primary_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(GROUPS, 300)
    monkeypatch.setattr(grp, "getgrgid", {}.__getitem__)
    assert trust.problem_of(status(0o660, gid=300)) is None
    assert "group 200" in str(trust.problem_of(status(0o660, gid=200)))


@pytest.mark.usefixtures("accounts")
def test_a_file_belongs_to_us_unless_we_are_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ANNE)
    assert "belongs to user 1002" in str(trust.problem_of(status(0o600, BOB)))
    assert trust.problem_of(status(0o600, ANNE)) is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert trust.problem_of(status(0o600, BOB)) is None
    assert "belongs to" in str(trust.problem_of(status(0o600, BOB), {0, ANNE}))


# -- real files -----------------------------------------------------------------------------------


def refused(result: CompletedProcess[str], *named: str) -> bool:
    """Exit status 1 and one line, which names these."""
    return (
        result.returncode == 1
        and result.stdout == ""
        and result.stderr.startswith("Error: ")
        and result.stderr.count("\n") == 1
        and all(name in result.stderr for name in named)
    )


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, sqlsched: Sqlsched) -> Iterator[Path]:
    """A directory that others than root can reach, with the current one in it.

    Every command has been called once, so that its modules are there for who cannot read them.
    """
    monkeypatch.setattr(sys, "path", [*sys.path])
    for command in (ADD, *COMMANDS):
        assert sqlsched(*command).returncode == 0
    directory = Path(tempfile.mkdtemp())
    monkeypatch.chdir(directory)
    yield directory
    shutil.rmtree(directory)


@contextmanager
def acting_as(user: int, group: int | None = None) -> Iterator[None]:
    """For a while this process may do what that user may."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user if group is None else group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def give(path: Path, user: int) -> None:
    os.chown(path, user, user)


@pytest.fixture
def alices(place: Path, sqlsched: Sqlsched) -> Path:
    """A database of hers, in a directory of hers."""
    give(place, ALICE)
    with acting_as(ALICE):
        assert sqlsched(*ADD).returncode == 0
        assert sqlsched("list").returncode == 0
    return place / "sqlsched.db"


@needs_root
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_somebody_elses_database_is_refused_by_all_but_root(
    sqlsched: Sqlsched, alices: Path, command: tuple[str, ...]
) -> None:
    for path in alices.parent.iterdir():
        give(path, MALLORY)
    with acting_as(ALICE):
        assert refused(sqlsched(*command), "sqlsched.db belongs to user 64001")
    assert sqlsched(*command).returncode == 0


@needs_root
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_link_leads_to_no_trust(
    sqlsched: Sqlsched, alices: Path, command: tuple[str, ...]
) -> None:
    give(alices, MALLORY)
    alices.with_name("link.db").symlink_to(alices)
    with acting_as(ALICE):
        assert refused(sqlsched("--db", "link.db", *command), "link.db belongs to user 64001")


def test_a_link_to_a_file_of_roots_is_refused_by_others(sqlsched: Sqlsched, place: Path) -> None:
    (place / "sqlsched.db").symlink_to("/etc/passwd")
    if os.geteuid():
        assert refused(sqlsched("list"), "sqlsched.db belongs to user 0")
    else:
        assert refused(sqlsched("list"), "sqlsched.db is not a SQLite database")


@needs_root
def test_a_link_in_a_directory_that_others_write_is_refused(
    sqlsched: Sqlsched, alices: Path
) -> None:
    drawer = alices.parent / "drawer"
    drawer.mkdir()
    drawer.chmod(0o777)
    (drawer / "link.db").symlink_to(alices)
    with acting_as(ALICE):
        assert refused(sqlsched("--db", "drawer/link.db", "list"), "link.db", "everyone")


@needs_root
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_directory_of_somebody_else_is_refused_with_or_without_a_database(
    sqlsched: Sqlsched, alices: Path, command: tuple[str, ...]
) -> None:
    give(alices.parent, MALLORY)
    alices.parent.chmod(0o1777)
    with acting_as(ALICE):
        assert refused(sqlsched(*command), "sqlsched.db", "belongs to user 64001")
        assert refused(sqlsched("--db", "none.db", *ADD), "none.db", "belongs to user 64001")
    assert not (alices.parent / "none.db").exists()


@needs_root
def test_in_a_sticky_directory_of_roots_everyone_has_a_database(
    sqlsched: Sqlsched, place: Path
) -> None:
    place.chmod(0o1777)
    for user, name in (ALICE, "hers.db"), (MALLORY, "his.db"):
        with acting_as(user):
            assert sqlsched("--db", name, *ADD).returncode == 0
    with acting_as(ALICE):
        assert sqlsched("--db", "hers.db", "list").returncode == 0
        assert refused(sqlsched("--db", "his.db", "list"), "his.db belongs to user 64001")


@needs_root
@pytest.mark.parametrize("suffix", trust.BESIDE)
def test_what_somebody_else_put_beside_it_is_refused_before_it_is_believed(
    sqlsched: Sqlsched, place: Path, suffix: str
) -> None:
    place.chmod(0o1777)
    planted = place / f"sqlsched.db{suffix}"
    planted.touch()
    give(planted, MALLORY)
    with acting_as(ALICE):
        assert refused(sqlsched(*ADD), planted.name, "belongs to user 64001")
    assert refused(sqlsched(*ADD), planted.name, "belongs to user 64001"), "nor by root"
    planted.unlink()
    with acting_as(ALICE):
        assert sqlsched(*ADD).returncode == 0


def test_beside_it_lie_no_links_and_nothing_that_others_write(
    sqlsched: Sqlsched, place: Path
) -> None:
    assert sqlsched(*ADD).returncode == 0
    beside = place / "sqlsched.db-journal"
    beside.symlink_to("/etc/passwd")
    assert refused(sqlsched("list"), "sqlsched.db-journal is not a regular file")
    beside.unlink()
    beside.touch(0o600)
    beside.chmod(0o666)
    assert refused(sqlsched("list"), "sqlsched.db-journal is writable by everyone")
    beside.chmod(0o600)
    os.link(beside, place / "other")
    assert refused(sqlsched("list"), "sqlsched.db-journal has more than one hard link")
    (place / "other").unlink()
    assert sqlsched("list").returncode == 0


@needs_root
def test_a_wal_that_was_planted_changes_nothing(sqlsched: Sqlsched, place: Path) -> None:
    """What SQLite alone would do: take the pages of whoever left a log beside the file."""
    with closing(sqlite3.connect(place / "his.db", isolation_level=None)) as his:
        his.execute("PRAGMA journal_mode = WAL")
        his.execute("CREATE TABLE planted (x)")
        shutil.copy(place / "his.db-wal", place / "sqlsched.db-wal")
    give(place / "sqlsched.db-wal", MALLORY)
    place.chmod(0o1777)
    with acting_as(ALICE):
        assert refused(sqlsched(*ADD), "sqlsched.db-wal belongs to user 64001")
    assert not (place / "sqlsched.db").exists()


@needs_root
def test_a_group_with_others_in_it_must_not_write(sqlsched: Sqlsched, alices: Path) -> None:
    daemon = grp.getgrnam("daemon").gr_gid  # the primary group of an account of that name
    os.chown(alices, ALICE, daemon)
    alices.chmod(0o660)
    with acting_as(ALICE):
        for command in COMMANDS:
            assert refused(sqlsched(*command), "sqlsched.db is writable by group daemon")
    alices.chmod(0o640)
    os.chown(alices.parent, ALICE, daemon)
    alices.parent.chmod(0o770)
    with acting_as(ALICE):
        for command in COMMANDS:
            assert refused(sqlsched(*command), "sqlsched.db", "group daemon can write to")
        assert refused(sqlsched("--db", "none.db", *ADD), "none.db", "group daemon")
    alices.parent.chmod(0o1770)
    with acting_as(ALICE):
        assert sqlsched("list").returncode == 0


@needs_root
def test_a_group_of_ones_own_may_write_with_a_warning(sqlsched: Sqlsched, alices: Path) -> None:
    alices.chmod(0o660)
    alices.parent.chmod(0o775)
    with acting_as(ALICE):
        result = sqlsched(*ADD)
        assert (result.returncode, result.stdout) == (0, "new\n")
        assert result.stderr.startswith("Warning: sqlsched.db is writable by its group: ")
        assert sqlsched("list").stderr == ""


@needs_root
def test_a_directory_of_roots_for_a_group_of_ones_own_is_fine(
    sqlsched: Sqlsched, place: Path
) -> None:
    os.chown(place, 0, grp.getgrnam("daemon").gr_gid)
    place.chmod(0o2775)
    daemon = pwd.getpwnam("daemon")
    with acting_as(daemon.pw_uid, daemon.pw_gid):
        assert sqlsched(*ADD).returncode == 0


@needs_root
def test_what_root_makes_beside_a_database_belongs_to_its_owner(
    sqlsched: Sqlsched, alices: Path
) -> None:
    (alices.parent / "sqlsched.db-gate").unlink()
    assert sqlsched("trigger", "new").returncode == 0
    assert {path.stat().st_uid for path in alices.parent.iterdir()} == {ALICE}
    with acting_as(ALICE):
        assert sqlsched("trigger", "new").returncode == 0


# -- what is born private -------------------------------------------------------------------------

SERVE = """
import os, sys
os.umask(int(sys.argv[1]))
from sqlsched.cli import main
main(["run", "--broker", "in-process", "--until-idle"])
"""
LIST_FILES = 'ls -ln | grep "^-"; exit 0'


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_while_it_runs_too_every_file_is_private(
    sqlsched: Sqlsched, tmp_path: Path, umask: int
) -> None:
    sqlsched("add", "--id", "it", "--at", "2020-01-01", "--shell", LIST_FILES)
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    subprocess.run([sys.executable, "-c", SERVE, str(umask)], cwd=tmp_path, check=True, timeout=60)
    listed = sqlsched("logs", "--last", "it").stdout.splitlines()
    modes = {line.split()[-1].split("-owner-")[0]: line[:10] for line in listed}
    names = ("sqlsched.db", "sqlsched.db-gate", "sqlsched.db-shm", "sqlsched.db-wal")
    assert modes == dict.fromkeys(names, "-rw-------")
    assert any("-owner-" in line for line in listed)


def test_a_journal_is_as_private_as_its_database(sqlsched: Sqlsched, tmp_path: Path) -> None:
    assert sqlsched(*ADD).returncode == 0
    with closing(sqlite3.connect(tmp_path / "sqlsched.db", isolation_level=None)) as database:
        before = os.umask(0)
        try:
            assert database.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM schedules")
            mode = (tmp_path / "sqlsched.db-journal").stat().st_mode
            database.execute("ROLLBACK")
        finally:
            os.umask(before)
    assert stat.S_IMODE(mode) == 0o600

"""`sqlsched systemd`: a unit that systemd takes, and that starts what was meant."""

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.cli import service

Sqlsched = Callable[..., CompletedProcess[str]]


def settings(unit: str) -> dict[str, str]:
    lines = (line for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def unit_of(result: CompletedProcess[str]) -> dict[str, str]:
    assert (result.returncode, result.stderr) == (0, "")
    return settings(result.stdout)


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root, who has no sandbox."""
    monkeypatch.setattr(service, "_me", lambda: pwd.getpwuid(1))


def verified(unit: str, directory: Path, *options: str) -> None:
    """Let systemd read it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd to ask")
    file = directory / "sqlsched.service"
    file.write_text(unit)
    said = subprocess.run(
        ["systemd-analyze", *options, "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_RUNTIME_DIR": str(directory)},
    )
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.usefixtures("somebody")
def test_systemd_takes_the_unit(sqlsched: Sqlsched, tmp_path: Path) -> None:
    odd = tmp_path / 'with 100% "odd" $HOME \\name'
    odd.mkdir()
    for options in ((), ("--user",)):
        result = sqlsched(
            "--db", str(odd / "a.db"), "systemd", *options, "--", "--app-dir", str(odd)
        )
        assert (result.returncode, result.stderr) == (0, "")
        verified(result.stdout, tmp_path, *options)


def test_a_unit_that_is_wrong_would_be_noticed(sqlsched: Sqlsched, tmp_path: Path) -> None:
    unit = sqlsched("systemd").stdout
    with pytest.raises(AssertionError):
        verified(unit.replace("KillMode=mixed", "KillMode=gentle"), tmp_path)


def test_the_service_starts_what_was_meant_and_drains(sqlsched: Sqlsched, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    arguments = (
        *("--drain", "5m", "--skip-first-run", "--app-dir", "app", "--concurrency", "3"),
        *("--env", "A", "--env", "B", "--env-file", "secret.env"),
    )
    (tmp_path / "secret.env").touch(0o600)
    unit = unit_of(sqlsched("--db", "jobs.db", "systemd", "--", *arguments))
    assert shlex.split(unit["ExecStart"]) == [
        *(sys.executable, "-P", "-m", "sqlsched", "--db", str(tmp_path / "jobs.db"), "run"),
        *("--skip-first-run", "--concurrency", "3", "--app-dir", str(tmp_path / "app")),
        *("--env-file", str(tmp_path / "secret.env"), "--env", "A", "--env", "B"),
        *("--drain", "5m"),
    ]
    assert unit["Type"] == "notify"
    assert unit["Restart"] == "on-failure"
    assert unit["KillMode"] == "mixed"
    assert unit["TimeoutStopSec"] == "330s"
    assert unit["OOMPolicy"] == "continue"
    assert not (tmp_path / "jobs.db").exists()


def test_what_the_service_starts_runs(sqlsched: Sqlsched, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("def hello():\n    print('hello')")
    (tmp_path / "sqlsched.py").write_text("raise SystemExit('the wrong one')")
    sqlsched("add", "--id", "a", "--at", "2026-01-01", "jobs:hello")
    unit = unit_of(sqlsched("systemd", "--", "--broker", "subprocess"))
    command = shlex.split(unit["ExecStart"])
    subprocess.run([*command, "--once"], cwd="/", check=True, stderr=subprocess.DEVNULL)
    assert sqlsched("logs", "--last", "a").stdout == "hello\n"


@pytest.mark.usefixtures("somebody")
def test_tasks_may_write_where_people_write(sqlsched: Sqlsched, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    unit = unit_of(sqlsched("systemd", "--", "--app-dir", "app"))
    home = pwd.getpwuid(1).pw_dir
    assert unit["User"] == pwd.getpwuid(1).pw_name
    assert unit["ProtectSystem"] == "strict"
    assert unit["ReadWritePaths"] == f"{tmp_path} {tmp_path / 'app'} -{home} /tmp /var/tmp"
    assert unit["NoNewPrivileges"] == "yes"
    own = unit_of(sqlsched("systemd", "--user"))
    assert own["NoNewPrivileges"] == "yes"
    assert not {"User", "ProtectSystem"} & set(own)
    assert own["WantedBy"] == "default.target"


@pytest.mark.skipif(os.geteuid() != 0, reason="for root only")
def test_roots_tasks_are_not_locked_in(sqlsched: Sqlsched) -> None:
    assert not {"NoNewPrivileges", "ProtectSystem"} & set(unit_of(sqlsched("systemd")))


def test_a_zip_application_is_started_as_one(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shutil.make_archive(str(tmp_path / "sqlsched"), "zip", tmp_path)
    monkeypatch.setattr(sys, "argv", [archive])
    unit = unit_of(sqlsched("systemd"))
    assert shlex.split(unit["ExecStart"])[:3] == [sys.executable, archive, "--db"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--once",), "--once: a service runs until it is stopped"),
        (("--until-idle",), "--until-idle: a service runs until it is stopped"),
        (("--drain", "soon"), "--drain 'soon': a duration is"),
        (("--keep", "soon"), "--keep 'soon': a duration is"),
        (("--app-dir", "gone"), "--app-dir: there is no directory"),
        (("app:scheduler",), "give --db PATH, the database of 'app:scheduler'"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_what_makes_no_service_is_refused(
    sqlsched: Sqlsched, arguments: tuple[str, ...], said: str
) -> None:
    result = sqlsched("systemd", "--", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_scheduler_of_ones_own_is_served_with_its_database(
    sqlsched: Sqlsched, tmp_path: Path
) -> None:
    unit = unit_of(sqlsched("--db", "a.db", "systemd", "--", "app:scheduler"))
    assert unit["ExecStart"].endswith(
        f"--db {tmp_path}/a.db run app:scheduler --app-dir {tmp_path}"
    )


def test_a_name_that_no_unit_can_hold_is_refused(sqlsched: Sqlsched, tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    result = sqlsched("--db", "a\nb/x.db", "systemd")
    assert (result.returncode, "a unit has no place for such a name" in result.stderr) == (1, True)
    assert service._quoted('a "b" %\\$', "$") == '"a \\"b\\" %%\\\\$$"'

"""`run --env-file` and `--env`: tasks get what they need, and nobody else gets to see it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.cli.environment import TaskEnvironment, read_environment
from sqlsched.exceptions import InvalidScheduleError, SqlschedError

Sqlsched = Callable[..., CompletedProcess[str]]

SECRET = "hunter2-hunter2"  # noqa: S105
PAST = ("--at", "2020-01-01")
JOBS = """
import json, os, pathlib
AT_IMPORT = os.environ.get("TOKEN")

def tell(*names):
    print(json.dumps({name: os.environ.get(name) for name in names}))
def names():
    print(json.dumps(sorted(os.environ)))
def whose_command_line():
    secret = os.environ["TOKEN"].encode()
    lines = (path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"))
    print([line for line in lines if secret in line])
def raise_(*args, **kwargs):
    raise ValueError("of the task's own making")
"""
APP = """
import os
from sqlsched import Broker, InProcessBroker, Scheduler, SubprocessBroker, SqliteScheduleSource
assert os.environ["TOKEN"]
class Queue(Broker):
    reports_completion = False
    async def kick(self, message): return None
queue = Queue()
def inside(): return Scheduler(InProcessBroker(), [SqliteScheduleSource("sqlsched.db")])
def outside(): return Scheduler(SubprocessBroker(), [SqliteScheduleSource("sqlsched.db")])
"""


@pytest.fixture
def run(tmp_path: Path) -> Sqlsched:
    """`sqlsched run --once` in a process of its own, with few variables, one of them secret."""
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "app.py").write_text(APP)
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = plain | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {"PASSWORD": SECRET, "OTHER": "other", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    def call(*arguments: str) -> CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sqlsched", "run", "--once", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """A file with a secret in it."""
    path = tmp_path / "secrets.env"
    path.touch(0o600)
    path.write_text(f"TOKEN={SECRET}\n")
    return path


def output_of(sqlsched: Sqlsched, run: Sqlsched, what: tuple[str, ...], *options: str) -> str:
    """What a schedule's one run printed."""
    assert sqlsched("add", "--id", "it", "--replace", *PAST, *what).returncode == 0
    ran = run(*options)
    assert ran.returncode == 0, ran.stderr
    return sqlsched("logs", "--last", "it").stdout


# -- what tasks get -------------------------------------------------------------------------------


def tell(*names: str) -> tuple[str, ...]:
    return ("--args", json.dumps(names), "jobs:tell")


@pytest.mark.parametrize("broker", ["subprocess", "in-process"])
@pytest.mark.parametrize(
    "what", [tell("TOKEN"), ("--shell", 'echo "$TOKEN"'), ("--", "printenv", "TOKEN")]
)
def test_what_a_file_says_reaches_every_kind_of_task(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path, broker: str, what: tuple[str, ...]
) -> None:
    printed = output_of(sqlsched, run, what, "--broker", broker, "--env-file", env_file.name)
    assert SECRET in printed


def test_without_env_a_task_has_all_that_run_has(sqlsched: Sqlsched, run: Sqlsched) -> None:
    printed = output_of(sqlsched, run, tell("PASSWORD", "OTHER"))
    assert json.loads(printed) == {"PASSWORD": SECRET, "OTHER": "other"}


def test_with_env_a_task_has_only_those_and_the_basics_and_the_files(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path
) -> None:
    options = ("--env", "PASSWORD", "--env", "NONE", "--env-file", str(env_file))
    printed = output_of(sqlsched, run, ("jobs:names",), *options)
    names = {name for name in json.loads(printed) if not name.startswith("SQLSCHED_")}
    assert names == {"PATH", "HOME", "LC_ALL", "TZ", "PASSWORD", "TOKEN"}
    assert "SQLSCHED_TASK_ID" in json.loads(printed)


def test_hooks_have_what_tasks_have(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path, tmp_path: Path
) -> None:
    hook = 'printf "%s %s" "$TOKEN" "$OTHER" > told'
    sqlsched("add", *PAST, "jobs:tell", "--on-success", hook)
    run("--env-file", env_file.name, "--env", "PATH")
    assert (tmp_path / "told").read_text() == f"{SECRET} "


@pytest.mark.parametrize("scheduler", ["app:inside", "app:outside"])
def test_an_application_finds_what_the_file_says_when_it_is_imported(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path, scheduler: str
) -> None:
    printed = output_of(sqlsched, run, tell("TOKEN"), scheduler, "--env-file", str(env_file))
    assert json.loads(printed) == {"TOKEN": SECRET}


def test_env_holds_for_an_applications_own_subprocess_broker(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path
) -> None:
    options = ("app:outside", "--env-file", str(env_file), "--env", "OTHER")
    printed = output_of(sqlsched, run, tell("TOKEN", "OTHER", "PASSWORD"), *options)
    assert json.loads(printed) == {"TOKEN": SECRET, "OTHER": "other", "PASSWORD": None}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--broker", "in-process", "--env", "PASSWORD"), "--env PASSWORD: tasks in this process"),
        (("app:inside", "--env-file", "secrets.env", "--env", "OTHER"), "--env OTHER: tasks in"),
        (("--broker", "app:queue", "--env-file", "secrets.env"), "a queue's workers"),
    ],
)
def test_what_a_broker_cannot_give_its_tasks_is_refused(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path, options: tuple[str, ...], said: str
) -> None:
    assert env_file.exists()
    sqlsched("add", *PAST, "--shell", "true")
    ran = run(*options)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran
    assert ran.stderr.startswith("Error: ")
    assert said in ran.stderr
    assert json.loads(sqlsched("history", "--json").stdout) == []


# -- how a file is read ---------------------------------------------------------------------------


def read(path: Path, content: bytes) -> dict[str, str]:
    path.touch(0o600)
    path.write_bytes(content)
    return read_environment((path,), ()).given


def test_lines_are_taken_as_they_are(tmp_path: Path) -> None:
    content = (
        b"# a comment\n\n  \t\nPLAIN=value\n  INDENTED=yes\nQUOTED=\"a 'b'\"\nDOLLAR=$HOME ${X}\n"
        b"BLANKS= a b \nEQUALS=a=b==\nEMPTY=\nHASH=a # b\nmy.odd-name=1\nCR=dos\r\nTWICE=1\n"
        b"TWICE=2\nUTF8=\xc3\xbc\nLATIN1=\xfc\nLAST=no newline"
    )
    assert read(tmp_path / "a", b"\xef\xbb\xbf" + content) == {
        "PLAIN": "value",
        "INDENTED": "yes",
        "QUOTED": "\"a 'b'\"",
        "DOLLAR": "$HOME ${X}",
        "BLANKS": " a b ",
        "EQUALS": "a=b==",
        "EMPTY": "",
        "HASH": "a # b",
        "my.odd-name": "1",
        "CR": "dos",
        "TWICE": "2",
        "UTF8": "ü",
        "LATIN1": os.fsdecode(b"\xfc"),
        "LAST": "no newline",
    }


def test_of_several_files_the_last_counts(tmp_path: Path) -> None:
    paths = (tmp_path / "a", tmp_path / "b")
    read(paths[0], b"A=1\nB=1")
    read(paths[1], b"B=2\nC=2")
    assert read_environment(paths, ()).given == {"A": "1", "B": "2", "C": "2"}


def test_a_pipe_is_a_file_too(sqlsched: Sqlsched, tmp_path: Path) -> None:
    assert sqlsched("add", "--id", "it", *PAST, "--shell", 'echo "$TOKEN"').returncode == 0
    command = f"{sys.executable} -m sqlsched run --once --env-file /dev/stdin"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        ["/bin/sh", "-c", f"printf 'TOKEN=piped' | {command}"],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=60,
    )
    assert sqlsched("logs", "--last", "it").stdout == "piped\n"


@pytest.mark.parametrize(
    "line",
    [
        f"TOKEN {SECRET}",
        SECRET,
        f"={SECRET}",
        f"export TOKEN={SECRET}",
        f"TOKEN ={SECRET}",
        f"TOKEN={SECRET}\0",
        f"TO\0KEN={SECRET}",
    ],
)
def test_a_bad_line_is_named_by_its_number_and_not_shown(
    sqlsched: Sqlsched, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "bad.env"
    path.touch(0o600)
    path.write_text(f"# {SECRET}\nGOOD={SECRET}\n{line}\n")
    result = sqlsched("run", "--env-file", "bad.env")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "Error: --env-file 'bad.env' line 3: give NAME=VALUE, without blanks in the name\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bad.env"]


@pytest.mark.parametrize("argument", [f"TOKEN={SECRET}", f"={SECRET}", "TOKEN=", f"A={SECRET}=B"])
def test_a_value_in_the_command_line_is_refused_and_not_repeated(
    sqlsched: Sqlsched, tmp_path: Path, argument: str
) -> None:
    result = sqlsched("run", "--env", argument)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("Error: --env ")
    assert "--env-file FILE" in result.stderr
    assert SECRET not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", " ", "A B", "\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidScheduleError, match="give the name of a variable"):
        read_environment((), (name,))


def test_a_file_that_cannot_be_read_is_named(sqlsched: Sqlsched, tmp_path: Path) -> None:
    assert "'none.env': No such file" in sqlsched("run", "--env-file", "none.env").stderr
    (tmp_path / "d").mkdir()
    assert "'d': Is a directory" in sqlsched("run", "--env-file", "d").stderr
    assert "more than 1048576 bytes" in sqlsched("run", "--env-file", "/dev/zero").stderr


def test_a_value_that_no_process_can_have_is_one_line(
    sqlsched: Sqlsched, run: Sqlsched, tmp_path: Path
) -> None:
    read(tmp_path / "huge.env", b"HUGE=" + b"x" * 200_000)
    sqlsched("add", *PAST, "--shell", "true")
    ran = run("--env-file", "huge.env")
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (
        1,
        "Error: cannot start a process: Argument list too long",
    )
    assert "Traceback" not in ran.stderr


# -- whose file it is -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_warned_of(
    env_file: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    env_file.chmod(mode)
    assert read_environment((env_file,), ()).given == {"TOKEN": SECRET}
    assert "can be read by others than you; chmod it to 600" in capsys.readouterr().err


def test_a_private_file_is_not_warned_of(
    env_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read_environment((env_file,), ())
    assert capsys.readouterr().err == ""


def test_a_file_that_others_can_write_or_replace_is_refused(
    sqlsched: Sqlsched, env_file: Path
) -> None:
    env_file.chmod(0o602)
    result = sqlsched("run", "--env-file", str(env_file))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "secrets.env is writable by everyone" in result.stderr
    env_file.chmod(0o600)
    env_file.parent.chmod(0o777)
    with pytest.raises(SqlschedError, match="in a directory that everyone can write to"):
        read_environment((env_file,), ())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of somebody else")
def test_a_file_of_somebody_else_is_refused_and_one_of_roots_is_not(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file.chmod(0o640)
    monkeypatch.setattr(os, "geteuid", lambda: 64_002)
    assert read_environment((env_file,), ()).given == {"TOKEN": SECRET}
    assert capsys.readouterr().err == "", "its group is how we are let in"
    os.chown(env_file, 64_001, 64_001)
    with pytest.raises(SqlschedError, match="belongs to user 64001"):
        read_environment((env_file,), ())


def test_a_name_that_is_not_set_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    read_environment((), ("NO_SUCH_VARIABLE",))
    assert "Warning: --env NO_SUCH_VARIABLE: there is no such" in capsys.readouterr().err


# -- who gets to see it ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_process_has_it_in_its_command_line(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path
) -> None:
    options = ("--env-file", env_file.name, "--env", "PASSWORD")
    assert output_of(sqlsched, run, ("jobs:whose_command_line",), *options) == "[]\n"


@pytest.mark.parametrize("broker", ["subprocess", "in-process"])
def test_neither_the_database_nor_the_log_has_it(
    sqlsched: Sqlsched, run: Sqlsched, env_file: Path, tmp_path: Path, broker: str
) -> None:
    sqlsched("add", *PAST, "--shell", "true")
    sqlsched("add", *PAST, "--retries", "1", "jobs:raise_")
    sqlsched("add", *PAST, "--timeout", "1s", "nosuch:task")
    options = ("--env-file", env_file.name, "--log-level", "debug", "--log-format", "json")
    ran = run("--broker", broker, *options)
    assert ran.returncode == 0
    assert ran.stderr.count("\n") >= 8
    assert SECRET not in ran.stdout + ran.stderr
    for path in tmp_path.glob("sqlsched.db*"):
        assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("broker", ["subprocess", "in-process"])
def test_the_log_has_no_arguments_of_tasks(sqlsched: Sqlsched, run: Sqlsched, broker: str) -> None:
    arguments = (
        *("--args", json.dumps([SECRET]), "--kwargs", json.dumps({"password": SECRET})),
        *("--label", f"token={SECRET}", "--note", SECRET),
    )
    sqlsched("add", *PAST, *arguments, "jobs:raise_")
    sqlsched("add", *PAST, *arguments, "jobs:names")  # takes none: a TypeError
    sqlsched("add", *PAST, *arguments, "nosuch:task")
    sqlsched("add", *PAST, "--shell", f"echo {SECRET}; exit 1")
    sqlsched("add", *PAST, "--", "nosuch-program", SECRET)
    ran = run("--broker", broker, "--log-level", "debug")
    assert ran.stderr.count(" failed after ") == 5
    assert SECRET not in ran.stdout + ran.stderr


def test_it_does_not_show_in_a_repr() -> None:
    assert SECRET not in repr(TaskEnvironment((), {"TOKEN": SECRET}))

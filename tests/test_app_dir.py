"""Tasks are imported from `--app-dir`, and from nowhere that is current by accident; what lies
there is for the tasks, and takes nobody else's place."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

BROKERS = ("subprocess", "in-process")
JOBS = """
import os, sys

def path():
    print(sys.path)
def leave(place):
    os.chdir(place)
    import helper
    print(helper.WHOSE)
def stray(place):
    os.chdir(place)
    import accident
def fail():
    raise ValueError("fäil")
async def hello():
    print("hello", sys.modules["socket"].__file__ != __file__)
"""
SHADOW = "raise SystemExit(f'{__name__} was hijacked')"
OURS = {"sqlsched", "click", "aiosqlite", "tabulate", "tzdata", "yarl"}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The application's directory, beside another with modules of its own."""
    app, elsewhere = tmp_path / "app", tmp_path / "elsewhere"
    for place in (app, elsewhere):
        place.mkdir()
        (place / "helper.py").write_text(f"WHOSE = {place.name!r}")
    (app / "jobs.py").write_text(JOBS)
    (elsewhere / "accident.py").touch()
    return app


@pytest.fixture
def run(tmp_path: Path) -> Sqlsched:
    """`sqlsched run --once` in a process of its own, in a directory that is not the app's."""

    def call(*arguments: str) -> CompletedProcess[str]:
        command = (
            "--db",
            "../sqlsched.db",
            "run",
            "--once",
            "--app-dir",
            str(tmp_path / "app"),
            *arguments,
        )
        ran = subprocess.run(
            [sys.executable, "-m", "sqlsched", *command],
            cwd=tmp_path / "elsewhere",
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr
        return ran

    return call


@pytest.fixture
def outcome(sqlsched: Sqlsched, run: Sqlsched) -> Callable[..., str]:
    """Run a task with a broker: what it printed, or why it failed."""

    def call(broker: str, task: str, *args: str) -> str:
        options = ("--args", json.dumps(args)) if args else ()
        assert sqlsched("add", "--id", "it", "--at", "2020-01-01", *options, task).returncode == 0
        run("--broker", broker)
        [it] = json.loads(sqlsched("history", "it", "--json").stdout)
        return str(it["error"] or sqlsched("logs", "--last", "it").stdout)

    return call


@pytest.mark.parametrize("broker", BROKERS)
def test_what_the_current_directory_has_is_not_imported(
    outcome: Callable[..., str], app: Path, broker: str
) -> None:
    assert (app.parent / "elsewhere" / "accident.py").exists()
    assert outcome(broker, "accident:task") == "there is no module 'accident'"


@pytest.mark.parametrize("broker", BROKERS)
def test_a_task_that_goes_elsewhere_still_imports_from_the_app_dir(
    outcome: Callable[..., str], app: Path, broker: str
) -> None:
    assert outcome(broker, "jobs:leave", str(app.parent / "elsewhere")) == "app\n"


@pytest.mark.parametrize("broker", BROKERS)
def test_a_task_that_goes_elsewhere_imports_nothing_there(
    outcome: Callable[..., str], app: Path, broker: str
) -> None:
    failure = outcome(broker, "jobs:stray", str(app.parent / "elsewhere"))
    assert failure == "ModuleNotFoundError: No module named 'accident'"


@pytest.mark.parametrize("broker", BROKERS)
def test_the_app_dir_is_all_that_is_added_to_the_path(
    outcome: Callable[..., str], app: Path, broker: str
) -> None:
    plain = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; print(sys.path)"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome(broker, "jobs:path") == f"['{app}', {plain.stdout[1:]}"


@pytest.mark.parametrize("broker", BROKERS)
def test_modules_of_every_name_in_the_app_dir_hijack_nothing(
    sqlsched: Sqlsched, run: Sqlsched, app: Path, broker: str
) -> None:
    for name in sys.stdlib_module_names | OURS:
        if not (name.startswith("__") or name in {"os", "sys"}):
            (app / f"{name}.py").write_text(SHADOW)
    due = ("--at", "2020-01-01")
    zone = ("--cron", "* * * * *", "--start", "2020-01-01", "--tz", "Europe/Berlin")
    sqlsched("add", "--id", "hello", *due, "jobs:hello")
    sqlsched("add", "--id", "fail", *due, "--retries", "1", "--jitter", "1s", "jobs:fail")
    sqlsched("add", "--id", "none", *due, "nosuch:task")
    sqlsched("add", "--id", "line", *zone, "--shell", "echo line")
    sqlsched("add", "--id", "words", *due, "--", "nosuch-program")
    said = run("--broker", broker, "--log-format", "json").stderr
    runs = json.loads(sqlsched("history", "--json").stdout)
    assert "hijacked" not in said + json.dumps(runs)
    errors = {run["schedule_id"]: run["error"] for run in reversed(runs) if run["started_at"]}
    assert errors.pop("line", None) is None
    assert errors == {
        "hello": None,
        "fail": "ValueError: fäil",
        "none": "there is no module 'nosuch'",
        "words": "there is no program 'nosuch-program'",
    }
    assert sqlsched("logs", "--last", "hello").stdout == "hello True\n"
    assert "Traceback" in sqlsched("logs", "--last", "fail").stdout

"""`sqlsched run` as a program: its options, its log, when it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

PAST = ("--at", "2020-01-01T00:00")


@pytest.fixture
def run(tmp_path: Path) -> Sqlsched:
    """`sqlsched run` in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "SQLSCHED_DB"}

    def call(*arguments: str) -> CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sqlsched", "run", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


def history(sqlsched: Sqlsched, *arguments: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(sqlsched("history", "--json", *arguments).stdout)
    return runs


def test_run_makes_the_database_and_without_work_is_idle(run: Sqlsched, tmp_path: Path) -> None:
    result = run("--until-idle", "--broker", "in-process")
    assert (result.returncode, result.stdout) == (0, "")
    assert (tmp_path / "sqlsched.db").exists()


@pytest.mark.parametrize("broker", ["in-process", "subprocess"])
def test_the_brokers_run_python_tasks_from_the_app_dir(
    sqlsched: Sqlsched, run: Sqlsched, tmp_path: Path, broker: str
) -> None:
    place = tmp_path / "app"
    place.mkdir()
    (place / "jobs.py").write_text(
        "def greet(name, *, mark='.'):\n    print('hello ' + name + mark)"
    )
    greeting = ("--args", '["Zoë"]', "--kwargs", '{"mark": "!"}')
    sqlsched("add", "--id", "it", *PAST, *greeting, "jobs:greet")
    result = run("--until-idle", "--broker", broker, "--app-dir", "app")
    assert (result.returncode, result.stdout) == (0, ""), result
    assert sqlsched("logs", "--last", "it").stdout == "hello Zoë!\n"
    [it] = history(sqlsched, "it")
    assert it["status"] == "succeeded"


def test_once_runs_what_is_due_and_leaves_the_rest(sqlsched: Sqlsched, run: Sqlsched) -> None:
    sqlsched("add", "--id", "due", *PAST, "--shell", "exit 7")
    sqlsched("add", "--id", "ahead", "--every", "1h", "--shell", "true")
    result = run("--once", "--broker", "in-process")
    assert result.returncode == 0
    assert [(run["schedule_id"], run["exit_code"]) for run in history(sqlsched)] == [("due", 7)]


def test_until_idle_ends_when_all_that_is_left_is_paused(sqlsched: Sqlsched, run: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--paused", "--shell", "true")
    assert run("--until-idle", "--broker", "in-process").returncode == 0
    assert history(sqlsched) == []


def test_the_catchup_window_is_for_schedules_that_have_none(
    sqlsched: Sqlsched, run: Sqlsched
) -> None:
    sqlsched("add", "--id", "own", *PAST, "--catchup-window", "unlimited", "--shell", "true")
    run("--once", "--broker", "in-process", "--catchup-window", "none")
    assert [run["status"] for run in history(sqlsched, "own")] == ["succeeded"]


def test_the_log_is_a_line_for_each_event_on_stderr(sqlsched: Sqlsched, run: Sqlsched) -> None:
    sqlsched("add", "--id", "it", *PAST, "--shell", "echo printed")
    result = run("--once", "--broker", "in-process")
    assert result.stdout == ""
    assert "printed" not in result.stderr
    assert any("run 1 of it succeeded" in line for line in result.stderr.splitlines())


def test_the_log_can_be_json(sqlsched: Sqlsched, run: Sqlsched) -> None:
    sqlsched("add", "--id", "it", *PAST, "--shell", "exit 1")
    result = run("--once", "--broker", "in-process", "--log-format", "json")
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert all({"time", "level", "message"} <= set(event) for event in events)
    assert any("of it failed" in event["message"] for event in events)


def test_the_log_can_be_kept_short(sqlsched: Sqlsched, run: Sqlsched) -> None:
    sqlsched("add", "--id", "it", *PAST, "--shell", "true")
    assert run("--once", "--broker", "in-process", "--log-level", "error").stderr == ""


@pytest.mark.parametrize(
    ("broker", "named"),
    [("nosuch:broker", "nosuch"), ("json:dumps", "function"), ("json:nosuch", "'nosuch'")],
)
def test_a_broker_that_is_none_is_named(run: Sqlsched, broker: str, named: str) -> None:
    result = run("--broker", broker)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("Error: ")
    assert named in result.stderr


def test_a_task_that_cannot_be_imported_is_a_failed_run(sqlsched: Sqlsched, run: Sqlsched) -> None:
    sqlsched("add", "--id", "it", *PAST, "nosuch.module:task")
    assert run("--until-idle", "--broker", "in-process").returncode == 0
    [it] = history(sqlsched, "it")
    assert it["status"] == "failed"
    assert "nosuch" in it["error"]

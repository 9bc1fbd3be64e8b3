"""`sqlsched run MODULE:OBJECT`: the user's own Scheduler, imported as it stands."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

APP = """
from datetime import UTC, datetime
from sqlsched import InProcessBroker, LabelScheduleSource, Scheduler, SqliteScheduleSource
from sqlsched.merge_functions import only_unique

broker = InProcessBroker()
source = SqliteScheduleSource("app.db")
scheduler = Scheduler(broker, sources=[source, LabelScheduleSource(broker)], merge_func=only_unique)

@broker.task(schedule=[{"time": datetime(2026, 1, 1), "args": [41]}], queue="low")
async def heavy_task(value: int) -> int:
    print("made", value + 1)
    return value + 1

def factory():
    return scheduler

def empty():
    return None

async def asynchronous():
    return scheduler

def failing():
    raise RuntimeError("no config")

elsewhere = Scheduler(InProcessBroker())
not_one = 7
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[str]:
    """The name of the user's module, which is imported afresh by each test."""
    name = f"app_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(APP)
    before = list(sys.path)
    yield name
    sys.path[:] = before
    sys.modules.pop(name, None)


def history(sqlsched: Sqlsched, path: str) -> list[dict[str, object]]:
    runs: list[dict[str, object]] = json.loads(sqlsched("--db", path, "history", "--json").stdout)
    return runs


@pytest.mark.parametrize("name", ["scheduler", "factory"])
def test_a_scheduler_or_what_returns_one_is_run(sqlsched: Sqlsched, app: str, name: str) -> None:
    ran = sqlsched("run", f"{app}:{name}", "--once")
    assert ran.returncode == 0, ran.stderr
    [run] = history(sqlsched, "app.db")
    assert (run["status"], run["task_name"]) == ("succeeded", f"{app}:heavy_task")
    logs = sqlsched("--db", "app.db", "logs", str(run["run_id"]))
    assert logs.stdout == "made 42\n"


def test_declared_schedules_are_listed_and_come_from_the_code(sqlsched: Sqlsched, app: str) -> None:
    sqlsched("run", f"{app}:scheduler", "--once")
    [listed] = json.loads(sqlsched("--db", "app.db", "list", "--all", "--json").stdout)
    assert listed["labels"] == {"queue": "low"}
    shown = json.loads(sqlsched("--db", "app.db", "show", listed["id"], "--json").stdout)
    assert shown["source"] == "LabelScheduleSource"
    refused = sqlsched("--db", "app.db", "edit", listed["id"], "--note", "x")
    assert refused.returncode == 2
    assert "comes from LabelScheduleSource; change it there" in refused.stderr


def test_a_declared_schedule_is_served_by_its_own_scheduler_only(
    sqlsched: Sqlsched, app: str
) -> None:
    sqlsched("run", f"{app}:scheduler", "--once")
    sqlsched("--db", "app.db", "add", "--at", "2026-01-01", "--shell", "true")
    sqlsched("--db", "app.db", "run", "--once")
    assert [run["status"] for run in history(sqlsched, "app.db")] == ["succeeded"] * 2


def test_broker_takes_the_place_of_the_schedulers_own(sqlsched: Sqlsched, app: str) -> None:
    ran = sqlsched("run", f"{app}:scheduler", "--once", "--broker", "subprocess")
    assert ran.returncode == 0, ran.stderr
    [run] = history(sqlsched, "app.db")
    assert (run["status"], run["exit_code"]) == ("succeeded", 0)


def test_a_scheduler_without_a_database_has_that_of_the_command_line(
    sqlsched: Sqlsched, app: str, tmp_path: Path
) -> None:
    assert sqlsched("--db", "other.db", "run", f"{app}:elsewhere", "--once").returncode == 0
    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "sqlsched.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["nonesuch:x"], 1, "there is no module 'nonesuch'"),
        (["{app}:nonesuch"], 1, "there is no 'nonesuch' in {app}"),
        (["{app}"], 2, "'{app}': give MODULE:OBJECT"),
        (["{app}:not_one"], 1, "{app}:not_one is of type int; give a sqlsched Scheduler"),
        (["{app}:broker"], 1, "is of type InProcessBroker; give a sqlsched Scheduler"),
        (["{app}:empty"], 1, "{app}:empty is of type NoneType"),
        (["{app}:asynchronous"], 1, "is an async function"),
        (["{app}:failing"], 1, "{app}:failing() raised RuntimeError: no config"),
        (["{app}:scheduler", "--broker", "{app}:source"], 1, "give a sqlsched Broker, a taskiq"),
        (["{app}:scheduler", "--broker", ""], 2, "--broker ''"),
    ],
)
def test_what_cannot_be_run_is_named_in_one_line_and_nothing_is_made(
    sqlsched: Sqlsched, app: str, tmp_path: Path, arguments: list[str], code: int, named: str
) -> None:
    ran = sqlsched("run", *(argument.format(app=app) for argument in arguments))
    assert ran.returncode == code
    assert ran.stderr.startswith("Error: ")
    assert ran.stderr.count("\n") == 1
    assert named.format(app=app) in ran.stderr
    assert not list(tmp_path.glob("*.db"))


def test_two_databases_for_one_scheduler_are_refused(sqlsched: Sqlsched, app: str) -> None:
    ran = sqlsched("--db", "other.db", "run", f"{app}:scheduler", "--once")
    assert ran.returncode == 2
    assert f"{app}:scheduler has the database app.db; leave --db out" in ran.stderr


def test_a_source_that_does_not_answer_fails_once_clearly(
    sqlsched: Sqlsched, app: str, tmp_path: Path
) -> None:
    (tmp_path / f"{app}.py").write_text(
        "from sqlsched import InProcessBroker, Scheduler, ScheduleSource\n"
        "class Down(ScheduleSource):\n"
        "    async def get_schedules(self): raise ConnectionError('refused')\n"
        "scheduler = Scheduler(InProcessBroker(), [Down()])\n"
    )
    ran = sqlsched("run", f"{app}:scheduler", "--once")
    assert ran.returncode == 1
    assert "Error: Down cannot be asked for schedules: refused" in ran.stderr


def test_the_environment_is_left_as_it_was(sqlsched: Sqlsched, app: str) -> None:
    sqlsched("--db", "other.db", "run", f"{app}:elsewhere", "--once")
    assert "SQLSCHED_DB" not in os.environ

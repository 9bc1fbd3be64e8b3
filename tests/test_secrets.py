"""What tasks are given is for them: no log and no error has it, at any level, whatever is wrong."""

import json
import logging
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from sqlsched import (
    Broker,
    InProcessBroker,
    LabelScheduleSource,
    ScheduledTask,
    Scheduler,
    SqliteScheduleSource,
    TaskMessage,
)
from sqlsched.exceptions import InvalidScheduleError

Sqlsched = Callable[..., CompletedProcess[str]]

SECRET = "hunter2-hunter2"  # noqa: S105
PAST = datetime(2020, 1, 1, tzinfo=UTC)
GIVEN: dict[str, Any] = {"args": [SECRET], "kwargs": {"password": SECRET}}


class Talkative(Broker):
    """Fails with all that it was given in its error."""

    async def kick(self, message: TaskMessage) -> None:
        raise RuntimeError(f"cannot send {message}")


async def serve(tmp_path: Path, broker: Broker, schedule: ScheduledTask | None = None) -> None:
    source = SqliteScheduleSource(tmp_path / "app.db")
    await source.startup()
    if schedule is not None:
        await source.add_schedules([schedule])
    await source.get_schedules()
    await Scheduler(broker, [source, LabelScheduleSource(broker)]).run(once=True)
    await source.shutdown()


def due(task_name: str = "app:task", **fields: Any) -> ScheduledTask:
    return ScheduledTask(task_name=task_name, time=PAST, schedule_id="it", **fields)


@pytest.mark.parametrize("broker", [InProcessBroker, Talkative])
async def test_a_host_programs_log_at_its_most_talkative_has_no_arguments(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broker: type[Broker]
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="aiosqlite")
    made = broker()

    @made.task(task_name="app:task", schedule=[{"cron": "* * * * *", **GIVEN}])
    def task(*_: object, **__: object) -> None:
        raise ValueError("of its own making")

    await serve(tmp_path, made, due(**GIVEN))
    assert any(record.name == "aiosqlite" for record in caplog.records)
    assert caplog.text.count(" failed after ") == 2
    assert SECRET not in caplog.text


@pytest.mark.parametrize("entry", [GIVEN, [GIVEN], {"cron": "* * * * *", "args": SECRET}])
async def test_a_wrong_declaration_is_logged_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: Any
) -> None:
    broker = InProcessBroker()
    for schedule in (entry, [entry], (entry,)):
        broker.task(f"app:f{len(broker.tasks)}", schedule)(lambda: None)
    await serve(tmp_path, broker)
    assert caplog.text.count("is left out") == 3
    assert SECRET not in caplog.text


DAMAGE = (
    *(("args", json.dumps(GIVEN)), ("args", f'["{SECRET}"'), ("args", f'["{SECRET}", NaN]')),
    *(("args", f'"{SECRET}"'), ("args", f'["{SECRET}\\ud800"]'), ("args", "[" * 100_000)),
    *(("kwargs", f'["{SECRET}"]'), ("kwargs", f'{{"a": "{SECRET}", "a": 1}}')),
    *(("kwargs", f'{{"{SECRET}'), ("labels", f'["{SECRET}"]')),
)


@pytest.mark.parametrize(("column", "text"), DAMAGE, ids=range(len(DAMAGE)))
async def test_a_damaged_row_is_named_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, text: str
) -> None:
    source = SqliteScheduleSource(tmp_path / "app.db")
    await source.add_schedule(due("m:f"))
    await source.shutdown()
    with closing(sqlite3.connect(tmp_path / "app.db")) as other, other:
        other.execute(f"UPDATE schedules SET {column} = ?", (text,))  # noqa: S608
    caplog.set_level(logging.DEBUG)
    await serve(tmp_path, InProcessBroker())
    assert "as its row is damaged" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("column", "text"), DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_row_stops_no_run_and_no_look(
    sqlsched: Sqlsched,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    text: str,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    sqlsched("add", "--id", "bad", "--at", "2020-01-01", "os:getcwd")
    sqlsched("add", "--id", "good", "--at", "2020-01-01", "os:getcwd")
    with closing(sqlite3.connect(tmp_path / "sqlsched.db")) as other, other:
        change = f"UPDATE schedules SET {column} = ? WHERE schedule_id = 'bad'"  # noqa: S608
        other.execute(change, (text,))
    for command in (("list",), ("export",), ("run", "--once", "--broker", "in-process")):
        result = sqlsched(*command)
        assert SECRET not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
    runs = json.loads(sqlsched("history", "--json").stdout)
    assert {run["schedule_id"]: run["status"] for run in runs} == {
        "good": "succeeded",
        "bad": "failed",
    }


def test_the_error_of_a_bad_value_does_not_show_it() -> None:
    for field in ("args", "kwargs", "labels"):
        bad: Any
        for bad in (SECRET, [{SECRET}], {"a": {SECRET}}, {"a": SECRET + "\ud800"}, SECRET):
            with pytest.raises(InvalidScheduleError) as caught:
                ScheduledTask(task_name="m:f", interval=60, **{field: bad})
            assert SECRET not in str(caught.value)
            assert str(caught.value).startswith(f"{field} ")
    for task_name in ("sqlsched:shell", "sqlsched:exec"):
        with pytest.raises(InvalidScheduleError, match=task_name) as caught:
            ScheduledTask(task_name=task_name, interval=60, args=[SECRET, 5])
        assert SECRET not in str(caught.value)

"""People are told how runs end: hooks get the run as JSON, pings follow healthchecks.io."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sqlsched import InvalidScheduleError, ScheduledTask
from sqlsched.engine import hooks
from sqlsched.engine.scheduler import Options
from sqlsched.storage import changes, telling
from sqlsched.storage.hooks import set_common
from tests.engine.conftest import START, World

MINUTE = timedelta(minutes=1)
TASKS = """
import asyncio
import json

def note(run):
    with open("task.jsonl", "a") as file:
        file.write(json.dumps(run) + "\\n")

async def note_async(run):
    note(run)
"""


@pytest.fixture
def told(tmp_path: Path) -> "Told":
    (tmp_path / "alarms.py").write_text(TASKS)
    return Told(tmp_path)


class Told:
    """What hooks wrote down."""

    def __init__(self, directory: Path) -> None:
        self.options = Options(app_dir=directory)
        self.directory = directory

    def __call__(self, name: str = "told.jsonl") -> list[dict[str, Any]]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


NOTE = "cat >> told.jsonl"


async def test_a_failed_run_is_told_as_json_on_stdin(world: World, told: Told) -> None:
    world.failures_left = 1
    await world.add("t:flaky", cron="1 12 * * *", max_runs=1, on_failure=NOTE, schedule_id="job")
    await world.run(options=told.options)
    (run,) = told()
    assert run["event"] == "failure"
    assert (run["schedule_id"], run["status"], run["attempt"]) == ("job", "failed", 1)
    assert run["scheduled_for"] == "2026-03-02T12:01:00+00:00"
    assert "not yet" in run["error"]


async def test_success_and_failure_have_hooks_of_their_own(world: World, told: Told) -> None:
    world.failures_left = 1
    fields = {"on_success": "cat >> good.jsonl", "on_failure": NOTE}
    await world.add("t:flaky", cron="1-2 12 * * *", max_runs=2, **fields)
    await world.run(options=told.options)
    assert [run["status"] for run in told()] == ["failed"]
    assert [run["status"] for run in told("good.jsonl")] == ["succeeded"]


async def test_only_the_last_attempt_is_told(world: World, told: Told) -> None:
    world.failures_left = 3
    await world.add("t:flaky", cron="1 12 * * *", max_runs=1, retries=2, on_failure=NOTE)
    await world.run(options=told.options)
    assert [run["attempt"] for run in told()] == [3]


async def test_a_retry_that_succeeds_is_no_failure(world: World, told: Told) -> None:
    world.failures_left = 1
    fields = {"retries": 1, "on_failure": NOTE, "on_success": NOTE}
    await world.add("t:flaky", cron="1 12 * * *", max_runs=1, **fields)
    await world.run(options=told.options)
    assert [(run["event"], run["attempt"]) for run in told()] == [("success", 2)]


async def test_missed_firings_are_told_as_one(world: World, told: Told) -> None:
    await world.add(cron="* * * * *", catchup_window="none", on_missed=NOTE)
    world.clock.advance(timedelta(minutes=10))
    await world.run(MINUTE, options=told.options)
    (run,) = told()
    assert (run["event"], run["status"], run["count"]) == ("missed", "missed", 10)


@pytest.mark.parametrize("name", ["alarms:note", "alarms:note_async"])
async def test_a_hook_may_be_a_task_which_gets_the_run(world: World, told: Told, name: str) -> None:
    await world.add(cron="1 12 * * *", max_runs=1, on_success=name)
    await world.run(options=told.options)
    assert [run["status"] for run in told("task.jsonl")] == ["succeeded"]


async def test_the_hooks_of_the_database_are_for_schedules_without(
    world: World, told: Told
) -> None:
    database = world.writing()
    set_common(database, {"on_success": NOTE})
    database.close()
    other = "cat >> other.jsonl"
    fields: dict[str, Any] = {"cron": "1 12 * * *", "max_runs": 1}
    await world.add(schedule_id="plain", **fields)
    await world.add(schedule_id="own", on_success=other, **fields)
    await world.add(schedule_id="quiet", on_success="none", **fields)
    await world.run(options=told.options)
    assert [run["schedule_id"] for run in told()] == ["plain"]
    assert [run["schedule_id"] for run in told("other.jsonl")] == ["own"]


async def test_a_hook_that_fails_or_hangs_is_said_and_the_run_is_as_it_was(
    world: World, told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fields: dict[str, Any] = {"cron": "1 12 * * *", "max_runs": 1}
    await world.add(on_success="echo no mail server; exit 3", **fields)
    await world.add(on_success="no.such.module:task", **fields)
    await world.run(options=told.options)
    monkeypatch.setattr(hooks, "HOOK_SECONDS", 0.2)
    await world.add(on_success="sleep 60", cron="3 12 * * *", max_runs=1)
    await world.run(options=told.options)
    assert [status for _, status in world.statuses()] == ["succeeded"] * 3
    said = caplog.text
    assert "exit status 3: no mail server" in said
    assert "there is no module 'no'" in said
    assert "more than 0.2 s" in said


async def test_what_a_dead_scheduler_had_not_told_the_next_one_tells(
    world: World, told: Told
) -> None:
    await world.add(cron="1 12 * * *", max_runs=1, on_success=NOTE)
    database = world.writing()
    await world.run(options=Options(app_dir=told.directory / "gone"))  # it cannot tell
    database.execute("UPDATE runs SET untold = 1")
    owner = database.execute("SELECT max(owner) FROM owners").fetchone()[0]
    assert len(telling.take(database, owner, 8)) == 1
    assert telling.take(database, owner, 8) == []
    database.execute("UPDATE owners SET stopped_us = NULL WHERE owner = ?", (owner,))
    database.close()
    await world.run(options=told.options)
    assert [run["status"] for run in told()] == ["succeeded"]


async def test_nothing_is_marked_where_nobody_wants_to_know(world: World) -> None:
    await world.add(cron="1 12 * * *", max_runs=1)
    await world.run()
    database = world.writing()
    assert database.execute("SELECT count(*) FROM runs WHERE untold").fetchone() == (0,)
    database.close()


# -- pause-on-failure -----------------------------------------------------------------------------


async def test_after_so_many_failures_in_a_row_a_schedule_is_paused(world: World) -> None:
    world.failures_left = 9
    await world.add("t:flaky", cron="* * * * *", pause_on_failure=3, schedule_id="job")
    await world.run(10 * MINUTE)
    assert len(world.calls) == 3
    (there,) = await world.source.get_schedules()
    assert there.paused


async def test_a_success_between_begins_the_count_anew(world: World) -> None:
    world.failures_left = 2
    await world.add("t:flaky", cron="* * * * *", pause_on_failure=3)
    await world.run(4 * MINUTE)
    world.failures_left = 2
    await world.run(4 * MINUTE)
    assert len(world.calls) == 8


async def test_retries_count_as_one_and_a_resume_begins_anew(world: World) -> None:
    world.failures_left = 99
    await world.add("t:flaky", cron="* * * * *", pause_on_failure=2, retries=1, schedule_id="job")
    await world.run(10 * MINUTE)
    assert len(world.calls) == 4
    database = world.writing()
    changes.resume_all(database, ["job"], world.clock.now_us())
    database.close()
    await world.run(10 * MINUTE)
    assert len(world.calls) == 8


# -- pings ----------------------------------------------------------------------------------------


class _Server(HTTPServer):
    got: list[tuple[str, bytes]]
    failures: int


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        failing = self.server.failures > 0
        self.server.failures -= failing
        self.send_response(503 if failing else 200)
        self.end_headers()
        if not failing:
            self.server.got.append((self.path, body))

    def log_message(self, *_: object) -> None:
        """Nobody wants to know."""


@pytest.fixture
def checks() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.got, server.failures = [], 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(server: _Server, rest: str = "/ping/1f2e") -> str:
    return f"http://127.0.0.1:{server.server_port}{rest}"


async def test_a_ping_tells_of_start_and_success_with_one_run_id(
    world: World, checks: _Server
) -> None:
    await world.add(cron="1 12 * * *", max_runs=1, ping=url(checks))
    await world.run()
    (start, _), (success, _) = checks.got
    path, _, rid = start.partition("?rid=")
    assert path == "/ping/1f2e/start"
    assert success == f"/ping/1f2e?rid={rid}"
    assert len(rid) == 36


async def test_a_ping_tells_of_failure_and_what_was_printed(world: World, checks: _Server) -> None:
    world.failures_left = 1
    await world.add("t:flaky", cron="1 12 * * *", max_runs=1, ping=url(checks))
    await world.run()
    path, body = checks.got[-1]
    assert path.startswith("/ping/1f2e/fail?rid=")
    assert b"RuntimeError: not yet" in body


async def test_a_ping_of_a_command_has_its_exit_status(world: World, checks: _Server) -> None:
    fields: dict[str, Any] = {"cron": "1 12 * * *", "max_runs": 1}
    await world.add("sqlsched:shell", args=["exit 7"], ping=url(checks, "/uuid?create=1"), **fields)
    await world.run()
    assert checks.got[-1][0].startswith("/uuid/7?create=1&rid=")


async def test_a_ping_that_does_not_arrive_is_tried_again(
    world: World, checks: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "PING_DELAY_S", 0.01)
    checks.failures = 2
    await world.add(cron="1 12 * * *", max_runs=1, ping=url(checks))
    await world.run()
    assert len(checks.got) == 2


async def test_a_ping_that_never_arrives_is_said_without_its_secret(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "PING_DELAY_S", 0.01)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port  # closed again: nobody listens there
    secret = f"http://127.0.0.1:{port}/5ecret"
    await world.add(cron="1 12 * * *", max_runs=1, ping=secret)
    await world.run()
    assert "ping of run 1 failed: 127.0.0.1: " in caplog.text
    assert "5ecret" not in caplog.text
    assert world.statuses() == [("12:01:00", "succeeded")]


@pytest.mark.parametrize("url", ["http://[abc/x", "http://a\u2100b/x", "http://:8/x"])
def test_a_ping_that_goes_nowhere_is_refused(url: str) -> None:
    with pytest.raises(InvalidScheduleError, match="give an http or https URL"):
        ScheduledTask(task_name="m:f", interval=60, ping=url)


async def test_a_stored_ping_that_is_no_url_ends_no_scheduler(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.add(time=START, ping="http://127.0.0.1:9/x")
    with closing(sqlite3.connect(world.path)) as database, database:
        database.execute("UPDATE schedules SET ping = 'http://[abc/x'")
    await world.run(timedelta(seconds=5))
    assert [row.status for row in world.history()] == ["succeeded"]
    assert "is none" in caplog.text


def test_the_process_of_a_hook_finds_the_package_where_it_is() -> None:
    assert (Path(hooks._PACKAGE_ROOT) / "sqlsched" / "hook_task.py").exists()


async def test_a_hook_may_print_for_ever_and_leave_something_running(tmp_path: Path) -> None:
    loud = "yes | head -c 20000000; echo; echo the end; exit 3"
    with pytest.raises(hooks.HookError, match=r"^exit status 3: the end$"):
        await hooks.run_hook(loud, {"event": "failure"}, str(tmp_path), {})
    async with asyncio.timeout(20):
        await hooks.run_hook("sleep 60 & cat > told", {"event": "failure"}, str(tmp_path), {})
    assert (tmp_path / "told").read_text() == '{"event": "failure"}\n'

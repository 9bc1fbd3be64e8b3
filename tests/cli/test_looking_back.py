"""`sqlsched history` and `logs`, of runs that took place; done schedules; `trigger`, `cancel`."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

FIELDS = [
    *("run_id", "schedule_id", "task_name", "scheduled_for", "started_at", "finished_at"),
    *("status", "attempt", "trigger", "exit_code", "error", "reason"),
]
PROGRAM = [sys.executable, "-m", "sqlsched"]
RUN = (*PROGRAM, "run", "--broker", "in-process")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "SQLSCHED_DB"}
PAST = ("--at", "2020-01-01T00:00")
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).replace(microsecond=0).isoformat()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database in which a good run, a bad one, its retry and a missed firing have ended."""
    place = tmp_path_factory.mktemp("ran")

    def call(*arguments: str) -> None:
        command = [*PROGRAM, *arguments]
        subprocess.run(
            command, cwd=place, env=ENVIRONMENT, check=True, capture_output=True, timeout=60
        )

    call("add", "--id", "good", *PAST, "--shell", "echo out; echo err >&2; printf 'é\\377'")
    call("add", "--id", "bad", *PAST, "--retries", "1", "--retry-delay", "1", "--shell", "exit 3")
    call("add", "--id", "late", "--at", YESTERDAY, "--catchup-window", "1h", "--shell", "true")
    call("add", "--id", "quiet", *PAST, "--shell", "true")
    call("run", "--until-idle", "--broker", "in-process")
    return str(place / "sqlsched.db")


def history(sqlsched: Sqlsched, database: str, *arguments: str) -> list[dict[str, Any]]:
    result = sqlsched("--db", database, "history", "--json", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    runs: list[dict[str, Any]] = json.loads(result.stdout)
    return runs


def test_history_has_every_field_newest_first(sqlsched: Sqlsched, ran: str) -> None:
    runs = history(sqlsched, ran)
    assert all(list(run)[: len(FIELDS)] == FIELDS for run in runs)
    ids = [int(run["run_id"]) for run in runs]
    assert ids == sorted(ids, reverse=True)
    [good] = history(sqlsched, ran, "good")
    assert list(good) == FIELDS
    assert good["started_at"] < good["finished_at"]
    expected = ("good", "sqlsched:shell", "2020-01-01T00:00:00+00:00", "succeeded", 1, "catchup")
    assert (
        *(good["schedule_id"], good["task_name"], good["scheduled_for"]),
        *(good["status"], good["attempt"], good["trigger"]),
    ) == expected
    assert (good["exit_code"], good["error"], good["reason"]) == (0, None, None)


def test_a_retry_is_a_run_of_its_own(sqlsched: Sqlsched, ran: str) -> None:
    second, first = history(sqlsched, ran, "bad")
    assert (first["status"], first["attempt"], first["exit_code"]) == ("failed", 1, 3)
    assert (second["status"], second["attempt"], second["trigger"]) == ("failed", 2, "retry")
    assert first["scheduled_for"] == second["scheduled_for"]
    assert "(attempt 2)" in sqlsched("--db", ran, "history").stdout


def test_a_row_that_stands_for_firings_says_which(sqlsched: Sqlsched, ran: str) -> None:
    [late] = history(sqlsched, ran, "late")
    assert (late["status"], late["reason"]) == ("missed", "outside-catchup-window")
    assert (late["first"], late["last"], late["count"]) == (YESTERDAY, YESTERDAY, 1)
    assert late["started_at"] is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--status", "succeeded"), {"good", "quiet"}),
        (("--status", "failed"), {"bad"}),
        (("--status", "running"), set()),
        (("--since", "2020-01-01"), {"good", "bad", "late", "quiet"}),
        (("--since", "2020-01-01T00:00:01"), {"late"}),
        (("--since", YESTERDAY), {"late"}),
        (("--status", "missed", "--since", "2019-12-31"), {"late"}),
        (("go",), {"good"}),
    ],
)
def test_history_is_narrowed(
    sqlsched: Sqlsched, ran: str, arguments: tuple[str, ...], expected: set[str]
) -> None:
    assert {run["schedule_id"] for run in history(sqlsched, ran, *arguments)} == expected


def test_history_is_cut_to_the_newest(sqlsched: Sqlsched, ran: str) -> None:
    assert history(sqlsched, ran, "-n", "2") == history(sqlsched, ran)[:2]


def test_history_of_nothing_says_so(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--shell", "true")
    result = sqlsched("history")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "nothing has run yet\n")
    assert sqlsched("history", "it").stderr == "it has not run yet\n"
    assert sqlsched("history", "--json").stdout == "[]\n"


def test_done_schedules_leave_the_list_and_free_their_ids(
    sqlsched: Sqlsched, tmp_path: Path
) -> None:
    sqlsched("add", "--id", "it", *PAST, "--shell", "true")
    subprocess.run([*RUN, "--until-idle"], cwd=tmp_path, env=ENVIRONMENT, check=True)
    assert sqlsched("list", "--json").stdout == "[]\n"
    [done] = json.loads(sqlsched("list", "--all", "--json").stdout)
    assert (done["id"], done["next_fire_time"]) == ("it", None)
    assert (done["last_status"], done["last_fire_time"]) == (
        *("succeeded", "2020-01-01T00:00:00+00:00"),
    )
    assert "done" in sqlsched("list", "--all").stdout
    again = sqlsched("add", "--id", "it", *PAST, "--shell", "true")
    assert (again.returncode, again.stderr) == (
        *(0, "there already, unchanged: sqlsched:shell, done\n"),
    )
    assert sqlsched("add", "--id", "it", "--every", "1h", "--shell", "date").returncode == 0
    assert len(history(sqlsched, "sqlsched.db", "it")) == 1


def test_logs_are_what_the_run_printed(sqlsched: Sqlsched, ran: str) -> None:
    [good] = history(sqlsched, ran, "good")
    result = sqlsched("--db", ran, "logs", good["run_id"])
    assert (result.returncode, result.stdout, result.stderr) == (0, "out\nerr\né\ufffd", "")
    for arguments in (("--last", "good"), ("--last", "go"), (good["run_id"], "--follow")):
        assert sqlsched("--db", ran, "logs", *arguments).stdout == result.stdout


def test_logs_of_a_quiet_run_are_empty(sqlsched: Sqlsched, ran: str) -> None:
    assert sqlsched("--db", ran, "logs", "--last", "quiet").stdout == ""


def test_logs_of_a_schedule_that_never_ran_say_so(sqlsched: Sqlsched, ran: str) -> None:
    result = sqlsched("--db", ran, "logs", "--last", "late")
    assert (result.returncode, result.stderr) == (1, "Error: schedule 'late' has not run yet\n")


def test_a_run_that_has_ended_cannot_be_cancelled(sqlsched: Sqlsched, ran: str) -> None:
    [good] = history(sqlsched, ran, "good")
    result = sqlsched("--db", ran, "cancel", good["run_id"])
    assert result.returncode == 1
    assert result.stderr.endswith("has ended already: succeeded\n")


@pytest.fixture
def serving(sqlsched: Sqlsched, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A `run` that is going, in the directory of the test."""
    sqlsched("add", "--id", "good", "--every", "1h", "--shell", "echo begun; echo done")
    sqlsched("add", "--id", "bad", "--every", "1h", "--shell", "exit 3")
    sqlsched("add", "--id", "slow", "--every", "1h", "--", "sh", "-c", "echo begun; exec sleep 60")
    with subprocess.Popen(
        RUN, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "serving" in process.stderr.readline()
        yield process
        process.kill()


@pytest.mark.usefixtures("serving")
def test_trigger_waits_and_exits_by_the_outcome(sqlsched: Sqlsched) -> None:
    good = sqlsched("trigger", "good", "--wait")
    run_id = good.stdout.strip()
    assert (good.returncode, good.stderr) == (0, f"run {run_id} succeeded\n")
    bad = sqlsched("trigger", "bad", "--wait")
    assert bad.returncode == 1
    assert " failed" in bad.stderr
    [run] = history(sqlsched, "sqlsched.db", "good")
    assert (run["run_id"], run["trigger"]) == (run_id, "manual")


def test_trigger_says_when_nobody_is_running(sqlsched: Sqlsched, tmp_path: Path) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--shell", "true")
    result = sqlsched("trigger", "it")
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert result.stderr == "nobody is running: the next `sqlsched run` starts it\n"
    subprocess.run([*RUN, "--once"], cwd=tmp_path, env=ENVIRONMENT, check=True)
    [run] = history(sqlsched, "sqlsched.db", "it")
    assert (run["status"], run["trigger"]) == ("succeeded", "manual")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("serving")
def test_cancel_stops_a_run_and_follow_ends_with_it(sqlsched: Sqlsched, tmp_path: Path) -> None:
    run_id = sqlsched("trigger", "slow").stdout.strip()
    wait_until(lambda: sqlsched("logs", run_id).stdout == "begun\n")
    with subprocess.Popen(
        [*PROGRAM, "logs", run_id, "-f"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        result = sqlsched("cancel", run_id)
        assert (result.returncode, result.stderr) == (0, f"run {run_id} cancelled\n")
        assert following.communicate(timeout=20)[0] == "begun\n"
    [run] = history(sqlsched, "sqlsched.db", "slow")
    assert (run["status"], run["reason"]) == ("cancelled", "requested")


def test_a_run_that_waits_is_cancelled_at_once(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--shell", "true")
    run_id = sqlsched("trigger", "it").stdout.strip()
    assert sqlsched("cancel", run_id).stderr == f"run {run_id} cancelled\n"
    assert sqlsched("cancel", run_id).returncode == 1


def test_a_run_id_may_be_given_as_a_prefix(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--shell", "true")
    for _ in range(21):
        sqlsched("trigger", "it")
    sqlsched("cancel", "2")  # whole, though 20 and 21 begin so
    assert [run["run_id"] for run in history(sqlsched, "sqlsched.db", "--status", "cancelled")] == [
        "2"
    ]
    with closing(sqlite3.connect("sqlsched.db")) as database, database:
        database.execute("DELETE FROM runs WHERE run_id IN (2, 20)")
    assert sqlsched("cancel", "2").stderr == "run 21 cancelled\n"
    with closing(sqlite3.connect("sqlsched.db")) as database, database:
        database.execute("DELETE FROM runs WHERE run_id = 1")
    ambiguous = "Error: '1' is ambiguous; it begins 10, 11, 12, 13, 14, …\n"
    assert sqlsched("cancel", "1").stderr == ambiguous


def test_a_first_signal_ends_in_order_and_a_second_one_by_its_number(
    sqlsched: Sqlsched, serving: subprocess.Popen[str]
) -> None:
    run_id = sqlsched("trigger", "slow").stdout.strip()
    wait_until(lambda: sqlsched("logs", run_id).stdout == "begun\n")
    # Two of a kind that come at once count as one, and of two kinds either may come first.
    serving.send_signal(signal.SIGTERM)
    serving.send_signal(signal.SIGINT)
    assert serving.wait(20) in {128 + signal.SIGTERM, 128 + signal.SIGINT}
    [run] = history(sqlsched, "sqlsched.db", "slow")
    assert (run["status"], run["reason"]) == ("cancelled", "shutdown")


def test_one_signal_is_an_orderly_end(serving: subprocess.Popen[str]) -> None:
    serving.send_signal(signal.SIGINT)
    assert serving.wait(20) == 0

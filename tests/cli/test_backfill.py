"""`backfill`: firings of the past, run late because somebody asks for it."""

import json
import subprocess
import sys
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

DAY = ("--from", "2026-01-01", "--to", "2026-01-01T18:00")
TIMES = [f"2026-01-01T{hour:02}:00:00+00:00" for hour in (0, 6, 12, 18)]


@pytest.fixture
def job(sqlsched: Sqlsched) -> Sqlsched:
    line = 'printf "%s " "$SQLSCHED_SCHEDULED_FOR" "$SQLSCHED_ATTEMPT"'
    sqlsched("add", "--id", "job", "--cron", "0 */6 * * *", "--shell", line)
    return sqlsched


def run_once() -> None:
    subprocess.run([sys.executable, "-m", "sqlsched", "run", "--once"], check=True)


def history(sqlsched: Sqlsched) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sqlsched("history", "--json").stdout)
    return found


def test_it_says_what_will_run_and_that_nobody_is_there_to_do_it(job: Sqlsched) -> None:
    result = job("backfill", "job", *DAY)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == (
        "4 of 4 firings will run; 0 have a run already\n"
        "nobody is running: the next `sqlsched run` starts them\n"
    )
    run_once()
    assert [(run["scheduled_for"], run["trigger"], run["status"]) for run in history(job)] == [
        (time, "backfill", "succeeded") for time in reversed(TIMES)
    ]
    assert job("logs", history(job)[0]["run_id"]).stdout == f"{TIMES[3]} 1 "
    again = job("backfill", "job", *DAY, "--json")
    assert json.loads(again.stdout) == {
        "schedule_id": "job",
        "from": TIMES[0],
        "to": TIMES[3],
        "dispatched": 4,
        "firings": [],
    }
    assert again.stderr == "0 of 4 firings will run; 4 have a run already\n"


def test_a_dry_run_lists_the_firings_and_runs_none(job: Sqlsched) -> None:
    result = job("backfill", "jo", *DAY, "--dry-run")
    assert (result.returncode, result.stdout) == (0, "\n".join(TIMES) + "\n")
    assert result.stderr == "4 of 4 firings would run; 0 have a run already\n"
    tried = json.loads(job("backfill", "job", *DAY, "--dry-run", "--json").stdout)
    assert tried["firings"] == TIMES
    assert history(job) == []


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("job", "--from", "2026-01-01"), 2, "Missing option '--to'"),
        (("job", "--from", "soon", "--to", "2026-01-01"), 2, "--from 'soon': a time is ISO 8601"),
        (("job", "--from", "2026-01-02", "--to", "2026-01-01"), 2, "give a time after 2026-01-02"),
        (("job", "--from", "2026-01-02", "--to", "2126-01-01"), 2, "give a time in the past"),
        (("nobody", *DAY), 1, "no schedule has the id 'nobody'"),
    ],
)
def test_what_is_wrong_is_named(
    job: Sqlsched, options: tuple[str, ...], code: int, said: str
) -> None:
    result = job("backfill", *options)
    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_too_many_are_refused_in_a_line(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--every", "1s", "--start", "2026-01-01", "m:f")
    result = sqlsched("backfill", "job", "--from", "2026-01-01", "--to", "2026-02-01")
    assert (result.returncode, result.stdout) == (2, "")
    assert "at most 100,000 are backfilled at once; do it in parts" in result.stderr

"""`simulate` and `plan`: what would happen, at the command line."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.servers import wait_for

Sqlsched = Callable[..., CompletedProcess[str]]

DAY = ("--from", "2030-01-01", "--to", "2030-01-02")
FILE = """\
[schedules.mail]
task = "shop.jobs:mail"
cron = "*/5 * * * *"

[schedules.ping]
shell = "true"
cron = "0 * * * *"
"""


def simulated(sqlsched: Sqlsched, *options: str) -> Any:
    result = sqlsched("simulate", "--json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


# -- simulate -------------------------------------------------------------------------------------


def test_it_tells_every_firing_as_json(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--cron", "0 */8 * * *", "no.such:task")
    found = simulated(sqlsched, *DAY, "--down", "2030-01-01T07:59..2030-01-01T15:00")
    assert found == {
        "from": "2030-01-01T00:00:00+00:00",
        "to": "2030-01-02T00:00:00+00:00",
        "dispatched": 2,
        "skipped": 0,
        "missed": 1,
        "overlaps": 0,
        "busiest_minute": "2030-01-01T00:00:00+00:00",
        "firings": [
            {
                "schedule_id": "job",
                "scheduled_for": f"2030-01-01T{hour:02}:00:00+00:00",
                "decision": decision,
                "reason": reason,
            }
            for hour, decision, reason in [
                (0, "dispatched", None),
                (8, "missed", "outside-catchup-window"),
                (16, "dispatched", None),
            ]
        ],
    }


def test_without_schedules_there_is_nothing_to_tell(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--cron", "@daily", "m:f")
    sqlsched("rm", "job")
    found = simulated(sqlsched)
    assert (found["dispatched"], found["busiest_minute"], found["firings"]) == (0, None, [])
    assert sqlsched("simulate").stdout.splitlines()[-1].split() == ["busiest", "minute", "none"]


def test_it_goes_on_from_now_for_a_day(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--cron", "0 * * * *", "m:f")
    assert simulated(sqlsched)["dispatched"] == 24
    assert 47 <= simulated(sqlsched, "--from", "2030-01-01T00:30", "--to", "2030-01-03")[
        "dispatched"
    ] <= 48  # fmt: skip


def test_people_are_told_in_a_few_lines(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--cron", "*/10 * * * *", "m:f")
    result = sqlsched(
        *("simulate", *DAY, "--duration", "jo=15m", "-n", "3"),
        *("--down", "2030-01-01T00:25..2030-01-01T02:00"),
    )
    assert result.stdout.splitlines() == [
        "from            2030-01-01T00:00:00+00:00",
        "to              2030-01-02T00:00:00+00:00",
        "dispatched      68",
        "skipped         67",
        "missed          9",
        "overlaps        67",
        "busiest minute  2030-01-01T00:00:00+00:00, 1 started",
        "",
        "SCHEDULED FOR              SCHEDULE    WHAT     WHY",
        "2030-01-01T00:10:00+00:00  job         skipped  overlap",
        "2030-01-01T00:30:00+00:00  job         missed   outside-catchup-window, 9 firings until "
        "2030-01-01T01:50:00+00:00",
        "2030-01-01T02:10:00+00:00  job         skipped  overlap",
    ]
    assert result.stderr == "there are more that would not run; -n lists more than 3, --json all\n"


def test_the_clock_may_be_set(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--cron", "0 * * * *", "m:f")
    found = simulated(
        sqlsched,
        *(*DAY, "--clock-step", "2030-01-01T05:30=+2h", "--clock-step", "2030-01-01T12:30=-6h"),
    )
    assert (found["dispatched"], found["missed"]) == (23, 1)  # six never came again
    found = simulated(sqlsched, *DAY, "--clock-step", "2030-01-01T05:30+00:00=+2h")
    assert (found["dispatched"], found["missed"]) == (22, 2)


def test_what_cannot_be_read_is_named_on_the_side(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--cron", "0 * * * *", "m:f")
    sqlsched("add", "--id", "bad", "--cron", "0 * * * *", "m:f")
    with sqlite3.connect("sqlsched.db") as database:
        database.execute("UPDATE schedules SET labels = '{' WHERE schedule_id = 'bad'")
    database.close()
    result = sqlsched("simulate", "--json", *DAY)
    assert json.loads(result.stdout)["dispatched"] == 24
    assert result.stderr.startswith("Warning: schedule bad cannot be read, and is left out: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from", "soon"), "--from 'soon': a time is ISO 8601"),
        (("--to", "2020-01-01"), "--to 2020-01-01T00:00:00+00:00: give a time after "),
        (("--from", "2030-01-01", "--to", "2030-01-01"), "give a time after 2030-01-01T00:00:00"),
        (("--down", "2030-01-01"), "--down '2030-01-01': give two times, A..B"),
        (("--down", "2030-01-01..x"), "--down 'x': a time is ISO 8601"),
        (("--down", "2030-01-02..2030-01-01"), "give the earlier time first"),
        (("--clock-step", "2030-01-01"), "--clock-step '2030-01-01': give a time, and how far"),
        (("--clock-step", "2030-01-01=5m"), "--clock-step '2030-01-01=5m': give a time, and how"),
        (("--clock-step", "2030-01-01=+soon"), "--clock-step 'soon': a duration is whole seconds"),
        (("--clock-step", "2020-01-01=+5m"), "--clock-step '2020-01-01=+5m': that is before 20"),
        (("--duration", "job"), "--duration 'job': give ID=DURATION, like mail=90s"),
        (("--duration", "job=long"), "--duration job 'long': a duration is whole seconds"),
        (("--concurrency", "0"), "'--concurrency': 0 is not in the range"),
        (("--to", "2500-01-01"), "firings, and at most 10,000,000 are simulated"),
    ],
)
def test_what_is_wrong_is_named(sqlsched: Sqlsched, options: tuple[str, ...], said: str) -> None:
    sqlsched("add", "--id", "job", "--every", "1m", "m:f")
    result = sqlsched("simulate", *options)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_duration_of_an_unknown_schedule_is_an_error(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "job", "--every", "1m", "m:f")
    result = sqlsched("simulate", "--duration", "nobody=5m")
    assert (result.returncode, result.stdout) == (1, "")
    assert "no schedule has the id 'nobody'" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_shown_how_far_it_is_and_who_has_seen_enough_ends_it(
    sqlsched: Sqlsched, tmp_path: Path, number: int
) -> None:
    sqlsched("add", "--cron", "* * * * *", "m:f")
    place = tmp_path / "tmp"
    place.mkdir()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sqlsched", "simulate", "--json", "--to", "2040-01-01"],
        stderr=theirs,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(place)},
    ) as program:
        os.close(theirs)
        said = os.read(ours, 4096)
        wait_for(lambda: any(place.glob("*/simulated.db-owner-*")))
        program.send_signal(number)
        assert program.communicate()[0] == b""
    os.close(ours)
    assert b"simulating" in said
    assert program.returncode == 128 + number
    assert list(place.iterdir()) == []


# -- plan -----------------------------------------------------------------------------------------


@pytest.fixture
def file(sqlsched: Sqlsched, tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(FILE)
    sqlsched("sync", "shop.toml")
    return path


def test_a_plan_says_what_a_change_makes_of_the_firings(sqlsched: Sqlsched, file: Path) -> None:
    before = sqlsched("export").stdout
    file.write_text(FILE.replace("*/5", "*/10").replace("ping", "pong"))
    result = sqlsched("plan", "shop.toml", "--days", "2", "--prune", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "added": ["pong"],
        "changed": ["mail"],
        "unchanged": [],
        "removed": ["ping"],
        "firings_added": 48,
        "firings_removed": 48 + 2 * 144,
        "new_overlaps": 0,
    }
    assert sqlsched("export").stdout == before
    result = sqlsched("plan", "shop.toml", "--days", "2")
    assert result.stdout.splitlines() == [
        "next 2 days: 288 fewer, 48 more, 0 new overlaps",
        "SCHEDULE    CHANGE    MORE    FEWER    NEW OVERLAPS",
        "pong        added     48      0        0",
        "mail        changed   0       288      0",
    ]
    assert result.stderr == (
        "not in the file any more: ping; --prune removes them\n"
        "would be: 1 added, 1 changed, 0 unchanged, 0 removed\n"
    )


def test_a_plan_that_changes_nothing_says_so(sqlsched: Sqlsched, file: Path) -> None:
    result = sqlsched("plan", file.name)
    assert result.stdout == "next 30 days: 0 fewer, 0 more, 0 new overlaps\n"
    assert result.stderr == "would be: 0 added, 0 changed, 2 unchanged, 0 removed\n"


def test_a_plan_names_what_is_wrong_as_sync_does(sqlsched: Sqlsched, file: Path) -> None:
    file.write_text(FILE.replace("*/5", "65"))
    result = sqlsched("plan", "shop.toml")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: shop.toml, line 3: schedule 'mail': cron '65 ")
    file.write_text(FILE + "end = 2020-01-01")
    result = sqlsched("plan", "shop.toml")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: shop.toml, line 5: end 2020-01-01")


def test_a_plan_needs_a_database(sqlsched: Sqlsched, file: Path, tmp_path: Path) -> None:
    result = sqlsched("--db", "other.db", "plan", file.name)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: there is no database at other.db")
    assert not (tmp_path / "other.db").exists()

"""`sqlsched list`, `show` and `next`: every field, every selection, done schedules."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

FIELDS = [
    *("id", "task_name", "args", "kwargs", "labels", "cron", "cron_offset", "time", "interval"),
    *("paused", "next_fire_time", "last_fire_time", "last_status", "note"),
]


@pytest.fixture
def stocked(sqlsched: Sqlsched) -> Sqlsched:
    """The program, with a schedule of each kind."""
    sqlsched(
        *("add", "--id", "cron", "--cron", "30 2 * * *", "--tz", "Europe/Berlin"),
        *("--args", "[1]", "--kwargs", '{"a": "é"}', "--label", "team=x", "--note", "nightly"),
        "shop.jobs:clean",
    )
    sqlsched("add", "--id", "once", "--at", "2090-01-01T12:00:00.5", "shop.mail:send")
    sqlsched("add", "--id", "often", "--every", "1h30m", "--paused", "--", "cp", "-r", "a", "b")
    return sqlsched


def listed(sqlsched: Sqlsched, *options: str) -> list[dict[str, Any]]:
    result = sqlsched("list", "--json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    schedules: list[dict[str, Any]] = json.loads(result.stdout)
    return schedules


def times_of(result: CompletedProcess[str]) -> list[str]:
    times: list[str] = json.loads(result.stdout)
    return times


def test_an_empty_list_is_an_empty_array(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--shell", "true")
    sqlsched("rm", "it")
    assert listed(sqlsched) == []
    result = sqlsched("list")
    assert (result.returncode, result.stdout, result.stderr) == (
        *(0, ""),
        "no schedules; --all shows those that are done\n",
    )


def test_list_has_every_field_with_unused_ones_null(stocked: Sqlsched) -> None:
    cron, once, often = listed(stocked)
    assert all(list(schedule) == FIELDS for schedule in (cron, once, often))
    assert (cron["cron"], cron["cron_offset"]) == ("30 2 * * *", "Europe/Berlin")
    assert (cron["args"], cron["kwargs"]) == ([1], {"a": "é"})
    assert (cron["labels"], cron["note"]) == ({"team": "x"}, "nightly")
    assert (cron["time"], cron["interval"]) == (None, None)
    assert once["time"] == once["next_fire_time"] == "2090-01-01T12:00:00.500000+00:00"
    assert (often["interval"], often["paused"]) == (5400, True)
    assert (often["last_fire_time"], often["last_status"]) == (None, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["cron", "once", "often"]),
        (("--all",), ["cron", "once", "often"]),
        (("--paused",), ["often"]),
        (("--active",), ["cron", "once"]),
        (("--label", "team=x"), ["cron"]),
        (("--label", "team=y"), []),
        (("--task", "shop.*"), ["cron", "once"]),
        (("--task", "*:send"), ["once"]),
        (("--task", "shop"), []),
        (("--task", "sqlsched:exec"), ["often"]),
        (("--active", "--task", "shop.jobs:*"), ["cron"]),
    ],
)
def test_a_selection_is_listed_in_the_order_of_making(
    stocked: Sqlsched, options: tuple[str, ...], expected: list[str]
) -> None:
    assert [schedule["id"] for schedule in listed(stocked, *options)] == expected


def test_the_table_prints_ids_whole_and_commands_as_they_are(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "x" * 64, "--every", "1h30m", "--", "cp", "-r", "a", "b")
    header, row = sqlsched("list").stdout.splitlines()
    assert header.split() == ["ID", "TASK", "WHEN", "NEXT", "LAST", "STATUS", "NOTE"]
    assert row.startswith("x" * 64)
    assert "cp -r a b" in row
    assert "every 1h30m" in row


def test_a_long_table_has_one_header(sqlsched: Sqlsched) -> None:
    lines = sqlsched("next", "--cron", "@hourly", "-n", "1200").stdout.splitlines()
    assert len(lines) == 1200


def test_show_says_everything_that_list_says_and_more(stocked: Sqlsched) -> None:
    details = json.loads(stocked("show", "cron", "--json").stdout)
    assert {name: details[name] for name in FIELDS} == listed(stocked)[0]
    assert len(details["next_fire_times"]) == 5
    assert details["next_fire_times"][0] == details["next_fire_time"]
    text = stocked("show", "cron").stdout
    assert all(word in text for word in ("30 2 * * *", "Europe/Berlin", "nightly", '{"a": "é"}'))
    assert all(time in text for time in details["next_fire_times"])


def test_show_of_a_one_shot_has_its_one_time(stocked: Sqlsched) -> None:
    details = json.loads(stocked("show", "once", "--json").stdout)
    assert details["next_fire_times"] == ["2090-01-01T12:00:00.500000+00:00"]


def test_next_is_strictly_after_a_time(sqlsched: Sqlsched) -> None:
    arguments = ("next", "--cron", "0 12 * * *", "--json", "-n", "2", "--after")
    noon = "2026-11-23T12:00:00+00:00"
    day_after = ["2026-11-24T12:00:00+00:00", "2026-11-25T12:00:00+00:00"]
    assert times_of(sqlsched(*arguments, noon)) == day_after
    before = times_of(sqlsched(*arguments, "2026-11-23T11:59:59.999999"))
    assert before == [noon, day_after[0]]


def test_next_reads_the_zone_for_the_fields_and_for_naive_times(sqlsched: Sqlsched) -> None:
    arguments = ("next", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--json", "-n", "3")
    # The night of 2026-03-29 has no 02:30 in Berlin: it fires at the end of the gap.
    times = times_of(sqlsched(*arguments, "--after", "2026-03-28T02:30"))
    assert times == [
        *("2026-03-29T01:00:00+00:00", "2026-03-30T00:30:00+00:00", "2026-03-31T00:30:00+00:00")
    ]


def test_next_of_a_schedule_goes_by_its_own_zone_and_bounds(sqlsched: Sqlsched) -> None:
    bounds = ("--start", "2090-01-01", "--end", "2090-01-02", "--tz", "+01:00")
    sqlsched("add", "--id", "it", "--cron", "0 0 * * *", *bounds, "--shell", "true")
    assert times_of(sqlsched("next", "it", "--json")) == [
        *("2089-12-31T23:00:00+00:00", "2090-01-01T23:00:00+00:00")
    ]
    after = sqlsched("next", "it", "--after", "2091-01-01")
    assert (after.returncode, after.stdout, after.stderr) == (0, "", "no more firings\n")
    assert times_of(sqlsched("next", "it", "--after", "2091-01-01", "--json")) == []


def test_next_ends_with_max_runs(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--max-runs", "2", "--shell", "true")
    assert len(times_of(sqlsched("next", "it", "--json"))) == 2


def test_next_of_an_interval_goes_on_from_now(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "10m", "--shell", "true")
    first, second = map(
        datetime.fromisoformat, times_of(sqlsched("next", "it", "-n", "2", "--json"))
    )
    assert second - first == timedelta(minutes=10)
    assert timedelta(minutes=9) < first - datetime.now(UTC) <= timedelta(minutes=10)


def test_next_prints_people_how_far_off_it_is(sqlsched: Sqlsched) -> None:
    result = sqlsched("next", "--cron", "* * * * *", "-n", "1")
    assert result.stdout.endswith("s\n") or result.stdout.endswith("now\n")
    assert result.stdout.split()[0].endswith("+00:00")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_output_that_cannot_be_written_is_not_blamed_on_the_database(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "sqlsched"]
    subprocess.run([*program, "add", "--every", "1h", "m:t"], cwd=tmp_path, check=True)
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(
            [*program, "list", "--json"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert said.returncode == 1
    assert said.stderr.startswith("Error: standard output: No space left")

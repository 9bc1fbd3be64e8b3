"""`sqlsched add`: each option, what it prints, and what happens to an id that is taken."""

import json
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

TASK = "shop.jobs:send_mail"


def shown(sqlsched: Sqlsched, schedule_id: str) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(sqlsched("show", schedule_id, "--json").stdout)
    return details


def added(sqlsched: Sqlsched, *arguments: str) -> dict[str, Any]:
    result = sqlsched("add", "--id", "it", *arguments)
    assert (result.returncode, result.stdout) == (0, "it\n"), result
    return shown(sqlsched, "it")


def test_the_new_id_stands_alone_on_stdout(sqlsched: Sqlsched) -> None:
    result = sqlsched("add", "--every", "5m", TASK)
    assert re.fullmatch(r"[0-9a-f]{12}\n", result.stdout)
    assert re.fullmatch(
        rf"added: {TASK}, next \d{{4}}-\d\d-\d\dT\S+\+00:00 \(in (4m59s|5m)\)\n", result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "field", "expected"),
    [
        (("--cron", "*/5 * * * *"), "cron", "*/5 * * * *"),
        (("--cron", "@daily"), "cron", "@daily"),
        (("--at", "2090-01-01T12:00"), "time", "2090-01-01T12:00:00+00:00"),
        (("--at", "2090-01-01T12:00+02:00"), "time", "2090-01-01T10:00:00+00:00"),
        (("--at", "2090-01-01T12:00", "--tz", "Asia/Tokyo"), "time", "2090-01-01T03:00:00+00:00"),
        (("--at", "2090-01-01T12:00Z", "--tz", "+02"), "time", "2090-01-01T12:00:00+00:00"),
        (("--at", "2090-01-01 12:00:00.25"), "time", "2090-01-01T12:00:00.250000+00:00"),
        (("--every", "90"), "interval", 90),
        (("--every", "1h30m"), "interval", 5400),
        (("--every", "2D"), "interval", 172_800),
    ],
)
def test_a_trigger_is_stored_as_it_was_meant(
    sqlsched: Sqlsched, arguments: tuple[str, ...], field: str, expected: object
) -> None:
    details = added(sqlsched, *arguments, TASK)
    unused = {"cron", "time", "interval"} - {field}
    assert details[field] == expected
    assert all(details[name] is None for name in unused)


def test_in_is_a_time_so_far_from_now(sqlsched: Sqlsched) -> None:
    before = datetime.now(UTC)
    time = datetime.fromisoformat(added(sqlsched, "--in", "1h30m", TASK)["time"])
    assert timedelta(hours=1.5) <= time - before < timedelta(hours=1.5, minutes=1)


@pytest.mark.parametrize(
    ("arguments", "field", "expected"),
    [
        (("--tz", "Europe/Berlin"), "cron_offset", "Europe/Berlin"),
        (("--cron-offset", "Europe/Berlin"), "cron_offset", "Europe/Berlin"),
        (("--tz", "+02:00"), "cron_offset", "+02:00"),
        (("--tz", "-PT90M"), "cron_offset", "-01:30"),
        (("--tz=-05:30",), "cron_offset", "-05:30"),
        (("--tz", "7200"), "cron_offset", "+02:00"),
        (("--args", '[1, "two", null, [3.5]]'), "args", [1, "two", None, [3.5]]),
        (("--args", "[9223372036854775807]"), "args", [2**63 - 1]),
        (("--kwargs", '{"who": "Zoë", "n": {}}'), "kwargs", {"who": "Zoë", "n": {}}),
        (("--label", "a=1", "--label", "b=x=y"), "labels", {"a": "1", "b": "x=y"}),
        (("--label", "empty="), "labels", {"empty": ""}),
        (("--start", "2090-01-01"), "start", "2090-01-01T00:00:00+00:00"),
        (("--end", "2090-01-01", "--tz", "+01"), "end", "2089-12-31T23:00:00+00:00"),
        (("--max-runs", "3"), "max_runs", 3),
        (("--jitter", "30s"), "jitter", 30),
        (("--catchup-window", "1h"), "catchup_window", 3600),
        (("--catchup-window", "none"), "catchup_window", "none"),
        (("--catchup-window", "unlimited"), "catchup_window", "unlimited"),
        (("--coalesce", "latest"), "coalesce", "latest"),
        (("--coalesce", "earliest"), "coalesce", "earliest"),
        (("--coalesce", "all"), "coalesce", "all"),
        (("--overlap", "allow"), "overlap", "allow"),
        (("--overlap", "skip"), "overlap", "skip"),
        (("--overlap", "buffer-one"), "overlap", "buffer-one"),
        (("--overlap", "buffer-all"), "overlap", "buffer-all"),
        (("--overlap", "cancel-other"), "overlap", "cancel-other"),
        (("--timeout", "5m"), "timeout", 300),
        (("--retries", "0"), "retries", 0),
        (("--retries", "2147483647"), "retries", 2**31 - 1),
        (("--retry-delay", "1m"), "retry_delay", 60),
        (("--expires", "10m"), "expires", 600),
        (("--note", "für Zoë"), "note", "für Zoë"),
        (("--paused",), "paused", True),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_every_option_is_stored(
    sqlsched: Sqlsched, arguments: tuple[str, ...], field: str, expected: object
) -> None:
    assert added(sqlsched, "--cron", "0 9 * * *", *arguments, TASK)[field] == expected


def test_what_is_not_given_is_null_or_empty(sqlsched: Sqlsched) -> None:
    details = added(sqlsched, "--every", "5m", TASK)
    empty = {name for name, value in details.items() if value is None}
    assert empty == {
        *("cron", "cron_offset", "time", "last_fire_time", "last_status", "note", "start", "end"),
        *("max_runs", "jitter", "catchup_window", "coalesce", "overlap", "timeout", "retries"),
        *("on_success", "on_failure", "on_missed", "ping", "pause_on_failure"),
        *("retry_delay", "expires", "task_id", "paused_since", "source"),
    }
    assert (details["args"], details["kwargs"], details["labels"]) == ([], {}, {})
    assert (details["paused"], details["done"]) == (False, False)


def test_json_may_be_nested_64_deep(sqlsched: Sqlsched) -> None:
    deepest = "[" * 64 + "1" + "]" * 64
    assert json.dumps(added(sqlsched, "--every", "5m", "--args", deepest, TASK)["args"]) == deepest


def test_a_command_is_kept_word_for_word(sqlsched: Sqlsched) -> None:
    words = ["cp", "-r", "--every", "9 lives", "--", "-h", "", "a b", "$HOME", "add"]
    details = added(sqlsched, "--every", "5m", "--", *words)
    assert (details["task_name"], details["args"]) == ("sqlsched:exec", words)


def test_a_shell_line_is_kept_as_it_is(sqlsched: Sqlsched) -> None:
    line = "date >> 'my file'; echo \"$HOME\" -- | cat"
    details = added(sqlsched, "--every", "5m", "--shell", line)
    assert (details["task_name"], details["args"]) == ("sqlsched:shell", [line])


def test_a_one_shot_of_the_past_is_taken_and_overdue(sqlsched: Sqlsched) -> None:
    result = sqlsched("add", "--at", "2020-01-01", TASK)
    assert "next 2020-01-01T00:00:00+00:00 (" in result.stderr
    assert result.stderr.endswith("ago)\n")


def test_a_paused_schedule_says_so(sqlsched: Sqlsched) -> None:
    assert sqlsched("add", "--every", "5m", "--paused", TASK).stderr == f"added: {TASK}, paused\n"


def test_an_interval_begins_with_its_start(sqlsched: Sqlsched) -> None:
    details = added(sqlsched, "--every", "5m", "--start", "2090-01-01T00:00:30", TASK)
    assert details["next_fire_times"][:2] == [
        *("2090-01-01T00:00:30+00:00", "2090-01-01T00:05:30+00:00")
    ]


def test_the_same_content_again_is_no_change(sqlsched: Sqlsched) -> None:
    daily = ("--id", "it", "--cron", "0 9 * * *", TASK)
    before = added(sqlsched, *daily, "--tz", "+02:00", "--args", "[1]")
    again = sqlsched("add", *daily, "--tz", "7200", "--args", "[ 1 ]")
    assert (again.returncode, again.stdout) == (0, "it\n")
    assert again.stderr.startswith("there already, unchanged: ")
    assert shown(sqlsched, "it") == before


def test_the_same_interval_again_keeps_its_next_time(sqlsched: Sqlsched) -> None:
    before = added(sqlsched, "--every", "1h", TASK)["next_fire_time"]
    assert added(sqlsched, "--every", "60m", TASK)["next_fire_time"] == before


def test_other_content_under_an_id_is_refused_unless_it_is_to_replace(sqlsched: Sqlsched) -> None:
    before = added(sqlsched, "--every", "1h", TASK)
    refused = sqlsched("add", "--id", "it", "--every", "2h", TASK)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "'it'" in refused.stderr
    assert "--replace" in refused.stderr
    assert shown(sqlsched, "it") == before
    assert added(sqlsched, "--every", "2h", "--replace", TASK)["interval"] == 7200


def test_an_id_is_taken_as_a_whole_and_not_as_a_prefix(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "nightly", "--every", "1h", TASK)
    assert sqlsched("add", "--id", "night", "--every", "2h", TASK).returncode == 0


def test_replacing_keeps_history(
    sqlsched: Sqlsched, tmp_path: Path, run_once: Callable[[Path], None]
) -> None:
    added(sqlsched, "--at", "2020-01-01", "--shell", "true")
    run_once(tmp_path)
    added(sqlsched, "--every", "1h", "--replace", TASK)
    history = json.loads(sqlsched("history", "it", "--json").stdout)
    assert [run["task_name"] for run in history] == ["sqlsched:shell"]


@pytest.fixture
def run_once() -> Callable[[Path], None]:
    from subprocess import run

    def call(place: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "SQLSCHED_DB"}
        command = [sys.executable, "-m", "sqlsched", "run", "--once", "--broker", "in-process"]
        run(command, cwd=place, env=environment, check=True, capture_output=True, timeout=60)

    return call

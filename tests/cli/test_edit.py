"""`sqlsched edit`: what is given changes, what is not stays, "default" puts one back."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

FULL = (
    *("add", "--id", "it", "--cron", "0 9 * * *", "--tz", "Europe/Berlin", "--args", "[1]"),
    *("--kwargs", '{"a": 2}', "--label", "team=shop", "--label", "tier=1", "--start", "2030-01-01"),
    *("--end", "2090-01-01", "--max-runs", "9", "--jitter", "5s", "--catchup-window", "1h"),
    *("--coalesce", "all", "--overlap", "allow", "--timeout", "5m", "--retries", "2"),
    *("--retry-delay", "1m", "--expires", "2h", "--note", "first", "shop.jobs:send_mail"),
)


def shown(sqlsched: Sqlsched) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(sqlsched("show", "it", "--json").stdout)
    return details


def changes_of(sqlsched: Sqlsched, *arguments: str) -> dict[str, Any]:
    """The fields that an edit changes, other than the firings."""
    assert sqlsched(*FULL, "--replace").returncode == 0
    before = shown(sqlsched)
    result = sqlsched("edit", "it", *arguments)
    assert (result.returncode, result.stdout) == (0, ""), result
    assert result.stderr.startswith("changed it: ")
    after = shown(sqlsched)
    times = {"next_fire_time", "next_fire_times"}
    return {k: v for k, v in after.items() if v != before[k] and k not in times}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--cron", "@hourly"), {"cron": "@hourly"}),
        (("--tz", "+02:00"), {"cron_offset": "+02:00"}),
        (("--args", "[]"), {"args": []}),
        (("--kwargs", '{"b": 3}'), {"kwargs": {"b": 3}}),
        (("--label", "a=b"), {"labels": {"a": "b"}}),
        (("--start", "2031-01-01"), {"start": "2031-01-01T00:00:00+00:00"}),
        (("--end", "2089-01-01"), {"end": "2089-01-01T00:00:00+00:00"}),
        (("--max-runs", "8"), {"max_runs": 8}),
        (("--jitter", "6"), {"jitter": 6}),
        (("--catchup-window", "none"), {"catchup_window": "none"}),
        (("--coalesce", "earliest"), {"coalesce": "earliest"}),
        (("--overlap", "skip"), {"overlap": "skip"}),
        (("--timeout", "1"), {"timeout": 1}),
        (("--retries", "0"), {"retries": 0}),
        (("--retry-delay", "2m"), {"retry_delay": 120}),
        (("--expires", "1d"), {"expires": 86_400}),
        (("--note", "second"), {"note": "second"}),
        (("shop.jobs:other",), {"task_name": "shop.jobs:other"}),
        (("--retries", "3", "--note", "x"), {"retries": 3, "note": "x"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_edit_changes_what_it_names_and_nothing_else(
    sqlsched: Sqlsched, arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert changes_of(sqlsched, *arguments) == expected


@pytest.mark.parametrize(
    ("option", "field"),
    [
        *(("--tz", "cron_offset"), ("--start", "start"), ("--end", "end"), ("--jitter", "jitter")),
        *(("--max-runs", "max_runs"), ("--catchup-window", "catchup_window"), ("--note", "note")),
        *(("--coalesce", "coalesce"), ("--overlap", "overlap"), ("--timeout", "timeout")),
        *(("--retries", "retries"), ("--retry-delay", "retry_delay"), ("--expires", "expires")),
    ],
)
def test_default_puts_an_option_back(sqlsched: Sqlsched, option: str, field: str) -> None:
    assert changes_of(sqlsched, option, "default") == {field: None}


@pytest.mark.parametrize(
    ("option", "field", "empty"),
    [("--args", "args", []), ("--kwargs", "kwargs", {}), ("--label", "labels", {})],
)
def test_default_empties_what_holds_values(
    sqlsched: Sqlsched, option: str, field: str, empty: object
) -> None:
    assert changes_of(sqlsched, option, "default") == {field: empty}


def test_a_new_trigger_takes_the_place_of_the_old_one(sqlsched: Sqlsched) -> None:
    changes = changes_of(sqlsched, "--every", "10m")
    assert changes == {"cron": None, "interval": 600}
    sqlsched("edit", "it", "--at", "2050-01-01")
    assert (shown(sqlsched)["interval"], shown(sqlsched)["time"]) == (
        None,
        "2050-01-01T00:00:00+00:00",
    )


def test_a_command_takes_the_place_of_a_task_and_back(sqlsched: Sqlsched) -> None:
    as_shell = changes_of(sqlsched, "--shell", "date")
    assert as_shell == {"task_name": "sqlsched:shell", "args": ["date"], "kwargs": {}}
    sqlsched("edit", "it", "--", "cp", "-r", "--all", "--", "x")
    assert shown(sqlsched)["args"] == ["cp", "-r", "--all", "--", "x"]
    sqlsched("edit", "it", "shop.jobs:send_mail")
    assert (shown(sqlsched)["task_name"], shown(sqlsched)["args"]) == ("shop.jobs:send_mail", [])


def test_firings_are_computed_anew_from_the_change_on(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--cron", "0 0 1 1 *", "shop.jobs:send_mail")
    result = sqlsched("edit", "it", "--cron", "0 0 1 1 *", "--tz", "+01:00")
    next_fire = shown(sqlsched)["next_fire_time"]
    assert next_fire.endswith("-12-31T23:00:00+00:00")
    assert result.stderr == f"changed it: next {next_fire}\n"


def test_an_edit_may_pause(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "shop.jobs:send_mail")
    assert sqlsched("edit", "it", "--paused").returncode == 0
    assert shown(sqlsched)["paused"] is True
    sqlsched("edit", "it", "--note", "still paused")
    assert shown(sqlsched)["paused"] is True


def test_a_prefix_is_enough_to_edit(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "shop.jobs:send_mail")
    assert sqlsched("edit", "i", "--note", "found").stderr.startswith("changed it: ")


def test_an_edit_that_leaves_no_firing_changes_nothing(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "shop.jobs:send_mail")
    before = shown(sqlsched)
    result = sqlsched("edit", "it", "--end", "2020-01-01")
    assert (result.returncode, "2020-01-01" in result.stderr) == (2, True)
    assert shown(sqlsched) == before

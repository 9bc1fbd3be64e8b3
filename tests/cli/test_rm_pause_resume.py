"""Commands that take several schedules: all of them or none, by id, by label, or everything."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from subprocess import CompletedProcess

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]


@pytest.fixture
def three(sqlsched: Sqlsched) -> Sqlsched:
    """The program, with schedules a1 and a2 of team x, and b of team y."""
    for name, team in (("a1", "x"), ("a2", "x"), ("b", "y")):
        arguments = ("--label", f"team={team}", "--label", f"own={name}", "--shell", "true")
        assert sqlsched("add", "--id", name, "--every", "1h", *arguments).returncode == 0
    return sqlsched


def ids(sqlsched: Sqlsched, *options: str) -> list[str]:
    return [schedule["id"] for schedule in json.loads(sqlsched("list", "--json", *options).stdout)]


def touched(sqlsched: Sqlsched, command: str) -> list[str]:
    """What `rm` has left out or `pause` has paused."""
    if command == "pause":
        return ids(sqlsched, "--paused")
    return sorted({"a1", "a2", "b"} - set(ids(sqlsched)))


SELECTIONS = [
    (("a1",), ["a1"]),
    (("a1", "b"), ["a1", "b"]),
    (("b", "b"), ["b"]),
    (("--label", "team=x"), ["a1", "a2"]),
    (("--label", "team=x", "--label", "own=a2"), ["a2"]),
    (("--label", "team=z"), []),
    (("--all",), ["a1", "a2", "b"]),
]


@pytest.mark.parametrize(("selection", "expected"), SELECTIONS)
@pytest.mark.parametrize("command", ["rm", "remove", "pause"])
def test_what_is_selected_is_changed_and_nothing_else(
    three: Sqlsched, command: str, selection: tuple[str, ...], expected: list[str]
) -> None:
    result = three(command, *selection)
    assert (result.returncode, result.stdout) == (0, "")
    count = f" {expected[0]}\n" if len(expected) == 1 else f" {len(expected)} schedules\n"
    assert result.stderr.endswith(count)
    assert touched(three, command) == expected


@pytest.mark.parametrize(("selection", "expected"), SELECTIONS)
def test_resume_undoes_pause(
    three: Sqlsched, selection: tuple[str, ...], expected: list[str]
) -> None:
    three("pause", "--all")
    assert three("resume", *selection).returncode == 0
    assert ids(three, "--active") == expected
    assert sorted(ids(three, "--active") + ids(three, "--paused")) == ["a1", "a2", "b"]


@pytest.mark.parametrize("command", ["rm", "pause"])
@pytest.mark.parametrize("bad", ["nosuch", "a", ""])
def test_one_bad_id_among_several_leaves_all_as_they_were(
    three: Sqlsched, command: str, bad: str
) -> None:
    result = three(command, "b", bad, "a1")
    assert (result.returncode, result.stdout) == (1, "")
    assert repr(bad) in result.stderr
    assert touched(three, command) == []


def test_resume_of_one_bad_id_among_several_resumes_none(three: Sqlsched) -> None:
    three("pause", "--all")
    assert three("resume", "a1", "nosuch").returncode == 1
    assert ids(three, "--active") == []


def test_a_label_is_compared_as_text(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "it", "--every", "1h", "--label", "n=1", "--shell", "true")
    assert ids(sqlsched, "--label", "n=1") == ["it"]
    assert ids(sqlsched, "--label", "n=01") == []
    assert ids(sqlsched, "--label", "n=") == []


def test_pausing_twice_and_resuming_what_runs_changes_nothing(three: Sqlsched) -> None:
    three("pause", "b")
    since = json.loads(three("show", "b", "--json").stdout)["paused_since"]
    assert three("pause", "b").returncode == 0
    assert json.loads(three("show", "b", "--json").stdout)["paused_since"] == since
    assert three("resume", "a1").returncode == 0


def test_a_removed_schedule_leaves_its_history_and_frees_its_id(three: Sqlsched) -> None:
    run_id = three("trigger", "b").stdout.strip()
    three("rm", "b")
    [run] = json.loads(three("history", "b", "--json").stdout)
    assert (run["run_id"], run["status"], run["reason"]) == (run_id, "cancelled", "removed")
    assert three("show", "b").returncode == 1
    assert three("add", "--id", "b", "--every", "2h", "--shell", "true").returncode == 0


def test_rm_of_all_or_a_label_removes_done_schedules_too(sqlsched: Sqlsched) -> None:
    for schedule_id, label in (("a", "k=1"), ("b", "k=2")):
        sqlsched("add", "--id", schedule_id, "--at", "2026-01-01", "--label", label, "m:t")
    with closing(sqlite3.connect("sqlsched.db")) as database, database:
        database.execute("UPDATE schedules SET next_us = NULL, wake_us = NULL")
    assert sqlsched("rm", "--label", "k=1").stderr == "removed a\n"
    assert sqlsched("rm", "--all").stderr == "removed b\n"

"""`sqlsched why`, as it is typed: what TIME means, and how the answer is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from sqlsched.storage import pruning
from sqlsched.storage.connection import open_for_writing

Sqlsched = Callable[..., CompletedProcess[str]]
ADD = ("add", "--id", "job", "--every", "20s", "--start", "2090-03-26T01:00:05", "m:f")


@pytest.fixture
def why(sqlsched: Sqlsched) -> Callable[..., dict[str, Any]]:
    def ask(*arguments: str) -> dict[str, Any]:
        result = sqlsched("why", "job", "--json", *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    return ask


def test_the_answer_has_these_fields(
    sqlsched: Sqlsched, why: Callable[..., dict[str, Any]]
) -> None:
    sqlsched(*ADD)
    answer = why()
    assert answer == {
        "schedule_id": "job",
        "at": "2090-03-26T01:00:05+00:00",
        "decision": "pending",
        "reason": "not-yet",
        "run_id": None,
        "scheduled_for": "2090-03-26T01:00:05+00:00",
        "text": answer["text"],
    }
    assert sqlsched("why", "jo").stdout == f"{answer['text']}\n"


@pytest.mark.parametrize(
    ("at", "zone", "scheduled_for"),
    [
        ("2090-03-26T01:01", "UTC", "2090-03-26T01:01:05+00:00"),
        ("2090-03-26 01:01", "UTC", "2090-03-26T01:01:05+00:00"),
        ("20900326T0101", "UTC", "2090-03-26T01:01:05+00:00"),
        ("2090-03-26T01:01+00:00", "UTC", "2090-03-26T01:01:05+00:00"),
        ("2090-03-26T06:31", "+05:30", "2090-03-26T01:01:05+00:00"),
        ("2090-03-26T03:00:05", "Europe/Berlin", "2090-03-26T01:00:05+00:00"),
        ("2090-03-26T01:01:25Z", "Asia/Tokyo", "2090-03-26T01:01:25+00:00"),
        ("20900326T010125", "UTC", "2090-03-26T01:01:25+00:00"),
        ("2090-03-26T01:01:00", "UTC", None),
        ("2090-03-26T01:01:25.5", "UTC", None),
    ],
)
def test_a_time_means_what_it_says_and_no_more(
    sqlsched: Sqlsched,
    why: Callable[..., dict[str, Any]],
    at: str,
    zone: str,
    scheduled_for: str | None,
) -> None:
    sqlsched(*ADD)
    answer = why("--at", at, "--tz", zone)
    assert answer["scheduled_for"] == scheduled_for
    assert answer["decision"] == ("pending" if scheduled_for else "not-due")


def test_the_words_are_on_the_clock_of_the_zone_and_the_fields_in_utc(
    sqlsched: Sqlsched, why: Callable[..., dict[str, Any]]
) -> None:
    sqlsched(*ADD)
    answer = why("--at", "2090-03-26T03:00:05", "--tz", "Europe/Berlin")
    assert "2090-03-26T03:00:05+02:00" in answer["text"]
    assert answer["at"] == "2090-03-26T01:00:05+00:00"


def test_a_run_id_is_written_as_in_the_history(
    sqlsched: Sqlsched, why: Callable[..., dict[str, Any]]
) -> None:
    sqlsched(*ADD)
    run_id = sqlsched("trigger", "job").stdout.strip()
    assert (why()["run_id"], why()["decision"]) == (run_id, "pending")


def test_a_schedule_that_is_gone_can_be_asked_about_until_its_record_is_pruned(
    sqlsched: Sqlsched, why: Callable[..., dict[str, Any]]
) -> None:
    sqlsched(*ADD)
    sqlsched("rm", "job")
    assert why()["reason"] == "removed"
    database = open_for_writing(Path("sqlsched.db"))
    pruning.prune(database, pruning.Cut(2**60, 2**60), 0)
    pruning.forget_changes(database, 2**60)
    database.close()
    gone = sqlsched("why", "job")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "no schedule has the id 'job'" in gone.stderr


def test_a_note_of_a_pause_is_told(sqlsched: Sqlsched, why: Callable[..., dict[str, Any]]) -> None:
    sqlsched("add", "--id", "job", "--every", "1s", "m:f")
    sqlsched("pause", "job", "--note", "see\x1b[31m ticket 7")
    assert why("--at", "2090-01-01T00:00")["reason"] == "paused"
    printed = sqlsched("why", "job", "--at", "2090-01-01").stdout
    assert 'with the note "see\\x1b[31m ticket 7"' in printed


def test_on_a_terminal_the_words_are_broken_between_words(
    sqlsched: Sqlsched, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlsched(*ADD)
    whole = sqlsched("why", "job").stdout
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    broken = sqlsched("why", "job").stdout
    assert max(map(len, broken.splitlines())) <= 60
    assert broken.split() == whole.split()
    assert broken.count("\n") > 1


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("why", "job", "--at", "yesterday"), 2, "--at 'yesterday'"),
        (("why", "job", "--tz", "Mars"), 2, "'Mars'"),
        (("why", "nothing"), 1, "'nothing'"),
        (("why",), 2, "ID"),
        (("pause", "job", "--note", "\ud800"), 2, "UTF-8"),
    ],
)
def test_bad_input_is_named(
    sqlsched: Sqlsched, arguments: tuple[str, ...], code: int, named: str
) -> None:
    sqlsched(*ADD)
    result = sqlsched(*arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("Error: ")
    assert named in result.stderr
    assert result.stderr.count("\n") == 1

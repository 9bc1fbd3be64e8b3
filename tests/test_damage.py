"""What a bad disk, or a bad hand, makes of a database is called damage, in one line; never waited
for, and never a traceback. The fuzzer found each of these."""

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.storage import peers
from sqlsched.storage.connection import open_for_writing
from sqlsched.storage.errors import DamagedDatabaseError, blaming

Sqlsched = Callable[..., CompletedProcess[str]]

RUN = ("run", "--once", "--broker", "in-process")


@pytest.fixture
def good(sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a run that failed, and has a retry to come, and one that is due."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    retried = ("--args", "[1, 0]", "--retries", "1", "operator:truediv")
    assert sqlsched("add", "--id", "old", "--at", "2020-01-01", *retried).returncode == 0
    assert sqlsched("add", "--id", "said", "--at", "2020-01-01", "--shell", "echo").returncode == 0
    assert sqlsched(*RUN).returncode == 0
    assert sqlsched("add", "--id", "due", "--at", "2020-01-01", "builtins:dict").returncode == 0
    return tmp_path / "sqlsched.db"


def harm(path: Path, *statements: str) -> None:
    """Change rows as no statement could: STRICT is gone while it is done."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA ignore_check_constraints = ON")
        _rewrite(other, ") STRICT", ")  /* */")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            other.execute(statement)
        _rewrite(other, ")  /* */", ") STRICT")


def _rewrite(other: sqlite3.Connection, old: str, new: str) -> None:
    other.execute("PRAGMA writable_schema = ON")
    other.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, ?)", (old, new))


def is_damage(result: CompletedProcess[str], what: str) -> bool:
    """Exit status 1, and one line of error, the last."""
    *logged, last = result.stderr.splitlines()
    return (
        result.returncode == 1
        and last.startswith("Error: sqlsched.db is damaged: ")
        and what in last
        and not any("Error" in line or "trying again" in line for line in logged)
    )


def test_what_will_not_pass_is_not_tried_again(sqlsched: Sqlsched, good: Path) -> None:
    with closing(sqlite3.connect(good, isolation_level=None)) as other:
        _rewrite(other, "timeout_s", "timeout_x")
    for command in (("list",), RUN):
        assert is_damage(sqlsched(*command), "no such column"), command


def test_a_page_that_only_run_reads_is_named_by_it(sqlsched: Sqlsched, good: Path) -> None:
    with closing(sqlite3.connect(good)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'owners'"
        (page,) = other.execute(query).fetchone()
    data = bytearray(good.read_bytes())
    data[(page - 1) * 4096] = 0xEE
    good.write_bytes(data)
    assert is_damage(sqlsched(*RUN), "malformed")


@pytest.mark.parametrize(
    ("change", "command", "what"),
    [
        ("UPDATE runs SET started_us = 'soon'", ("history",), "runs.started_us"),
        ("UPDATE runs SET error = x'00'", ("history", "--json"), "runs.error"),
        ("UPDATE runs SET attempt = 'one' WHERE run_id = 1", ("history",), "runs.attempt"),
        ("UPDATE outputs SET head = 'text'", ("logs", "--last", "said"), "outputs.head"),
        ("UPDATE outputs SET total_bytes = x'00'", ("logs", "2"), "outputs.total_bytes"),
        ("UPDATE schedules SET wake_us = 'soon'", RUN, "schedules.wake_us"),
        ("UPDATE runs SET due_us = 'soon'", RUN, "runs.due_us"),
        ("UPDATE owners SET seen_us = 'now'", RUN, "owners.seen_us"),
    ],
)
def test_a_value_of_a_wrong_kind_is_found_to_be_the_file_s_fault(
    sqlsched: Sqlsched, good: Path, change: str, command: tuple[str, ...], what: str
) -> None:
    harm(good, change)
    assert is_damage(sqlsched(*command), f"value in {what}"), sqlsched(*command)


def test_a_row_of_a_wrong_kind_is_passed_over_by_list(sqlsched: Sqlsched, good: Path) -> None:
    harm(good, "UPDATE schedules SET next_us = 'soon' WHERE schedule_id = 'due'")
    result = sqlsched("list", "--all")
    assert (result.returncode, "old" in result.stdout, "due" in result.stdout) == (0, True, False)
    assert result.stderr.startswith("Warning: schedule due cannot be read")


def test_an_index_of_a_wrong_kind_is_the_file_s_fault(sqlsched: Sqlsched, good: Path) -> None:
    """The rows are right: only integrity_check looks into indexes."""
    pages = "SELECT sum(rootpage) FILTER (WHERE name = 'runs_waiting') FROM sqlite_schema"
    with closing(sqlite3.connect(good)) as other:
        (page,) = other.execute(pages).fetchone()
        (due_us,) = other.execute("SELECT due_us FROM runs WHERE status = 'waiting'").fetchone()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(good.read_bytes())
    entry = data.index(due_us.to_bytes(8), (page - 1) * 4096)
    assert entry < page * 4096
    assert data[entry - 2] == 6, "an integer of eight bytes"
    data[entry - 2] = 13 + 2 * 8  # text of eight bytes
    data[entry : entry + 8] = b"eventual"
    good.write_bytes(data)
    assert is_damage(sqlsched(*RUN), "runs_waiting")


def test_text_that_is_none_is_damage_and_is_not_shown(sqlsched: Sqlsched, good: Path) -> None:
    harm(good, "UPDATE schedules SET task_name = CAST(x'736563726574ff' AS TEXT)")
    for command in (("list",), ("export",), RUN):
        result = sqlsched(*command)
        assert is_damage(result, "a text in it is not UTF-8"), command
        assert "secret" not in result.stderr


def test_a_schema_that_is_no_text_is_damage(sqlsched: Sqlsched, good: Path) -> None:
    with closing(sqlite3.connect(good, isolation_level=None)) as other:
        other.execute("PRAGMA writable_schema = ON")
        other.execute(
            """UPDATE sqlite_schema SET sql = CAST(x'435245415445205441424c4520ff28' AS TEXT)
               WHERE name = 'meta'"""
        )
    for command in (("list",), RUN):
        result = sqlsched(*command)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result
        assert result.stderr.startswith("Error: sqlsched.db is damaged: ")


def test_an_instant_beyond_the_calendar_is_shown_as_the_number_it_is(
    sqlsched: Sqlsched, good: Path
) -> None:
    harm(good, "UPDATE runs SET started_us = 1 << 60 WHERE run_id = 1")
    for command in (("history",), ("history", "--json")):
        result = sqlsched(*command)
        assert (result.returncode, result.stderr) == (0, ""), result
        assert "1152921504606" in result.stdout
    assert json.loads(sqlsched("history", "--json").stdout)[-1]["started_at"] == f"{1 << 60} us"
    assert sqlsched(*RUN).returncode == 0


def test_labels_that_are_no_json_match_nothing_and_stop_nothing(
    sqlsched: Sqlsched, good: Path
) -> None:
    sqlsched("add", "--id", "labelled", "--every", "1h", "--label", "a=b", "m:f")
    harm(good, "UPDATE schedules SET labels = '{' WHERE schedule_id = 'due'")
    result = sqlsched("list", "--label", "a=b")
    assert (result.returncode, result.stderr) == (0, "")
    assert "labelled" in result.stdout


def test_a_mistake_of_the_program_is_not_called_damage(good: Path) -> None:
    with (
        closing(open_for_writing(good)) as database,
        pytest.raises(TypeError, match="ours"),
        blaming(database),
    ):
        raise TypeError("ours")


def test_what_broke_is_kept_as_the_cause(good: Path) -> None:
    harm(good, "UPDATE runs SET started_us = 'soon'")
    with closing(open_for_writing(good)) as database:
        with pytest.raises(DamagedDatabaseError) as caught, blaming(database):
            raise TypeError("theirs")
        assert str(caught.value.__cause__) == "theirs"
        assert peers.others(database, None) == []


def _phantom(path: Path, index: str, *statements: str) -> None:
    """Change rows behind an index's back: it is not there while they are."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        query = "SELECT * FROM sqlite_schema WHERE name = ?"
        row = other.execute(query, (index,)).fetchone()
        other.execute("PRAGMA writable_schema = ON")
        other.execute("DELETE FROM sqlite_schema WHERE name = ?", (index,))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)
        other.execute("PRAGMA writable_schema = ON")
        other.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)


@pytest.mark.parametrize(
    ("index", "change"),
    [
        ("schedules_due", "DELETE FROM schedules WHERE schedule_id = 'due'"),
        ("schedules_due", "UPDATE schedules SET wake_us = NULL, next_us = NULL"),
        ("schedules_due", "UPDATE schedules SET wake_us = wake_us + 9e13, next_us = wake_us"),
        ("runs_waiting", "UPDATE runs SET due_us = due_us + 90000000000000"),
        ("runs_waiting", "UPDATE runs SET status = 'cancelled', finished_us = due_us"),
    ],
)
def test_what_only_an_index_has_is_not_looked_for_for_ever(
    sqlsched: Sqlsched, good: Path, index: str, change: str
) -> None:
    retry_is_due = "UPDATE runs SET due_us = 1 WHERE status = 'waiting'"
    with closing(sqlite3.connect(good, isolation_level=None)) as other:
        other.execute(retry_is_due)
    _phantom(good, index, change)
    assert is_damage(sqlsched(*RUN), "")


@pytest.mark.parametrize("moment", ["-1", "0", "-1 << 50"])
def test_a_time_before_all_times_is_due_and_no_reason_to_turn_for_ever(
    sqlsched: Sqlsched, good: Path, moment: str
) -> None:
    with closing(sqlite3.connect(good)) as other, other:
        other.execute(f"UPDATE schedules SET wake_us = {moment} WHERE wake_us NOT NULL")  # noqa: S608
        other.execute(f"UPDATE runs SET due_us = {moment} WHERE status = 'waiting'")  # noqa: S608
    assert sqlsched(*RUN).returncode == 0
    statuses = [run["status"] for run in json.loads(sqlsched("history", "--json").stdout)]
    assert "waiting" not in statuses

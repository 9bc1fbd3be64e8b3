"""`sqlsched prune`, and how long `run` keeps what it did."""

import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from sqlsched.clock import now_us
from sqlsched.storage import pruning
from sqlsched.storage.connection import Database

Sqlsched = Callable[..., CompletedProcess[str]]

DAY_US = 86_400 * 1_000_000


@contextmanager
def ledger(path: str = "sqlsched.db") -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path)
    with database:
        yield database
    database.close()


def record(
    count: int, *, schedule_id: str = "a", days: float = 100, status: str = "succeeded"
) -> None:
    """Enter runs that ended so many days ago, a microsecond apart."""
    at = now_us() - round(days * DAY_US)
    with ledger() as database:
        database.executemany(
            """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
                   due_us, started_us, finished_us)
               VALUES (?1, 'm:f', ?2, 1, 'schedule', ?3, ?2, ?2, ?2)""",
            ((schedule_id, at + number, status) for number in range(count)),
        )


def left(sqlsched: Sqlsched) -> list[tuple[str, str]]:
    rows = json.loads(sqlsched("history", "--json", "-n", "10000").stdout)
    return [(row["schedule_id"], row["status"]) for row in rows]


@pytest.fixture
def schedule(sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "a", "--every", "1h", "--shell", "true")


pytestmark = pytest.mark.usefixtures("schedule")


def test_what_is_old_is_forgotten_and_counted(sqlsched: Sqlsched) -> None:
    record(1200)
    record(2, days=20)
    result = sqlsched("prune")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "forgot 1200 runs\n")
    assert len(left(sqlsched)) == 2
    assert sqlsched("prune", "--older-than", "21d").stderr == "forgot 0 runs\n"
    assert json.loads(sqlsched("prune", "--older-than", "19d", "--json").stdout) == {"pruned": 2}
    assert left(sqlsched) == []
    assert sqlsched("prune").stderr == "forgot 0 runs\n"


def test_what_failed_may_stay_longer(sqlsched: Sqlsched) -> None:
    for status in ("succeeded", "skipped", "cancelled", "failed", "missed"):
        record(1, status=status, schedule_id=status)
    record(1, status="failed", schedule_id="younger", days=20)
    options = ("prune", "--older-than", "30d", "--keep-failed")
    assert sqlsched(*options, "200d").stderr == "forgot 3 runs\n"
    assert {status for _, status in left(sqlsched)} == {"failed", "missed"}
    assert sqlsched(*options, "99d").stderr == "forgot 2 runs\n"
    assert sqlsched("prune", "--older-than", "30d").stderr == "forgot 0 runs\n"
    assert left(sqlsched) == [("younger", "failed")]


def test_the_newest_runs_of_each_schedule_stay(sqlsched: Sqlsched) -> None:
    record(700)
    record(700, schedule_id="b", days=1)
    record(2, schedule_id="c")
    assert sqlsched("prune", "--older-than", "30d", "--keep", "5").stderr == "forgot 695 runs\n"
    assert sqlsched("prune", "--keep", "5").stderr == "forgot 695 runs\n"
    names = [name for name, _ in left(sqlsched)]
    assert {name: names.count(name) for name in names} == {"a": 5, "b": 5, "c": 2}


def test_sparse_runs_are_all_looked_at(sqlsched: Sqlsched) -> None:
    record(3)
    with ledger() as database:
        database.execute("UPDATE runs SET run_id = run_id * 1000000")
    record(3, days=99)
    assert sqlsched("prune").stderr == "forgot 6 runs\n"


def test_nothing_that_is_under_way_goes(sqlsched: Sqlsched) -> None:
    sqlsched("trigger", "a")
    assert sqlsched("prune", "--keep", "1").stderr == "forgot 0 runs\n"
    assert left(sqlsched) == [("a", "waiting")]


def test_others_write_while_it_prunes(sqlsched: Sqlsched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is a transaction of its own."""
    record(1600)
    seen: list[int] = []
    look = pruning._look

    def counting(database: Database, *more: Any) -> list[pruning._Row]:
        if not database.in_transaction:
            with ledger() as other:
                other.execute("BEGIN IMMEDIATE")
                seen.append(other.execute("SELECT count(*) FROM runs").fetchone()[0])
        return look(database, *more)

    monkeypatch.setattr(pruning, "_look", counting)
    assert sqlsched("prune").stderr == "forgot 1600 runs\n"
    assert seen == [1600, 1100, 600, 100]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--older-than", "soon"), "--older-than 'soon': a duration is"),
        (("--keep-failed", "0"), "--keep-failed '0': a duration is"),
        (("--keep", "0"), "0 is not in the range"),
        (("--keep", "30d"), "'30d' is not a valid integer"),
    ],
)
def test_what_cannot_be_read_is_said(
    sqlsched: Sqlsched, arguments: tuple[str, ...], said: str
) -> None:
    record(1)
    result = sqlsched("prune", *arguments)
    assert (result.returncode, said in result.stderr) == (2, True)
    assert len(left(sqlsched)) == 1


def test_a_terminal_is_shown_how_far_it_is(tmp_path: Path) -> None:
    record(3000)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sqlsched", "prune"], stderr=theirs, cwd=tmp_path
    ) as program:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:
            pass  # how Linux says that nobody holds the other end
        os.close(ours)
    assert program.returncode == 0
    assert b"100%" in said
    assert said.endswith(b"forgot 3000 runs\r\n")


def test_run_forgets_by_itself(sqlsched: Sqlsched, tmp_path: Path) -> None:
    record(1, days=40)
    record(1, days=40, status="failed", schedule_id="b")
    record(1, days=20)
    options = ("--once", "--keep", "30d", "--keep-failed", "50d")
    command = [sys.executable, "-m", "sqlsched", "run", *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert left(sqlsched) == [("a", "succeeded"), ("b", "failed")]

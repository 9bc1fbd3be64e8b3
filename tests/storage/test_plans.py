"""What a turn asks of SQLite follows what is due, not what is stored."""

import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest

from sqlsched.storage import peers, set_back
from sqlsched.storage.connection import Database
from sqlsched.storage.turn import Finished

from .bench import Bench, ran, s

SMALL = (
    *("VIRTUAL TABLE", "CONSTANT ROW", "runs_cancel", "runs_held", "owners_serving"),
    *("runs_untold", "schedules_failing", "runs_in_line", "SCAN line"),
)
"""What may be gone through from end to end: our own arguments, and indexes with a few rows."""


def statements(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """From now on: each statement that the database executes, with its values."""
    seen: list[tuple[str, Any]] = []

    def execute(self: Database, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        seen.append((query, values))
        return sqlite3.Connection.execute(self, query, values)

    def executemany(self: Database, query: str, rows: Any) -> sqlite3.Cursor:
        listed = list(rows)
        seen.extend((query, row) for row in listed[:1])
        return sqlite3.Connection.executemany(self, query, listed)

    monkeypatch.setattr(Database, "execute", execute)
    monkeypatch.setattr(Database, "executemany", executemany)
    return seen


def test_no_statement_of_a_turn_goes_through_a_whole_table_or_all_that_is_claimed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        bench.add(f"job{number}", max_runs=1 if number else None)
    scheduler, other = bench.scheduler(), bench.scheduler()
    armed = [run.run_id for run in scheduler.turn(-0.5, ahead=2).armed]
    seen = statements(monkeypatch)
    started = scheduler.turn(0, room=1, due=armed).started
    end = Finished(started[0].run_id, "succeeded", s(1))
    scheduler.turn(1, finished=[end], heartbeat=True)
    scheduler.turn(10, room=2, due=[])
    peers.others(other.database, other.owner)
    monkeypatch.undo()
    asked = [(q, v) for q, v in seen if q.lstrip().startswith(("SELECT", "UPDATE", "INSERT"))]
    assert len(asked) > 20
    steps = [
        (row[3], query)
        for query, values in asked
        for row in scheduler.database.execute(f"EXPLAIN QUERY PLAN {query}", values)
    ]
    for step, query in steps:
        assert not step.startswith("SCAN") or any(name in step for name in SMALL), (step, query)
        # All that this process has claimed may be thousands; what others have not started is few.
        assert "runs_claimed" not in step or "FROM owners AS o" in query, (step, query)


def test_after_a_step_back_the_runs_are_not_gone_through(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add()
    ran(bench.scheduler(), 600)
    seen = statements(monkeypatch)
    set_back.pull_back(bench.database, s(200))
    monkeypatch.undo()
    asked = [(q, v) for q, v in seen if q.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))]
    assert len(asked) > 5
    for query, values in asked:
        for *_, step in bench.database.execute(f"EXPLAIN QUERY PLAN {query}", values):
            small = any(name in step for name in ("schedules", "SCAN owners", *SMALL))
            assert not step.startswith("SCAN") or small, (step, query)

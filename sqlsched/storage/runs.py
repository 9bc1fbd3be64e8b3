"""The ledger, as people see and steer it: history, output, manual triggers, cancelling."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlsched.exceptions import ScheduleNotFoundError
from sqlsched.instants import format_us
from sqlsched.serialization import shorten
from sqlsched.storage import highest_time
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.hooks import hooked
from sqlsched.storage.schedules import get

STATUSES = (
    *("waiting", "claimed", "sending", "running", "succeeded", "failed", "timed_out"),
    *("cancelled", "abandoned", "sent", "skipped", "missed"),
)
GOOD = frozenset({"succeeded", "sent"})
BAD = frozenset({"failed", "timed_out", "abandoned", "missed"})
LIVE_STATUSES = frozenset({"waiting", "claimed", "sending", "running"})


@dataclass(frozen=True, slots=True)
class RunRow:
    """One row of the ledger. `attempt` 0 stands for `count` firings that never ran."""

    run_id: int
    schedule_id: str
    task_name: str
    scheduled_us: int
    started_us: int | None
    finished_us: int | None
    status: str
    attempt: int
    trigger: str
    exit_code: int | None
    error: str | None
    reason: str | None
    last_us: int | None
    count: int

    def to_json(self) -> dict[str, Any]:
        """What `history --json`, and hooks, say of it."""
        times = {
            name: None if us is None else format_us(us)
            for name, us in (
                ("scheduled_for", self.scheduled_us),
                ("started_at", self.started_us),
                ("finished_at", self.finished_us),
            )
        }
        result: dict[str, Any] = {
            "run_id": str(self.run_id),
            "schedule_id": self.schedule_id,
            "task_name": self.task_name,
            **times,
            "status": self.status,
            "attempt": self.attempt,
            "trigger": self.trigger,
            "exit_code": self.exit_code,
            "error": self.error,
            "reason": self.reason,
        }
        if self.last_us is not None:
            last = {"last": format_us(self.last_us), "count": self.count}
            result |= {"first": times["scheduled_for"], **last}
        return result


_COLUMNS = ", ".join(RunRow.__dataclass_fields__)


def history(
    database: Database,
    *,
    schedule_id: str | None = None,
    status: str | None = None,
    since_us: int | None = None,
    limit: int | None = None,
) -> Iterator[RunRow]:
    """Rows of the ledger, newest first, one at a time."""
    rows = database.execute(
        f"""SELECT {_COLUMNS} FROM runs
            WHERE (?1 IS NULL OR schedule_id = ?1) AND (?2 IS NULL OR status = ?2)
            AND (?3 IS NULL OR coalesce(last_us, scheduled_us) >= ?3)
            ORDER BY run_id DESC LIMIT ?4""",
        (schedule_id, status, since_us, -1 if limit is None else limit),
    )
    return (RunRow(*row) for row in rows)


def last_successes(database: Database) -> dict[str, int]:
    """When a run of each schedule last succeeded, microseconds since the epoch."""
    rows = database.execute(
        "SELECT schedule_id, max(finished_us) FROM runs WHERE status = 'succeeded' GROUP BY 1"
    )
    return dict(rows.fetchall())


def has_history(database: Database, schedule_id: str) -> bool:
    """Whether the ledger knows this schedule, which may be gone."""
    query = "SELECT 1 FROM runs WHERE schedule_id = ? LIMIT 1"
    return database.execute(query, (schedule_id,)).fetchone() is not None


def get_run(database: Database, run_id: int) -> RunRow:
    """One row; ScheduleNotFoundError if there is none."""
    row = database.execute(f"SELECT {_COLUMNS} FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise ScheduleNotFoundError(f"no run has the id {run_id}; `sqlsched history` shows them")
    return RunRow(*row)


def find_run(database: Database, text: str) -> int:
    """The one run id that `text` is, or begins; ScheduleNotFoundError otherwise."""
    # Only digits reach the query, so that no wildcard of LIKE does.
    digits = text if text.isascii() and text.isdigit() and len(text) < 19 else ""
    if digits and database.execute("SELECT 1 FROM runs WHERE run_id = ?", (digits,)).fetchone():
        return int(digits)
    query = "SELECT run_id FROM runs WHERE CAST(run_id AS TEXT) LIKE ? || '%' LIMIT 6"
    matches = [row[0] for row in database.execute(query, (digits,))] if digits else []
    if len(matches) == 1:
        return int(matches[0])
    if not matches:
        raise ScheduleNotFoundError(
            f"no run has the id {shorten(text)}; `sqlsched history` shows them"
        )
    listed = ", ".join(map(str, matches[:5])) + (", …" if len(matches) > 5 else "")
    raise ScheduleNotFoundError(f"{text!r} is ambiguous; it begins {listed}")


def newest_ids(database: Database, limit: int, *, live: bool) -> list[tuple[str, str]]:
    """The newest run ids, each with its schedule and status; only of those under way, if `live`."""
    return database.execute(
        """SELECT CAST(run_id AS TEXT), schedule_id || ' ' || status
           FROM (SELECT * FROM runs ORDER BY run_id DESC LIMIT ?)
           WHERE finished_us IS NULL OR NOT ? ORDER BY run_id DESC""",
        (limit, live),
    ).fetchall()


def last_run(database: Database, schedule_id: str) -> int:
    """The run of a schedule that started last; ScheduleNotFoundError if none has."""
    row = database.execute(
        """SELECT run_id FROM runs WHERE schedule_id = ? AND started_us IS NOT NULL
           ORDER BY run_id DESC LIMIT 1""",
        (schedule_id,),
    ).fetchone()
    if row is None:
        raise ScheduleNotFoundError(f"schedule {schedule_id!r} has not run yet")
    return int(row[0])


def output(database: Database, run_id: int) -> tuple[bytes, bytes, int]:
    """What is kept of a run's output: head, tail, and how many bytes it printed in all."""
    query = "SELECT head, tail, total_bytes FROM outputs WHERE run_id = ?"
    row: tuple[bytes, bytes, int] | None = database.execute(query, (run_id,)).fetchone()
    return row or (b"", b"", 0)


def trigger(database: Database, schedule_id: str, now_us: int) -> int:
    """Ask for one extra run, now; returns its run id."""
    with transaction(database):
        highest_time.note(database, now_us)
        task_name = get(database, schedule_id).schedule.task_name
        row = database.execute(
            f"""INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, manual_key,
                   trigger, status, due_us, untold)
               SELECT ?1, ?2, ?3, 1, ?4, 'manual', 'waiting', ?3, {hooked("schedules")}
               FROM schedules WHERE schedule_id = ?1 RETURNING run_id""",
            (schedule_id, task_name, now_us, int.from_bytes(os.urandom(7)) + 1),
        ).fetchone()
        return int(row[0])


def cancel(database: Database, run_id: int, now_us: int) -> str:
    """Stop a run: at once if it has not started, else its scheduler is asked to.

    Returns the status it has now. ScheduleNotFoundError if it has ended already.
    """
    with transaction(database):
        status = get_run(database, run_id).status
        if status not in LIVE_STATUSES:
            raise ScheduleNotFoundError(f"run {run_id} has ended already: {status}")
        if status in {"waiting", "claimed"}:
            database.execute(
                """UPDATE runs SET status = 'cancelled', reason = 'requested', held = 0,
                   finished_us = ? WHERE run_id = ?""",
                (now_us, run_id),
            )
            return "cancelled"
        database.execute("UPDATE runs SET cancel_us = ? WHERE run_id = ?", (now_us, run_id))
        return status


def retry_of(database: Database, run_id: int) -> int | None:
    """The next attempt of a run that failed, if there is one."""
    row = database.execute(
        """SELECT retry.run_id FROM runs JOIN runs AS retry USING (schedule_id, scheduled_us,
           manual_key) WHERE runs.run_id = ? AND retry.attempt = runs.attempt + 1""",
        (run_id,),
    ).fetchone()
    return None if row is None else int(row[0])


def remember(database: Database, key: str, us: int) -> None:
    """Put a moment on record, unless a later one is, within a transaction."""
    database.execute(
        """INSERT INTO meta VALUES (?, ?)
           ON CONFLICT DO UPDATE SET value = max(value, excluded.value)""",
        (key, us),
    )


def pruned_us(database: Database) -> int:
    """No run up to this nominal time is known any more."""
    return _remembered(database, "pruned_us")


def forgotten_us(database: Database) -> int:
    """What ended before this moment, a run or what was done to a schedule, may be known no more."""
    return _remembered(database, "forgotten_us")


def _remembered(database: Database, key: str) -> int:
    row: Any = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0

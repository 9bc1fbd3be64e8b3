"""Forgetting old runs, a few at a time, so that nobody waits long for the gate.

Whatever goes, no firing runs twice: how far the ledger's memory does not reach any more is on
record (`pruned_us`), and should the clock be put back to before that, nothing is dispatched again.
"""

import json
from dataclasses import dataclass

from sqlsched.storage import audit
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.runs import BAD, remember

ROWS = 500
"""How many rows one transaction looks at."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which runs go: what ended before an instant, but for the newest of each schedule, if they
    were set aside. Runs in a status of `BAD` have an instant of their own."""

    before_us: int
    bad_before_us: int
    newest_stay: bool = False


@dataclass(frozen=True, slots=True)
class Swept:
    """How many of the rows looked at are gone, and the run id of the last one; and of the last
    that was old, gone or not. None if there was none."""

    pruned: int
    last: int | None
    last_old: int | None


def set_newest_aside(database: Database, count: int) -> None:
    """Note for this connection which the newest runs of each schedule are: so many."""
    database.execute("DROP TABLE IF EXISTS temp.newest")
    database.execute("CREATE TEMP TABLE newest (schedule_id TEXT PRIMARY KEY, run_id INTEGER)")
    database.execute(
        """INSERT INTO temp.newest SELECT schedule_id, run_id FROM (
               SELECT schedule_id, run_id, row_number()
                   OVER (PARTITION BY schedule_id ORDER BY run_id DESC) AS place FROM runs)
           WHERE place = ?""",
        (count,),
    )


def extent(database: Database) -> tuple[int, int]:
    """The lowest and the highest run id; 0 and 0 of an empty ledger."""
    found: tuple[int, int] = database.execute(
        """SELECT coalesce((SELECT min(run_id) FROM runs), 0),
                  coalesce((SELECT max(run_id) FROM runs), 0)"""
    ).fetchone()
    return found


def forget_changes(database: Database, before_us: int, rows: int = ROWS) -> int:
    """Forget so many of the changes to schedules that were over before an instant, and which
    schedulers had stopped; how many changes it was."""
    if not (audit.has_past(database, before_us) or _has_stopped(database, before_us)):
        return 0
    with transaction(database):
        forgotten = audit.forget(database, before_us, rows)
        database.execute(f"DELETE FROM owners WHERE {_STOPPED}", (before_us,))
        remember(database, "forgotten_us", before_us)
    return forgotten


# The highest time on record stays: it is what a clock that starts in the past is known by.
_STOPPED = "stopped_us < ? AND seen_us < (SELECT max(seen_us) FROM owners)"


def _has_stopped(database: Database, before_us: int) -> bool:
    query = f"SELECT 1 FROM owners WHERE {_STOPPED} LIMIT 1"
    return database.execute(query, (before_us,)).fetchone() is not None


def prune(database: Database, cut: Cut, after: int, rows: int = ROWS) -> Swept:
    """Look at so many rows after a run id, the oldest first, and forget those that go."""
    found = _look(database, cut, after, rows)
    pruned = 0
    if any(row.goes for row in found):
        with transaction(database):
            going = [row for row in _look(database, cut, after, rows) if row.goes]
            _forget(database, cut, going)
            pruned = len(going)
    old = [row.run_id for row in found if row.old]
    return Swept(pruned, found[-1].run_id if found else None, old[-1] if old else None)


@dataclass(frozen=True, slots=True)
class _Row:
    run_id: int
    schedule_id: str
    last_us: int
    """Its nominal time; the last of them, if it stands for several firings."""
    finished_us: int
    old: int | None
    goes: int | None


# What schedules have still to decide about, as after a backfill or a clock that was put back, keeps
# those firings from running twice; and of some ends somebody is still to be told.
_NEEDED_NO_MORE = """untold = 0 AND NOT (attempt > 0 AND manual_key = 0 AND scheduled_us >= ifnull(
    (SELECT next_us FROM schedules AS s WHERE s.schedule_id = runs.schedule_id), 1 << 62))"""
_NEWEST = """AND run_id < (SELECT newest.run_id FROM temp.newest
    WHERE newest.schedule_id = runs.schedule_id)"""
"""Of a schedule with fewer runs than are to stay there is none, and so nothing is less."""


def _look(database: Database, cut: Cut, after: int, limit: int) -> list[_Row]:
    # What is under way has not ended, so that it is NULL that is compared.
    age = "max(finished_us, due_us, coalesce(last_us, scheduled_us))"
    rows = database.execute(
        f"""SELECT run_id, schedule_id, coalesce(last_us, scheduled_us), finished_us,
                {age} < max(?1, ?2),
                iif({age} < iif(status IN (SELECT value FROM json_each(?3)), ?2, ?1),
                    {_NEEDED_NO_MORE} {_NEWEST if cut.newest_stay else ""}, 0)
            FROM runs WHERE run_id > ?4 ORDER BY run_id LIMIT ?5""",
        (cut.before_us, cut.bad_before_us, json.dumps(sorted(BAD)), after, limit),
    )
    return [_Row(*values) for values in rows]


def _forget(database: Database, cut: Cut, rows: list[_Row]) -> None:
    if not rows:
        return
    database.execute(
        "DELETE FROM runs WHERE run_id IN (SELECT value FROM json_each(?))",
        (json.dumps([row.run_id for row in rows]),),
    )
    remember(database, "pruned_us", max(row.last_us for row in rows))
    by_age_us = max(cut.before_us, cut.bad_before_us)
    ended_us = max(row.finished_us for row in rows) + 1
    remember(database, "forgotten_us", ended_us if cut.newest_stay else by_age_us)
    database.execute(
        """DELETE FROM schedules WHERE schedule_id IN (SELECT value FROM json_each(?))
           AND source = '' AND synced IS NULL AND next_us IS NULL AND created_us < ?
           AND NOT EXISTS (
               SELECT 1 FROM runs WHERE runs.schedule_id = schedules.schedule_id)""",
        (json.dumps(sorted({row.schedule_id for row in rows})), cut.before_us),
    )

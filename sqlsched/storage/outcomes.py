"""What a ledger says became of firings: each of them, and how many.

Firings that never ran stand in records of several; those of them that ran after all, since the
clock was put back, are not counted twice.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sqlsched.instants import MINUTE_US
from sqlsched.storage.connection import Database

_DECISION = """CASE WHEN started_us IS NOT NULL THEN 'dispatched'
    WHEN finished_us IS NULL THEN 'pending' ELSE status END"""
_REASON = "coalesce(reason, iif(status IN ('failed', 'timed_out'), status, NULL))"
_FIRING = "attempt = 1 AND manual_key = 0"


class Decided(NamedTuple):
    """What was decided about one firing, or about the `number` of them up to `last_us`."""

    scheduled_us: int
    schedule_id: str
    decision: str
    """`dispatched`, `pending`, or the status of what did not run."""
    reason: str | None
    last_us: int
    number: int = 1


def decided(database: Database, before_us: int, *, undone: bool = False) -> Iterator[Decided]:
    """Each firing before an instant that has a row of its own, in the order of their times; if
    `undone`, only those that were not dispatched."""
    only = "AND started_us IS NULL" if undone else ""
    rows = database.execute(
        f"""SELECT scheduled_us, schedule_id, {_DECISION}, {_REASON}, scheduled_us, 1 FROM runs
            WHERE {_FIRING} AND scheduled_us < ? {only} ORDER BY scheduled_us, schedule_id""",
        (before_us,),
    )
    return map(Decided._make, rows)


def stretches(database: Database) -> Iterator[Decided]:
    """The records of firings that never ran, schedule by schedule, in the order of their times."""
    rows = database.execute(
        """SELECT scheduled_us, schedule_id, status, reason, last_us, count FROM runs
           WHERE attempt = 0 ORDER BY schedule_id, scheduled_us"""
    )
    return map(Decided._make, rows)


def own_rows(database: Database, schedule_id: str, first_us: int, last_us: int) -> set[int]:
    """The firings of a schedule in a span of time, both ends included, with a row of their own."""
    rows = database.execute(
        f"""SELECT scheduled_us FROM runs WHERE {_FIRING} AND schedule_id = ?
            AND scheduled_us BETWEEN ? AND ?""",
        (schedule_id, first_us, last_us),
    )
    return {row[0] for row in rows}


def tally(database: Database, before_us: int) -> dict[str, int]:
    """How many firings before an instant, of those with a row of their own, by their decision."""
    rows = database.execute(
        f"""SELECT {_DECISION} AS decision, count(*) FROM runs
            WHERE {_FIRING} AND scheduled_us < ? GROUP BY decision""",
        (before_us,),
    )
    return dict(rows.fetchall())


def busiest_minute(database: Database) -> tuple[int, int] | None:
    """The first minute in which the most runs of firings started, and how many it was."""
    found: tuple[int, int] | None = database.execute(
        f"""SELECT started_us / {MINUTE_US} * {MINUTE_US} AS minute_us, count(*) AS number FROM runs
            WHERE {_FIRING} AND started_us IS NOT NULL
            GROUP BY minute_us ORDER BY number DESC, minute_us LIMIT 1"""
    ).fetchone()
    return found


def overlaps(database: Database) -> Iterator[tuple[int, str]]:
    """Firings, as time and schedule id, that came due while an earlier run was still going."""
    return database.execute(
        f"""SELECT scheduled_us, schedule_id FROM (
                SELECT scheduled_us, schedule_id, due_us, {_FIRING} AS is_firing,
                    max(iif(started_us IS NULL, NULL, coalesce(finished_us, 1 << 62)))
                        OVER (PARTITION BY schedule_id ORDER BY due_us, scheduled_us
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS busy_until_us
                FROM runs WHERE attempt > 0)
            WHERE is_firing AND busy_until_us > due_us ORDER BY scheduled_us, schedule_id"""
    )

"""Figures of each schedule's runs, computed by SQLite: memory stays small, however many."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlsched.storage.connection import Database
from sqlsched.storage.schedules import DONE


class Stats(NamedTuple):
    """A schedule's runs in figures; durations in microseconds, None where there is nothing to tell.

    Each attempt is a run. One ends well (`succeeded`, `sent`), or fails (`failed`, `timed_out`,
    `abandoned`), or neither: what was cancelled says nothing of its task. Durations are of runs
    that ended by themselves or by their timeout; lateness is that of the starts of scheduled
    firings after the time they were due, jitter included. Percentiles are by nearest rank.
    """

    schedule_id: str
    runs: int
    succeeded: int
    failed: int
    duration_p50_us: int | None
    duration_p95_us: int | None
    lateness_p50_us: int | None
    lateness_p99_us: int | None

    @property
    def success_rate(self) -> float | None:
        """Between 0 and 1, of the runs that ended well or failed."""
        ended = self.succeeded + self.failed
        return self.succeeded / ended if ended else None


def _percentiles(value: str, of: str, total: str, *percents: int) -> str:
    """SQL: values of nearest rank for each schedule, `p50` and so on, among those of some runs."""
    ranks = {f"p{percent}": f"({percent} * {total} + 99) / 100" for percent in percents}
    columns = [f"max(iif(rank = {rank}, value, NULL)) AS {name}" for name, rank in ranks.items()]
    return f"""SELECT schedule_id, {", ".join(columns)} FROM (
            SELECT schedule_id, {value} AS value,
                row_number() OVER (PARTITION BY schedule_id ORDER BY {value}) AS rank
            FROM started WHERE {of})
        JOIN counts USING (schedule_id) WHERE rank IN ({", ".join(ranks.values())})
        GROUP BY schedule_id"""


_ENDED = "status IN ('succeeded', 'failed', 'timed_out')"
# SQLite sorts on disk what does not fit in memory.
_QUERY = f"""
WITH started AS MATERIALIZED (
    SELECT schedule_id, status, attempt = 1 AND manual_key = 0 AND trigger != 'backfill' AS firing,
        max(started_us - due_us, 0) AS late, finished_us - started_us AS took
    FROM runs WHERE started_us IS NOT NULL AND scheduled_us >= :since_us
    AND (:schedule_id IS NULL OR schedule_id = :schedule_id)),
counts AS MATERIALIZED (
    SELECT schedule_id, count(*) AS runs, sum(status IN ('succeeded', 'sent')) AS succeeded,
        sum(status IN ('failed', 'timed_out', 'abandoned')) AS failed,
        sum({_ENDED}) AS ended, sum(firing) AS firings
    FROM started GROUP BY schedule_id),
durations AS ({_percentiles("took", _ENDED, "ended", 50, 95)}),
lateness AS ({_percentiles("late", "firing", "firings", 50, 99)}),
listed AS (
    SELECT schedule_id FROM counts
    UNION SELECT schedule_id FROM schedules AS s WHERE NOT ({DONE})
        AND (:schedule_id IS NULL OR schedule_id = :schedule_id))
SELECT schedule_id, coalesce(runs, 0), coalesce(succeeded, 0), coalesce(failed, 0),
    durations.p50, durations.p95, lateness.p50, lateness.p99
FROM listed LEFT JOIN counts USING (schedule_id) LEFT JOIN durations USING (schedule_id)
    LEFT JOIN lateness USING (schedule_id)
ORDER BY schedule_id
"""


def stats(
    database: Database, *, schedule_id: str | None = None, since_us: int = 0
) -> Iterator[Stats]:
    """The figures of a schedule, or of each that is there or has run, of firings since an instant;
    in the order of their ids, one at a time."""
    values = {"schedule_id": schedule_id, "since_us": since_us}
    return map(Stats._make, database.execute(_QUERY, values))

"""Runs that wait for others of their schedule: held by its policy, or in the line of a backfill."""

import json

from sqlsched.storage.connection import Database
from sqlsched.storage.starts import is_going
from sqlsched.storage.turn import Request

NOT_PAUSED = """(manual_key != 0 OR NOT EXISTS (SELECT 1 FROM schedules AS p
    WHERE p.schedule_id = runs.schedule_id AND p.paused_us IS NOT NULL))"""
# The first of each schedule: a long line is not gone through once for each that stands in it.
FREE = f"""held = 1 AND NOT EXISTS (SELECT 1 FROM runs AS earlier WHERE earlier.held = 1
        AND earlier.schedule_id = runs.schedule_id AND earlier.scheduled_us < runs.scheduled_us)
    AND {NOT_PAUSED} AND NOT EXISTS (SELECT 1 FROM runs AS other
        WHERE other.schedule_id = runs.schedule_id AND {is_going("other")} AND other.held = 0)"""
# Of each schedule that has a backfill under way, the run that is next, if it may go now.
NEXT_IN_LINE = f"""WITH RECURSIVE line (schedule_id) AS (
        SELECT min(schedule_id) FROM runs WHERE held = 2
        UNION ALL SELECT (SELECT min(schedule_id) FROM runs
            WHERE held = 2 AND schedule_id > line.schedule_id)
        FROM line WHERE schedule_id IS NOT NULL)
    SELECT (SELECT run_id FROM runs WHERE held = 2 AND schedule_id = line.schedule_id
        ORDER BY scheduled_us LIMIT 1)
    FROM line WHERE schedule_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runs AS other
        WHERE other.schedule_id = line.schedule_id AND {is_going("other")}
        AND (other.held = 0 OR NOT EXISTS (SELECT 1 FROM schedules AS p
            WHERE p.schedule_id = line.schedule_id AND p.paused_us IS NOT NULL)))"""
SERVED = """NOT EXISTS (SELECT 1 FROM schedules AS q WHERE q.schedule_id = runs.schedule_id
    AND q.source NOT IN (SELECT value FROM json_each(?)))"""
"""SQL: a run of a schedule that this process serves, or that is gone. Takes the sources' names."""


def release_held(database: Database, request: Request, limit: int) -> list[tuple[int, int]]:
    """Claim runs that waited for others of their schedule, now done: the first of each."""
    if limit <= 0:
        return []
    released = database.execute(
        f"""UPDATE runs SET status = 'claimed', owner = ?, held = 0 WHERE run_id IN (
                SELECT run_id FROM runs WHERE {FREE} AND {SERVED} LIMIT ?)
            RETURNING run_id, due_us, schedule_id""",
        (request.owner, json.dumps(request.sources), limit),
    ).fetchall()
    in_line = database.execute(
        f"""UPDATE runs SET status = 'claimed', owner = ?, held = 0 WHERE run_id IN (
                SELECT run_id FROM runs WHERE run_id IN ({NEXT_IN_LINE}) AND {SERVED}
                AND schedule_id NOT IN (SELECT value FROM json_each(?)) LIMIT ?)
            RETURNING run_id, due_us""",
        (
            *(request.owner, json.dumps(request.sources)),
            *(json.dumps([row[2] for row in released]), limit - len(released)),
        ),
    ).fetchall()
    return [row[:2] for row in released] + in_line

"""Reading what goes on: asked each second, so each question has an index and a bound."""

import json
from collections.abc import Collection

from sqlsched.explain.dashboard import Coming, Ended, Going, Snapshot
from sqlsched.explain.evidence import Service
from sqlsched.storage.connection import Database
from sqlsched.storage.owners import is_alive
from sqlsched.storage.peers import others
from sqlsched.storage.starts import is_going

_LATELY = 200
"""The newest runs, among which those that ended last are looked for."""
_WHAT = """coalesce(iif(s.task_name LIKE 'sqlsched:%' AND json_valid(s.args),
    (SELECT group_concat(value, ' ') FROM json_each(s.args)), NULL), s.task_name)"""
"""SQL: a task in a few words; a command reads better as itself."""
_GOING = f"{is_going('runs')} AND status IN ('running', 'sending')"


def snapshot(database: Database, rows: int, seen: Collection[int] = ()) -> Snapshot:
    """What goes on, `rows` rows of each kind at most.

    `seen` are runs that were going when last asked: their end is looked for, too, however long
    they have been going.
    """
    serving = _serving(database)
    return Snapshot(
        path=database.path.name,
        serving=serving,
        last=None if serving else _last(database),
        going=_going(database, rows),
        ended=_ended(database, rows, seen),
        coming=_coming(database, rows),
        counts=_counts(database),
    )


def _serving(database: Database) -> list[Service]:
    return [
        Service(other.pid, other.started_us, None)
        for other in others(database, None)
        if is_alive(database.path, other)
    ]


def _last(database: Database) -> Service | None:
    row = database.execute(
        """SELECT pid, started_us, coalesce(stopped_us, seen_us) AS until_us FROM owners
           ORDER BY until_us DESC LIMIT 1"""
    ).fetchone()
    return None if row is None else Service(*row)


def _going(database: Database, rows: int) -> list[Going]:
    found = database.execute(
        f"""SELECT run_id, schedule_id, coalesce({_WHAT}, runs.task_name), status, attempt,
                runs.started_us, owners.pid
            FROM runs LEFT JOIN owners USING (owner) LEFT JOIN schedules AS s USING (schedule_id)
            WHERE {_GOING}
            ORDER BY runs.started_us, run_id LIMIT ?""",
        (rows,),
    )
    return [Going(*row) for row in found]


def _ended(database: Database, rows: int, seen: Collection[int]) -> list[Ended]:
    found = database.execute(
        f"""SELECT run_id, schedule_id, status, reason, error, started_us, finished_us, count FROM (
                SELECT * FROM runs WHERE run_id > (SELECT max(run_id) FROM runs) - {_LATELY}
                UNION SELECT * FROM runs WHERE run_id IN (SELECT value FROM json_each(?)))
            WHERE finished_us IS NOT NULL ORDER BY finished_us DESC, run_id DESC LIMIT ?""",
        (json.dumps(list(seen)), rows),
    )
    return [Ended(*row) for row in found]


def _coming(database: Database, rows: int) -> list[Coming]:
    found = []
    # Each source in the order of the index; together they would have to be sorted.
    for source in _sources(database):
        found += database.execute(
            f"""SELECT schedule_id, {_WHAT}, wake_us FROM schedules AS s
               WHERE source = ? AND wake_us IS NOT NULL ORDER BY wake_us LIMIT ?""",
            (source, rows),
        ).fetchall()
    return sorted((Coming(*row) for row in found), key=lambda firing: firing.wake_us)[:rows]


def _sources(database: Database) -> list[str]:
    """Whose schedules there are, found by leaps through an index."""
    rows = database.execute(
        """WITH RECURSIVE name (source) AS (
               SELECT min(source) FROM schedules WHERE wake_us IS NOT NULL
               UNION ALL SELECT (SELECT min(schedules.source) FROM schedules
                   WHERE schedules.source > name.source AND wake_us IS NOT NULL)
               FROM name WHERE name.source IS NOT NULL)
           SELECT source FROM name WHERE source IS NOT NULL"""
    )
    return [row[0] for row in rows]


def _counts(database: Database) -> dict[str, int]:
    row = database.execute(
        f"""SELECT (SELECT count(*) FROM runs WHERE {_GOING}),
                (SELECT count(*) FROM runs WHERE status = 'claimed'),
                (SELECT count(*) FROM runs WHERE status = 'waiting' AND held = 0)
                + (SELECT count(*) FROM runs WHERE held = 1)"""
    ).fetchone()
    return dict(zip(("running", "claimed", "waiting"), row, strict=True))

"""Telling how runs ended: the run's own row says who is still to be told.

A run is entered as `untold` if its schedule, or the database, has a hook or a ping. When it has
ended, one of the running schedulers takes it, tells, and clears the mark; should that scheduler
die, another takes it again. So each end is told at least once, whoever is killed when.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.hooks import NAMES, in_force
from sqlsched.storage.runs import RunRow

EVENTS = {
    "succeeded": "success",
    **dict.fromkeys(("failed", "timed_out", "abandoned"), "failure"),
    "missed": "missed",
}
"""What an end means to hooks, by its status. Others are wished for, or no end that is known."""

_RUN = ", ".join(f"runs.{name}" for name in RunRow.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Untold:
    """An end to tell of, and whom."""

    run: RunRow
    manual_key: int
    hooks: Mapping[str, str]
    """By name; none that is not wanted."""
    tail: bytes
    """The end of what the run printed."""

    @property
    def event(self) -> str | None:
        """What hooks call it: success, failure or missed; None if they do not care."""
        return EVENTS.get(self.run.status)


def any_untold(database: Database) -> bool:
    """Whether an end waits to be told."""
    query = """SELECT 1 FROM runs
               WHERE untold = 1 AND finished_us IS NOT NULL AND teller IS NULL LIMIT 1"""
    return database.execute(query).fetchone() is not None


def take(database: Database, owner: int, limit: int) -> list[Untold]:
    """Take up to `limit` ends to tell of, the oldest first; nobody else gets them."""
    wanted = ", ".join(in_force("s", name) for name in NAMES)
    with transaction(database):
        taken = database.execute(
            """UPDATE runs SET teller = ? WHERE run_id IN (SELECT run_id FROM runs
                   WHERE untold = 1 AND finished_us IS NOT NULL AND teller IS NULL
                   ORDER BY run_id LIMIT ?) RETURNING run_id""",
            (owner, limit),
        ).fetchall()
        rows = database.execute(
            f"""SELECT {_RUN}, runs.manual_key, coalesce(nullif(o.tail, x''), o.head, x''), {wanted}
                FROM runs LEFT JOIN schedules AS s USING (schedule_id)
                LEFT JOIN outputs AS o USING (run_id)
                WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY run_id""",
            (json.dumps([run_id for (run_id,) in taken]),),
        ).fetchall()
    return [_untold(row) for row in rows]


def _untold(row: Sequence[object]) -> Untold:
    *run, manual_key, tail = row[: -len(NAMES)]
    hooks = {name: str(hook) for name, hook in zip(NAMES, row[-len(NAMES) :], strict=True) if hook}
    return Untold(RunRow(*run), manual_key, hooks, tail)  # type: ignore[arg-type]


def told(database: Database, run_ids: Sequence[int]) -> None:
    """These ends have been told."""
    with transaction(database):
        database.execute(
            """UPDATE runs SET untold = 0, teller = NULL
               WHERE run_id IN (SELECT value FROM json_each(?))""",
            (json.dumps(list(run_ids)),),
        )


def release(database: Database, owners: Sequence[int]) -> None:
    """Within a transaction: what these schedulers had taken and not told, others take."""
    database.execute(
        "UPDATE runs SET teller = NULL WHERE teller IN (SELECT value FROM json_each(?))",
        (json.dumps(list(owners)),),
    )

"""Schedules taken out of one database, to be put into another and played with there.

What is taken is what decides about firings, column by column: nothing that would act on the world
(who serves the database, the processes of runs, hooks) comes along.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlsched.storage.connection import Database
from sqlsched.storage.schedules import COLUMNS

_NAMES = (*COLUMNS.split(", "), "shared")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Schedules with their state, as rows."""

    schedules: Sequence[tuple[Any, ...]] = ()


def snapshot(database: Database, ids: Collection[str] | None = None) -> Snapshot:
    """The schedules of a database, or those of these ids, as they are now."""
    query = f"SELECT {', '.join(_NAMES)} FROM schedules"
    if ids is None:
        return Snapshot(database.execute(f"{query} ORDER BY seq").fetchall())
    where = "WHERE schedule_id IN (SELECT value FROM json_each(?)) ORDER BY seq"
    return Snapshot(database.execute(f"{query} {where}", (json.dumps(list(ids)),)).fetchall())

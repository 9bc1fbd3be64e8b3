"""The record of changes: who edited, replaced, removed, paused or resumed a schedule, and when.

It is written in the transaction of the change itself, before it, by one statement for any number
of schedules. That a schedule was made is in its own row (`created_us`), and goes into the record
of its removal.
"""

import json
import os
import pwd
from collections.abc import Sequence
from typing import Any, Literal

from sqlsched.storage.connection import Database
from sqlsched.storage.schedules import CONTENT

_KEPT = sorted((*CONTENT, "created_us", "anchor_us"))
# JSON has no blobs; SQLite would refuse to remove a schedule whose row somebody damaged so.
_VALUES = {"catchup_window": "iif(typeof(catchup_window) = 'blob', NULL, catchup_window)"}
_PAIRS = ", ".join(f"'{name}', {_VALUES.get(name, name)}" for name in _KEPT)
_BEFORE = f"json_patch('{{}}', json_object({_PAIRS}))"
"""SQL: the row of a schedule as canonical JSON, without what is NULL."""
_THESE = "schedule_id IN (SELECT value FROM json_each(?))"


def person() -> str:
    """Who runs this process, for the record: `alice (pid 123)`."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container, a user may have no name
        name = f"uid {os.geteuid()}"
    return f"{name} (pid {os.getpid()})"


def source(name: str) -> str:
    """A source whose list this process copied, for the record: `its source NAME (pid 123)`."""
    return f"its source {name} (pid {os.getpid()})"


def ended(
    database: Database,
    what: Literal["edited", "replaced", "removed"],
    ids: Sequence[str],
    now_us: int,
    who: str | None = None,
) -> None:
    """Record that schedules are about to become others, or to go, with what they were."""
    if what == "removed":
        _settle(database, ids, now_us)
    database.execute(
        f"""INSERT INTO changes (schedule_id, at_us, what, who, before, over_us)
            SELECT schedule_id, ?, ?, ?, {_BEFORE}, ? FROM schedules WHERE {_THESE}""",
        (now_us, what, who or person(), now_us, json.dumps(list(ids))),
    )


def paused(
    database: Database,
    ids: Sequence[str],
    now_us: int,
    who: str | None = None,
    note: str | None = None,
) -> None:
    """Record that schedules are about to be paused; of one that is, only a note."""
    database.execute(
        f"""INSERT INTO changes (schedule_id, at_us, what, who, note)
            SELECT schedule_id, ?1, 'paused', ?2, ?3 FROM schedules
            WHERE (paused_us IS NULL OR ?3 IS NOT NULL) AND {_THESE.replace("?", "?4")}""",
        (now_us, who or person(), note, json.dumps(list(ids))),
    )


def resumed(database: Database, ids: Sequence[str], now_us: int, who: str | None = None) -> None:
    """Record that those of these schedules that are paused are about to go on."""
    database.execute(
        f"""INSERT INTO changes (schedule_id, at_us, what, who, over_us)
            SELECT schedule_id, ?1, 'resumed', ?2, ?1 FROM schedules
            WHERE paused_us IS NOT NULL AND {_THESE.replace("?", "?3")}""",
        (now_us, who or person(), json.dumps(list(ids))),
    )
    _settle(database, ids, now_us)


def _settle(database: Database, ids: Sequence[str], now_us: int) -> None:
    """The pauses of these schedules are over, and may be forgotten in time."""
    database.execute(
        f"""UPDATE changes SET over_us = ? WHERE over_us IS NULL AND {_THESE}""",
        (now_us, json.dumps(list(ids))),
    )


def has_past(database: Database, before_us: int) -> bool:
    """Whether there is anything to forget."""
    query = "SELECT 1 FROM changes WHERE over_us < ? LIMIT 1"
    return database.execute(query, (before_us,)).fetchone() is not None


def forget(database: Database, before_us: int, limit: int) -> int:
    """Forget up to `limit` changes that were over before an instant; how many it was."""
    gone: Any = database.execute(
        """DELETE FROM changes WHERE change_id IN (
               SELECT change_id FROM changes WHERE over_us < ? ORDER BY over_us LIMIT ?)""",
        (before_us, limit),
    )
    return int(gone.rowcount)

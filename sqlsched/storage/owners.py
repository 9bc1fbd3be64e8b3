"""Who serves this database: a row and a lock file for each running scheduler."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from sqlsched.explain.evidence import Service
from sqlsched.instants import SECOND_US
from sqlsched.storage import files, telling
from sqlsched.storage.claims import abandon, release
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.errors import storage_errors
from sqlsched.storage.peers import others
from sqlsched.storage.starts import is_going
from sqlsched.storage.turn import Owner

CLOCK_TOLERANCE_US = 3600 * SECOND_US
"""A clock further than this behind the highest time on record is not believed at the start."""
LAST_SEEN = f"""max(seen_us, coalesce((SELECT max(runs.started_us) FROM runs
    WHERE {is_going("runs")} AND runs.owner = owners.owner), 0))"""
"""SQL: the last sign of life of a dead scheduler: its latest minute, or the last run that it
started and did not end."""


def register(database: Database, boot_id: str, now_us: int) -> tuple[Owner, files.OwnerLock]:
    """Enter a running scheduler: the lock first, so that nobody finds its row without it.

    Whoever died between the two has left a lock file that no row leads to: it is removed here.
    """
    token = os.urandom(6).hex()
    lock = files.OwnerLock(database.path.resolve(), token)
    with storage_errors(database.path):
        lock.acquire()
    try:
        with transaction(database):
            row = database.execute(
                """INSERT INTO owners (token, pid, boot_id, started_us, seen_us)
                   VALUES (?, ?, ?, ?, ?) RETURNING owner""",
                (token, os.getpid(), boot_id, now_us, now_us),
            ).fetchone()
    except BaseException:
        lock.release()
        raise
    files.remove_strays(database.path.resolve())
    return Owner(row[0], token, os.getpid(), boot_id, now_us, now_us), lock


def unregister(database: Database, owner: int, now_us: int) -> None:
    """Enter a scheduler's end: give back what it has claimed, abandon what it could not record."""
    with transaction(database):
        end(database, [owner], now_us, "owner-stopped")


def end(database: Database, owners: Sequence[int], now_us: int, reason: str) -> None:
    """Enter the end of schedulers, within a transaction."""
    release(database, owners)
    telling.release(database, owners)
    abandon(database, owners, now_us, reason)
    database.execute(
        """UPDATE owners SET stopped_us = ?1, seen_us = max(seen_us, ?1)
           WHERE owner IN (SELECT value FROM json_each(?2))""",
        (now_us, json.dumps(list(owners))),
    )


def is_alive(path: Path, owner: Owner) -> bool:
    """Whether a scheduler of the database at `path` still holds its lock."""
    return files.owner_alive(path.resolve(), owner.token)


def anyone_serving(database: Database) -> bool:
    """Whether some scheduler is alive."""
    return any(is_alive(database.path, owner) for owner in others(database, None))


def services(database: Database) -> list[Service]:
    """Every scheduler on record. Whether one that has not ended in order lives, its lock tells."""
    alive = {other.owner for other in others(database, None) if is_alive(database.path, other)}
    found = []
    for owner, pid, since_us, stopped_us, died, seen_us in database.execute(
        f"""SELECT owner, pid, started_us, stopped_us, died,
                iif(stopped_us IS NULL, {LAST_SEEN}, NULL) FROM owners"""
    ):
        gone = stopped_us is None and owner not in alive
        found.append(Service(pid, since_us, seen_us if gone else stopped_us, bool(died) or gone))
    return found

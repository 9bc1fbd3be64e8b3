"""Who serves this database: a row and a lock file for each running scheduler."""

import os
from pathlib import Path

from sqlsched.evidence import Service
from sqlsched.storage import files, telling
from sqlsched.storage.claims import abandon, others, release
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.starts import is_going
from sqlsched.storage.turn import Owner

LAST_SEEN = f"""max(seen_us, coalesce((SELECT max(runs.started_us) FROM runs
    WHERE {is_going("runs")} AND runs.owner = owners.owner), 0))"""
"""SQL: the last sign of life of a dead scheduler: its latest minute, or the last run that it
started and did not end."""


def register(database: Database, boot_id: str, now_us: int) -> tuple[Owner, files.OwnerLock]:
    """Enter a running scheduler: the lock first, so that nobody finds its row without it."""
    token = os.urandom(6).hex()
    lock = files.OwnerLock(database.path.resolve(), token)
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
    return Owner(row[0], token, os.getpid(), boot_id, now_us, now_us), lock


def unregister(database: Database, owner: int, now_us: int) -> None:
    """Enter a scheduler's end: give back what it has claimed, abandon what it could not record."""
    with transaction(database):
        release(database, [owner])
        telling.release(database, [owner])
        abandon(database, [owner], now_us, "owner-stopped")
        database.execute(
            "UPDATE owners SET stopped_us = ?1, seen_us = max(seen_us, ?1) WHERE owner = ?2",
            (now_us, owner),
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

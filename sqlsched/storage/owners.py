"""Who serves this database: a row and a lock file for each running scheduler."""

import os
from pathlib import Path

from sqlsched.storage import files
from sqlsched.storage.claims import abandon, release
from sqlsched.storage.connection import Database, storage_errors, transaction
from sqlsched.storage.peers import others
from sqlsched.storage.turn import Owner


def register(database: Database, boot_id: str, now_us: int) -> tuple[Owner, files.OwnerLock]:
    """Enter a running scheduler: the lock first, so that nobody finds its row without it."""
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
            tokens = [other.token for other in others(database, None)]
    except BaseException:
        lock.release()
        raise
    files.remove_strays(database.path.resolve(), tokens)
    return Owner(row[0], token, os.getpid(), boot_id, now_us, now_us), lock


def unregister(database: Database, owner: int, now_us: int) -> None:
    """Enter a scheduler's end: give back what it has claimed, abandon what it could not record."""
    with transaction(database):
        release(database, [owner])
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


def highest_time_us(database: Database) -> int | None:
    """The latest moment that any scheduler has put on record."""
    found: int | None = database.execute("SELECT max(seen_us) FROM owners").fetchone()[0]
    return found


def accept_clock(database: Database, now_us: int) -> None:
    """Forget every recorded moment after `now_us`: the clock is right, the record was not."""
    with transaction(database):
        database.execute("UPDATE owners SET seen_us = ?1 WHERE seen_us > ?1", (now_us,))

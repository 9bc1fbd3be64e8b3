"""The highest time on record, by which it is noticed that the clock was put back while nothing ran.

Schedulers put it on record each minute, and changes that reckon from the time with themselves.
"""

from sqlsched.storage.connection import Database


def note(database: Database, now_us: int) -> None:
    """Put the time of a change on record, within its transaction."""
    database.execute(
        """INSERT INTO meta VALUES ('changed_us', ?) ON CONFLICT DO UPDATE
           SET value = excluded.value WHERE value < excluded.value""",
        (now_us,),
    )


def of_schedulers(database: Database) -> int:
    """The latest moment that any scheduler has put on record; 0 if none has."""
    query = "SELECT coalesce(max(seen_us), 0) FROM owners"
    found: int = database.execute(query).fetchone()[0]
    return found


def of_changes(database: Database) -> int:
    """The latest moment from which a change has reckoned; 0 if none has."""
    query = "SELECT coalesce(max(value), 0) FROM meta WHERE key = 'changed_us'"
    found: int = database.execute(query).fetchone()[0]
    return found


def lower(database: Database, now_us: int) -> None:
    """Forget every moment after `now_us`, within a transaction: the clock is right, the record
    was not."""
    database.execute("UPDATE owners SET seen_us = ?1 WHERE seen_us > ?1", (now_us,))
    database.execute("UPDATE meta SET value = min(value, ?) WHERE key = 'changed_us'", (now_us,))

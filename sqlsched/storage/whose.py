"""Whose a SQLite file is, told without changing a byte of it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.migrations import APPLICATION_ID


def identify(path: Path) -> None:
    """Refuse a file that is not ours, without changing a byte of it or making files beside it.

    `immutable` keeps SQLite from taking locks and from touching a WAL. Reading the header with
    open() instead would, on close, drop the locks that other connections of this process hold.
    """
    try:
        application, has_tables = _probe(path, "immutable=1")
    except sqlite3.DatabaseError:
        # Perhaps amidst a checkpoint, or its process died in one: the first page is new, and not
        # all that it speaks of is in the file yet. With its WAL, or now that it has none, it is.
        application, has_tables = _probe(path, "mode=ro" if _has_wal(path) else "immutable=1")
    if not application and not has_tables and _has_wal(path):
        application, has_tables = _probe(path, "mode=ro")  # never ours: ours has tables from birth
    check_application(path, application, has_tables)


def check_application(path: Path, application: int, has_tables: bool) -> None:
    """Refuse a database of another application; not one without tables, about to be filled."""
    if application != APPLICATION_ID and (application or has_tables):
        raise DamagedDatabaseError(
            f"{path} is a database of another application; name a sqlsched database"
        )


def _probe(path: Path, parameter: str) -> tuple[int, bool]:
    """`whose`, of a file that is not to be touched."""
    with closing(
        sqlite3.connect(f"file:{quote(str(path.resolve()))}?{parameter}", uri=True)
    ) as probe:
        return whose(probe)


def whose(connection: sqlite3.Connection) -> tuple[int, bool]:
    """The application that a database belongs to, and whether it has tables."""
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    return application, connection.execute("PRAGMA schema_version").fetchone()[0] > 0


def is_ours(path: Path) -> bool | None:
    """Whether a file is a sqlsched database; None if it is none at all, or is damaged."""
    try:
        return _probe(path, "immutable=1")[0] == APPLICATION_ID
    except sqlite3.DatabaseError:
        return None


def _has_wal(path: Path) -> bool:
    wal = Path(f"{path.resolve()}-wal")
    return wal.exists() and wal.stat().st_size > 0

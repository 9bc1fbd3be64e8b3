"""The table of tasks that have begun, in a file of its own, for workers on one machine."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlsched.exceptions import StorageError
from sqlsched.storage import files
from sqlsched.storage.errors import storage_errors

APPLICATION_ID = 0x73716F31
"""`sqo1`, in the file's header: other files are refused."""

_WAIT_S = 30.0
_PRUNE_ROWS = 100
_TABLE = "CREATE TABLE seen (key TEXT PRIMARY KEY, seen_us INTEGER NOT NULL) STRICT, WITHOUT ROWID"
_INDEX = "CREATE INDEX seen_by_age ON seen (seen_us)"
_SCHEMA = {("table", "seen"), ("index", "seen_by_age")}


class SeenTable:
    """The table, open. For one process, and one thread at a time; durable when a call returns.

    The file and those beside it are private; it is made if it is missing. StorageError if it
    cannot be used, or belongs to another application.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._gate = files.Gate(path.resolve())
        if not files.check_file(path):
            with storage_errors(path):
                files.create_private(path)
        with storage_errors(path), self._gate.held(_WAIT_S):
            self._connection = _open(path)

    def begin(self, key: str, now_us: int, forget_us: int) -> bool:
        """Record a key; False if it is there. Some of those seen before `forget_us` are pruned."""
        with storage_errors(self._path), self._gate.held(_WAIT_S), self._connection as connection:
            connection.execute(
                """DELETE FROM seen WHERE key IN
                   (SELECT key FROM seen WHERE seen_us < ? ORDER BY seen_us LIMIT ?)""",
                (forget_us, _PRUNE_ROWS),
            )
            recorded = connection.execute(
                """INSERT INTO seen VALUES (?1, ?2) ON CONFLICT DO UPDATE
                   SET seen_us = excluded.seen_us WHERE seen_us < ?3""",
                (key, now_us, forget_us),
            )
        return recorded.rowcount == 1

    def take_back(self, key: str) -> None:
        """Forget a key."""
        with storage_errors(self._path), self._gate.held(_WAIT_S), self._connection as connection:
            connection.execute("DELETE FROM seen WHERE key = ?", (key,))

    def close(self) -> None:
        """Close the file."""
        with storage_errors(self._path), self._gate.held(_WAIT_S):
            self._connection.close()
        self._gate.close()


def _open(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path.resolve()))}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=_WAIT_S, check_same_thread=False)
    try:
        _check(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        for setting in ("synchronous = FULL", "fullfsync = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: Path, connection: sqlite3.Connection) -> None:
    with closing(connection.execute("SELECT type, name FROM sqlite_schema")) as found:
        schema = set(found)
    if not schema:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in (f"PRAGMA application_id = {APPLICATION_ID}", _TABLE, _INDEX):
                connection.execute(statement)
    elif (
        schema != _SCHEMA
        or connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID
    ):
        raise StorageError(
            f"{path} is a database for something else; name a file of its own for what was seen"
        )

"""What SQLite and the system say, in one line that names the database."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlsched.exceptions import SqlschedError, StorageError
from sqlsched.storage.soundness import damage

if TYPE_CHECKING:
    from sqlsched.storage.connection import Database


class DamagedDatabaseError(StorageError):
    """The file is not, or no longer, the database that it should be: waiting will not help."""


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one line that names the path.

    What may pass, as a full disk, is a StorageError; all else a DamagedDatabaseError.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, error) from error


SUSPECT = (TypeError, ValueError, ArithmeticError, AttributeError)
"""What a value of a wrong kind leads to, be it the file's fault or ours."""


@contextmanager
def blaming(database: "Database") -> Iterator[None]:
    """As `sqlite_errors`; and of what fails for another reason, whether the file is to blame.

    SQLite itself never says that a damaged page has text where a number should be.
    """
    with sqlite_errors(database.path):
        try:
            yield
        except SqlschedError:
            raise
        except SUSPECT as error:
            if problem := damage(database, error):
                raise damaged(database.path, problem) from error
            raise


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say into one line that names the path."""
    try:
        with sqlite_errors(path):
            yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def damaged(path: Path, what: str) -> DamagedDatabaseError:
    """The error that says so."""
    return DamagedDatabaseError(f"{path} is damaged: {what}; restore a backup, or name another")


def explain(path: Path, error: sqlite3.Error) -> StorageError:
    """The error that says what SQLite's means, and whether it may pass."""
    text = str(error)
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_NOTADB"):
        return DamagedDatabaseError(f"{path} is not a SQLite database; name a sqlsched database")
    for start, meaning in _MEANINGS.items():
        if name.startswith(start):
            return StorageError(f"{path} {meaning}")
    if text.startswith("Could not decode"):  # and goes on with what it could not
        return damaged(path, "a text in it is not UTF-8")
    return damaged(path, text) if name else StorageError(f"{path}: {text}")


_MEANINGS = {
    "SQLITE_LOCKED": "is in use by another part of this program; try again",
    "SQLITE_PROTOCOL": "has been busy for too long; try again",
    "SQLITE_BUSY": "is locked by another program for more than some seconds; try again",
    "SQLITE_READONLY": "is read-only, or its directory is; make both writable",
    "SQLITE_FULL": "cannot grow: no space is left on its disk; free some",
    "SQLITE_CANTOPEN": "or a file beside it cannot be opened or made; check its directory, its "
    "permissions and the room on its disk",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error, is full or has become "
    "read-only",
}

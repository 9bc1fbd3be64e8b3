"""Opening a database: which files are trusted, which settings hold, how a transaction goes."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlsched.exceptions import StorageError
from sqlsched.storage import files
from sqlsched.storage.migrations import APPLICATION_ID, VERSION, migrate
from sqlsched.storage.watch import BEREFT, SWAPPED, Watch

WAIT_S = 5.0
"""How long to wait for other writers, seconds."""


_SETTINGS = (
    *("synchronous = FULL", "fullfsync = ON", "foreign_keys = ON"),
    "cache_size = -16000",  # KiB: what a burst touches; it is taken only as it is used
)


class DamagedDatabaseError(StorageError):
    """The file is not, or no longer, the database that it should be: waiting will not help."""


class Database(sqlite3.Connection):
    """A connection that knows its file and its gate."""

    path: Path
    gate: files.Gate
    watch: Watch
    guarded = False
    """True once it may write: it then closes within the gate."""

    def close(self) -> None:
        """Close within the gate: the last connection to close moves the WAL into the file.

        Whoever holds a gate that we waited for in vain has a connection, so ours is not the last.
        """
        guarded, self.guarded = self.guarded and not self.gate.refused, False
        if guarded:
            with suppress(OSError, StorageError), self.gate.held(WAIT_S):
                if self._is_lost():
                    self.interrupt()  # it moves nothing then: the WAL is not this file's
                bereft = self.watch.is_bereft()
                super().close()
                if not bereft:
                    self.watch.closed()
            self.gate.close()
        super().close()

    def _is_lost(self) -> bool:
        try:
            return self.watch.problem(self) is not None
        except sqlite3.Error:
            return True


def open_for_reading(path: Path) -> Database:
    """Open a database that exists; StorageError otherwise. Makes none, and changes none but one of
    an older format, which is brought up to date."""
    if not files.check_file(path) or files.half_made(path):
        raise _missing(path)
    with storage_errors(path):
        _identify(path)
        database = _connect(path, "ro")
        try:
            database.execute("PRAGMA query_only = ON")
            version = _checked_version(database)
            _check_log(database)
        except BaseException:
            database.close()
            raise
    if version < VERSION:
        database.close()
        open_for_writing(path).close()
        return open_for_reading(path)
    return database


def open_for_writing(path: Path, *, create: bool = False) -> Database:
    """Open a database for reading and writing, make it if `create`, and bring it up to date."""
    there = files.check_file(path) and not files.half_made(path)
    if not there and not create:
        raise _missing(path)
    with storage_errors(path):
        if path.exists() and files.read_only(path):
            raise StorageError(f"{path} is read-only; make it writable for its owner")
        if there:
            _identify(path)
        else:
            _check_directory(path)
            files.create_private(path)
        return _open_writable(path)


def _open_writable(path: Path) -> Database:
    database = _connect(path, "rw")
    try:
        database.gate.open()
        database.guarded = True
        _check_application(
            path, *_whose(database)
        )  # it may have been filled since it was looked at
        if database.execute("PRAGMA user_version").fetchone()[0] == 0 or (
            _checked_version(database) < VERSION
        ):
            _bring_up_to_date(database)
        for setting in _SETTINGS:
            database.execute(f"PRAGMA {setting}")
        _check_log(database)
        database.watch.begin(database)
    except BaseException:
        database.close()
        raise
    return database


def _bring_up_to_date(database: Database) -> None:
    """Make or migrate the tables, once, however many processes try.

    The tables are made before WAL is switched on, so that the file itself, and not only its
    WAL, says from the first moment on whose it is.
    """
    with transaction(database):
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version < VERSION:
            migrate(database, version)
    with database.gate.held(WAIT_S):
        database.execute("PRAGMA journal_mode = WAL")


@contextmanager
def transaction(database: Database) -> Iterator[None]:
    """One write transaction, whole or not at all, whatever interrupts it."""
    with storage_errors(database.path), database.gate.held(WAIT_S):
        check_files(database, writing=True)
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        database.watch.wrote()


@contextmanager
def savepoint(database: Database) -> Iterator[None]:
    """A part of a transaction that is undone if it fails, while the rest may stand."""
    database.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK TO part")
        raise
    finally:
        if database.in_transaction:
            database.execute("RELEASE part")


def check_files(database: Database, *, writing: bool = False) -> None:
    """DamagedDatabaseError if the file is damaged or not the one at its path any more.

    SQLite would not notice. Each transaction begins with it; `writing`, within the gate, it also
    puts the log out of the way of a file that it does not belong to.
    """
    if problem := database.watch.problem(database):
        if writing:
            database.watch.put_log_aside()
        raise DamagedDatabaseError(f"{database.path} {problem}")
    if database.watch.is_bereft():
        raise DamagedDatabaseError(f"{database.path} {BEREFT}")


def _check_log(database: Database) -> None:
    """Refuse a file that the log beside it does not belong to: SQLite would mix them.

    So it is when a backup is put in the place of a database whose processes were killed.
    """
    problem = database.watch.problem(database) if database.watch.resume() else None
    if problem is None:
        return
    if problem in SWAPPED:
        name = database.path.name
        problem = (
            f"was replaced, and {name}-wal is that of the file before it: delete {name}-wal to go "
            f"without, or {name}-gate if the two belong together after all"
        )
    raise DamagedDatabaseError(f"{database.path} {problem}")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one line that names the path."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(path, error) from error


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say into one line that names the path."""
    try:
        with sqlite_errors(path):
            yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _explain(path: Path, error: sqlite3.Error) -> StorageError:
    text = str(error)
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        kind = "is not a SQLite database" if "NOTADB" in name else f"is damaged: {text}"
        return DamagedDatabaseError(f"{path} {kind}; name a sqlsched database or restore a backup")
    for start, meaning in _MEANINGS.items():
        if name.startswith(start):
            return StorageError(f"{path} {meaning}")
    return StorageError(f"{path}: {text}")


_MEANINGS = {
    "SQLITE_BUSY": f"is locked by another program for more than {WAIT_S:.0f} s; try again",
    "SQLITE_READONLY": "is read-only, or its directory is; make both writable",
    "SQLITE_FULL": "cannot grow: no space is left on its disk; free some",
    "SQLITE_CANTOPEN": "or a file beside it cannot be opened or made; check its directory, its "
    "permissions and the room on its disk",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error, is full or has become "
    "read-only",
}


def _missing(path: Path) -> StorageError:
    return StorageError(
        f"there is no database at {path}; `sqlsched add` makes one, --db names another"
    )


def _check_directory(path: Path) -> None:
    parent = path.parent
    if not parent.is_dir():
        raise StorageError(f"{path}: its directory {parent} does not exist; make it first")
    status = parent.stat()
    if status.st_mode & 0o1002 == 0o0002:
        raise StorageError(f"{path}: everyone can write to its directory; choose a private one")


def _connect(path: Path, mode: str) -> Database:
    real = path.resolve()
    database = sqlite3.connect(
        f"file:{quote(str(real))}?mode={mode}",
        uri=True,
        factory=Database,
        isolation_level=None,
        timeout=WAIT_S,
        check_same_thread=False,
        cached_statements=256,
    )
    database.path, database.gate = path, files.Gate(real)
    database.watch = Watch(path, database.gate)
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _identify(path: Path) -> None:
    """Refuse a file that is not ours, without changing a byte of it or making files beside it.

    `immutable` keeps SQLite from taking locks and from touching a WAL. Reading the header with
    open() instead would, on close, drop the locks that other connections of this process hold.
    """
    application, has_tables = _probe(path, "immutable=1")
    if not application and not has_tables and _has_wal(path):
        application, has_tables = _probe(path, "mode=ro")  # never ours: ours has tables from birth
    _check_application(path, application, has_tables)


def _check_application(path: Path, application: int, has_tables: bool) -> None:
    """Refuse a database of another application; not one without tables, about to be filled."""
    if application != APPLICATION_ID and (application or has_tables):
        raise DamagedDatabaseError(
            f"{path} is a database of another application; name a sqlsched database"
        )


def _probe(path: Path, parameter: str) -> tuple[int, bool]:
    """`_whose`, of a file that is not to be touched."""
    with closing(
        sqlite3.connect(f"file:{quote(str(path.resolve()))}?{parameter}", uri=True)
    ) as probe:
        return _whose(probe)


def _whose(connection: sqlite3.Connection) -> tuple[int, bool]:
    """The application that a database belongs to, and whether it has tables."""
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    return application, connection.execute("PRAGMA schema_version").fetchone()[0] > 0


def _has_wal(path: Path) -> bool:
    wal = Path(f"{path.resolve()}-wal")
    return wal.exists() and wal.stat().st_size > 0


def _checked_version(database: Database) -> int:
    """The version of its tables; StorageError if there are none yet, or they are of a newer one."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise DamagedDatabaseError(
            f"{database.path} was written by a newer sqlsched (format {version}, this one knows "
            f"{VERSION}); upgrade sqlsched"
        )
    if version == 0:
        raise _missing(database.path)
    return version


def data_version(database: Database) -> Any:
    """A number that changes when another connection has written. Microseconds to ask."""
    try:
        return database.execute("PRAGMA data_version").fetchone()[0]
    except sqlite3.Error as error:
        raise _explain(database.path, error) from error


def default_path() -> Path:
    """`$SQLSCHED_DB`, else `./sqlsched.db`."""
    return Path(os.environ.get("SQLSCHED_DB") or "sqlsched.db")

"""Opening a database: which files are trusted, which settings hold, how a transaction goes."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlsched.exceptions import StorageError
from sqlsched.serialization import shorten
from sqlsched.storage import files
from sqlsched.storage.migrations import APPLICATION_ID, VERSION, migrate, tables

WAIT_S = 5.0
"""How long to wait for other writers, seconds."""


_SETTINGS = (
    "foreign_keys = ON",
    "cache_size = -16000",  # KiB: what a burst touches; it is taken only as it is used
)
_DURABLE = ("synchronous = FULL", "fullfsync = ON")
_FLEETING = ("synchronous = OFF",)


class DamagedDatabaseError(StorageError):
    """The file is not, or no longer, the database that it should be: waiting will not help."""


class Database(sqlite3.Connection):
    """A connection that knows its file and its gate."""

    path: Path
    gate: files.Gate
    identity: tuple[int, int] | None
    guarded = False
    """True once it may write: it then closes within the gate."""
    schema_version = -1
    """What SQLite counted its tables' changes to, when they were last checked."""

    def close(self) -> None:
        """Close within the gate: the last connection to close moves the WAL into the file.

        Whoever holds a gate that we waited for in vain has a connection, so ours is not the last.
        """
        if self.guarded and not self.gate.refused:
            with suppress(OSError, StorageError), self.gate.held(WAIT_S):
                super().close()
            self.gate.close()
        super().close()


def open_for_reading(path: Path) -> Database:
    """Open a database that exists; StorageError otherwise. Makes none, and changes none but one of
    an older format, which is brought up to date."""
    database = open_as_it_is(path)
    if format_version(database) == VERSION:
        return database
    database.close()
    open_for_writing(path).close()
    return open_as_it_is(path)


def open_as_it_is(path: Path, *, unused: bool = False) -> Database:
    """Open a database that exists, of our format or an older one, and change nothing; StorageError
    if it is none of ours.

    `unused` is the word of who knows that nobody writes to it: then nothing is made beside it
    either, and it may lie where nothing can be written.
    """
    if not files.check_file(path):
        raise _missing(path)
    with storage_errors(path):
        _identify(path)
        database = _connect(path, "ro&immutable=1" if unused else "ro")
        try:
            database.execute("PRAGMA query_only = ON")
            version = _checked_version(database)
            if version == 0:
                raise _missing(path)
        except BaseException:
            database.close()
            raise
    return database


def open_for_writing(path: Path, *, create: bool = False, durable: bool = True) -> Database:
    """Open a database for reading and writing, make it if `create`, and bring it up to date.

    What is written to one that is not `durable` may be lost with the power, or with it the whole
    database: that is for copies to play with.
    """
    there = files.check_file(path)
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
        return _open_writable(path, (*_SETTINGS, *(_DURABLE if durable else _FLEETING)))


def _open_writable(path: Path, settings: Sequence[str]) -> Database:
    database = _connect(path, "rw")
    try:
        database.gate.open()
        database.guarded = True
        if _checked_version(database) < VERSION:
            _bring_up_to_date(database)
        for setting in settings:
            database.execute(f"PRAGMA {setting}")
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
        version = _checked_version(database)
        if version < VERSION:
            migrate(database, version)
    with database.gate.held(WAIT_S):
        database.execute("PRAGMA journal_mode = WAL")


@contextmanager
def transaction(database: Database) -> Iterator[None]:
    """One write transaction, whole or not at all, whatever interrupts it."""
    with storage_errors(database.path), database.gate.held(WAIT_S):
        check_identity(database)
        database.execute("BEGIN IMMEDIATE")
        try:
            _check_schema(database)
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


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


def check_identity(database: Database) -> None:
    """Refuse to write into a file that was deleted or replaced: in WAL mode SQLite would not."""
    if files.identity(database.path) != database.identity:
        raise DamagedDatabaseError(
            f"{database.path} was deleted or replaced by another file while it was open"
        )


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
    "SQLITE_CANTOPEN": "cannot be opened; check its directory and permissions",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error, or is full",
}


def _missing(path: Path) -> StorageError:
    return StorageError(
        f"there is no database at {path}; `sqlsched add` makes one, --db names another"
    )


def _check_directory(path: Path) -> None:
    if not path.parent.is_dir():
        raise StorageError(f"{path}: its directory {path.parent} does not exist; make it first")


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
    database.identity = files.identity(path)
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
    if not application and not has_tables:
        return  # made a moment ago, and about to be filled
    if application != APPLICATION_ID:
        raise DamagedDatabaseError(
            f"{path} is a database of another application; name a sqlsched database"
        )


def _probe(path: Path, parameter: str) -> tuple[int, bool]:
    """Whose a database says it is, and whether it has tables."""
    with closing(
        sqlite3.connect(f"file:{quote(str(path.resolve()))}?{parameter}", uri=True)
    ) as probe:
        application: int = probe.execute("PRAGMA application_id").fetchone()[0]
        return application, probe.execute("PRAGMA schema_version").fetchone()[0] > 0


def is_ours(path: Path) -> bool | None:
    """Whether a file is a sqlsched database; None if it is none at all, or is damaged."""
    try:
        return _probe(path, "immutable=1")[0] == APPLICATION_ID
    except sqlite3.DatabaseError:
        return None


def _has_wal(path: Path) -> bool:
    wal = Path(f"{path.resolve()}-wal")
    return wal.exists() and wal.stat().st_size > 0


def format_version(database: Database) -> int:
    """The version of its tables; 0 if there are none yet."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


_SCHEMA = """SELECT user_version, schema_version, type, name, rootpage
    FROM sqlite_schema, pragma_user_version, pragma_schema_version WHERE type IS NOT 'index'"""
"""All of it as of one moment, which another process's migration cannot fall into."""
_OF_SQLITE = {"sqlite_sequence", "sqlite_stat1", "sqlite_stat4"}


def _checked_version(database: Database) -> int:
    """The version of its tables, 0 if there are none yet.

    DamagedDatabaseError if a newer sqlsched made them, if one is missing, or if there is anything
    else: a trigger or a view would have a say in what is executed.
    """
    rows = database.execute(_SCHEMA).fetchall()
    version, schema_version = rows[0][:2] if rows else (0, 0)
    if version > VERSION:
        raise DamagedDatabaseError(
            f"{database.path} was written by a newer sqlsched (format {version}, this one knows "
            f"{VERSION}); upgrade sqlsched"
        )
    if problem := _problem_of_schema(tables(version), [row[2:] for row in rows]):
        raise DamagedDatabaseError(f"{database.path} {problem}, or restore a backup")
    database.schema_version = schema_version
    return int(version)


def _problem_of_schema(expected: set[str], found: Sequence[tuple[Any, ...]]) -> str | None:
    for kind, name, root in found:
        if kind != "table" or not root or name not in expected | _OF_SQLITE:
            shown = "virtual table" if kind == "table" and not root else kind
            return f"has a {shown} {shorten(name)}, which sqlsched did not make; drop it"
    missing = expected - {name for _, name, _ in found}
    return f"is damaged: it has no table {min(missing)!r}; name another" if missing else None


def _check_schema(database: Database) -> None:
    """Look at the tables again if anyone has changed them; a few microseconds if nobody has."""
    now = database.execute("PRAGMA schema_version").fetchone()[0]
    if now != database.schema_version:
        _checked_version(database)


def data_version(database: Database) -> Any:
    """A number that changes when another connection has written. Microseconds to ask."""
    try:
        return database.execute("PRAGMA data_version").fetchone()[0]
    except sqlite3.Error as error:
        raise _explain(database.path, error) from error


def default_path() -> Path:
    """`$SQLSCHED_DB`, else `./sqlsched.db`."""
    return Path(os.environ.get("SQLSCHED_DB") or "sqlsched.db")

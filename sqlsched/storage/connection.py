"""Opening a database: which files are trusted, which settings hold, how a transaction goes."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlsched.exceptions import StorageError
from sqlsched.storage import files
from sqlsched.storage.errors import DamagedDatabaseError, explain, storage_errors
from sqlsched.storage.migrations import VERSION, migrate
from sqlsched.storage.seal import BEREFT, SWAPPED, Seal
from sqlsched.storage.soundness import read_schema
from sqlsched.storage.whose import check_application, identify, whose

WAIT_S = 5.0
"""How long to wait for other writers, seconds."""


_SETTINGS = (
    "foreign_keys = ON",
    "wal_autocheckpoint = 4000",  # pages: a burst writes the same ones again and again
    "cache_size = -16000",  # KiB: what a burst touches; it is taken only as it is used
)
_DURABLE = ("synchronous = FULL", "fullfsync = ON")
_FLEETING = ("synchronous = OFF",)


class Database(sqlite3.Connection):
    """A connection that knows its file and its gate."""

    path: Path
    gate: files.Gate
    seal: Seal
    guarded = False
    """True once it may write: it then closes within the gate."""
    schema_version = -1
    """What SQLite counted its tables' changes to, when they were last checked."""

    def close(self) -> None:
        """Close within the gate: the last connection to close moves the WAL into the file.

        Whoever holds a gate that we waited for in vain has a connection, so ours is not the last.
        """
        guarded, self.guarded = self.guarded and not self.gate.refused, False
        if guarded:
            with suppress(OSError, StorageError), self.gate.held(WAIT_S):
                if self._is_lost():
                    self.interrupt()  # it moves nothing then: the WAL is not this file's
                bereft = self.seal.is_bereft()
                super().close()
                if not bereft:
                    self.seal.closed()
            self.gate.close()
        super().close()

    def _is_lost(self) -> bool:
        try:
            return self.seal.problem(self) is not None
        except sqlite3.Error:
            return True


def open_for_reading(path: Path) -> Database:
    """Open a database that exists; StorageError otherwise. Makes none, and changes none but one of
    an older format, which is brought up to date, or one whose making was interrupted."""
    try:
        database = open_as_it_is(path)
        if format_version(database) == VERSION:
            return database
        database.close()
    except StorageError as error:
        if getattr(error.__cause__, "sqlite_errorname", "") != "SQLITE_READONLY_ROLLBACK":
            raise  # else its last writer died before it was in WAL mode, which SQLite has to undo
    open_for_writing(path).close()
    return open_as_it_is(path)


def open_as_it_is(path: Path, *, unused: bool = False) -> Database:
    """Open a database that exists, of our format or an older one, and change nothing; StorageError
    if it is none of ours.

    `unused` is the word of who knows that nobody writes to it: then nothing is made beside it
    either, and it may lie where nothing can be written.
    """
    if not _is_there(path):
        raise _missing(path)
    with storage_errors(path):
        identify(path)
        database = _connect(path, "ro&immutable=1" if unused else "ro")
        try:
            database.execute("PRAGMA query_only = ON")
            version = _checked_version(database)
            if version == 0:
                raise _missing(path)
            if not unused:
                _check_log(database)
        except BaseException:
            database.close()
            raise
    return database


def open_for_writing(path: Path, *, create: bool = False, durable: bool = True) -> Database:
    """Open a database for reading and writing, make it if `create`, and bring it up to date.

    What is written to one that is not `durable` may be lost with the power, or with it the whole
    database: that is for copies to play with.
    """
    there = _is_there(path)
    if not there and not create:
        raise _missing(path)
    with storage_errors(path):
        if path.exists() and files.read_only(path):
            raise StorageError(f"{path} is read-only; make it writable for its owner")
        if there:
            identify(path)
        else:
            _check_directory(path)
            files.create_private(path)
        return _open_writable(path, (*_SETTINGS, *(_DURABLE if durable else _FLEETING)))


def _open_writable(path: Path, settings: Sequence[str]) -> Database:
    database = _connect(path, "rw")
    try:
        database.gate.open()
        database.guarded = True
        # It may have been filled since it was looked at.
        check_application(path, *whose(database))
        if _checked_version(database) < VERSION:
            _bring_up_to_date(database)
        _use_wal(database)
        for setting in settings:
            database.execute(f"PRAGMA {setting}")
        _check_log(database)
        database.seal.begin(database)
    except BaseException:
        database.close()
        raise
    return database


def _bring_up_to_date(database: Database) -> None:
    """Make or migrate the tables, once, however many processes try."""
    with transaction(database):
        version = _checked_version(database)
        if version < VERSION:
            migrate(database, version)


def _use_wal(database: Database) -> None:
    """Switch WAL on, once the tables are made: so the file itself, and not only its WAL, says from
    the first moment on whose it is. Whoever made them may have been killed before this.

    StorageError if it stays off, which SQLite only mentions: without it a commit is the removal of
    a journal, and `synchronous = FULL` does not bring that to the disk.
    """
    if database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        with database.gate.held(WAIT_S):
            mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(f"{database.path} cannot be switched to WAL: is its disk in order?")


@contextmanager
def transaction(database: Database) -> Iterator[None]:
    """One write transaction, whole or not at all, whatever interrupts it."""
    with storage_errors(database.path), database.gate.held(WAIT_S):
        check_files(database, writing=True)
        database.execute("BEGIN IMMEDIATE")
        try:
            _check_schema(database)
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        database.seal.wrote()


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
    if problem := database.seal.problem(database):
        if writing:
            database.seal.put_log_aside()
        raise DamagedDatabaseError(f"{database.path} {problem}")
    if database.seal.is_bereft():
        raise DamagedDatabaseError(f"{database.path} {BEREFT}")


def _check_log(database: Database) -> None:
    """Refuse a file that the log beside it does not belong to: SQLite would mix them.

    So it is when a backup is put in the place of a database whose processes were killed.
    """
    problem = database.seal.problem(database) if database.seal.resume() else None
    if problem is None:
        return
    if problem in SWAPPED:
        name = database.path.name
        problem = (
            f"was replaced, and {name}-wal is that of the file before it: delete {name}-wal to go "
            f"without, or {name}-gate if the two belong together after all"
        )
    raise DamagedDatabaseError(f"{database.path} {problem}")


def _missing(path: Path) -> StorageError:
    return StorageError(
        f"there is no database at {path}; `sqlsched add` makes one, --db names another"
    )


def _is_there(path: Path) -> bool:
    """Whether there is a database. What was left of one, whose making was interrupted, is not."""
    return files.check_file(path) and not files.half_made(path)


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
    database.seal = Seal(path, database.gate)
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def format_version(database: Database) -> int:
    """The version of its tables; 0 if there are none yet."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


def _checked_version(database: Database) -> int:
    """The version of its tables, 0 if there are none yet.

    DamagedDatabaseError if a newer sqlsched made them, or if they are not just what ours made.
    """
    schema = read_schema(database)
    if schema.version > VERSION:
        raise DamagedDatabaseError(
            f"{database.path} was written by a newer sqlsched (format {schema.version}, this one "
            f"knows {VERSION}); upgrade sqlsched"
        )
    if problem := schema.problem():
        raise DamagedDatabaseError(f"{database.path} {problem}, or restore a backup")
    database.schema_version = schema.changes
    return schema.version


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
        raise explain(database.path, error) from error


def default_path() -> Path:
    """`$SQLSCHED_DB`, else `./sqlsched.db`."""
    return Path(os.environ.get("SQLSCHED_DB") or "sqlsched.db")

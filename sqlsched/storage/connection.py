"""Opening a database: which files are trusted, which settings hold, how a transaction goes."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlsched.exceptions import SqlschedError, StorageError
from sqlsched.storage import files
from sqlsched.storage.migrations import APPLICATION_ID, VERSION, migrate
from sqlsched.storage.seal import BEREFT, SWAPPED, Seal
from sqlsched.storage.soundness import damage, read_schema

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
        _identify(path)
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
        # It may have been filled since it was looked at.
        _check_application(path, *_whose(database))
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
    the first moment on whose it is. Whoever made them may have been killed before this."""
    if database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        with database.gate.held(WAIT_S):
            database.execute("PRAGMA journal_mode = WAL")


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


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one line that names the path.

    What may pass, as a full disk, is a StorageError; all else a DamagedDatabaseError.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(path, error) from error


SUSPECT = (TypeError, ValueError, ArithmeticError, AttributeError)
"""What a value of a wrong kind leads to, be it the file's fault or ours."""


@contextmanager
def blaming(database: Database) -> Iterator[None]:
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


def _explain(path: Path, error: sqlite3.Error) -> StorageError:
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


def _identify(path: Path) -> None:
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
        raise _explain(database.path, error) from error


def default_path() -> Path:
    """`$SQLSCHED_DB`, else `./sqlsched.db`."""
    return Path(os.environ.get("SQLSCHED_DB") or "sqlsched.db")

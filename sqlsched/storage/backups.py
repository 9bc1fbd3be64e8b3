"""Whole copies of a database: taken while others write to it, and put in its place again."""

import glob
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlsched.exceptions import StorageError
from sqlsched.instants import from_us
from sqlsched.storage import connection, files, restored
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.errors import DamagedDatabaseError, storage_errors
from sqlsched.storage.health import count
from sqlsched.storage.restored import LostTime
from sqlsched.storage.whose import is_ours

Progress = Callable[[int, int], None]
"""Told, again and again, how many pages are copied, and how many there are."""

_STEP_PAGES = 1000
_LOGS = ("-wal", "-journal")
"""What SQLite would replay into the file beside which it lies, whichever that is."""
_BESIDE = (*_LOGS, "-shm", "-gate")


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` did."""

    schedules: int
    lost: LostTime
    replaced: Path | None
    """Where the database is kept that was there before."""


def back_up(database: Database, file: Path, now_us: int, progress: Progress | None = None) -> int:
    """Copy a database to `file` as it is at one instant; returns the number of its schedules.

    `file` comes into being whole, private and durable, or stays as it was. It may replace another
    sqlsched database that nobody uses; StorageError otherwise, or if the copy is damaged.
    """
    _check_target(database.path, file)
    with _staging(file) as copy:
        _copy(database, copy, progress)
        with closing(connection.open_for_writing(copy)) as staged:
            with transaction(staged):
                restored.mark(staged, now_us)
            schedules = count(staged)
            _move_log_in(staged)
        _put(copy, file.resolve())
    return schedules


def restore(
    path: Path,
    file: Path,
    now_us: int,
    *,
    catch_up: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Put a copy of `file` in the place of the database at `path`, which nobody may be serving.

    What came due since the backup may have run, and what was going has ended somehow: nobody knows
    any more. So it is put on record as missed and abandoned, and not run again; with `catch_up`,
    firings are left to the rules for missed ones. The database that was there is kept.
    """
    _check_replaceable(path, file)
    real = path.resolve()
    with closing(_open_backup(file)) as source, _staging(path) as copy:
        _copy(source, copy, progress)
        with closing(connection.open_for_writing(copy)) as staged:
            schedules = count(staged)
            with transaction(staged):
                lost = restored.settle_since(staged, now_us, catch_up=catch_up)
            _move_log_in(staged)
        with closing(files.Gate(real)) as gate, gate.held(connection.WAIT_S):
            _check_unserved(path)
            files.remove_strays(real)
            replaced = _replace(copy, real, now_us)
    return Restored(schedules, lost, replaced)


# -- whether it may be done -----------------------------------------------------------------------


def _check_target(path: Path, file: Path) -> None:
    """Refuse to write a backup over anything but one that nobody uses."""
    real, target = path.resolve(), file.resolve()
    if target == real or files.identity(target) == files.identity(real):
        raise StorageError(f"{file} is the database itself; give the backup a file of its own")
    if target in [Path(f"{real}{suffix}") for suffix in _BESIDE]:
        raise StorageError(f"{file} belongs to {path}; give the backup a file of its own")
    if not target.parent.is_dir():
        raise StorageError(f"{file}: its directory {file.parent} does not exist; make it first")
    if files.check_file(file):
        if not is_ours(file):
            raise StorageError(
                f"{file} is there, and no sqlsched database; give the backup a file of its own"
            )
        _check_unserved(file)
        if _has_log(file):
            raise StorageError(f"{file} is in use; give the backup a file of its own")


def _check_replaceable(path: Path, file: Path) -> None:
    """Refuse to replace what is not ours, is in use, or is to be restored itself."""
    if files.identity(file) is not None and files.identity(file) == files.identity(path):
        raise StorageError(f"{file} is the database itself; name a backup of it")
    if not path.resolve().parent.is_dir():
        raise StorageError(f"{path}: its directory {path.parent} does not exist; make it first")
    _finish_interrupted(path.resolve())
    if files.check_file(path) and is_ours(path) is False:
        raise StorageError(
            f"{path} is a database of another application; name a sqlsched database, or a new one"
        )
    _check_unserved(path)


def _check_unserved(path: Path) -> None:
    pids = files.owners_alive(path.resolve())
    if pids:
        who = "process {} serves" if len(pids) == 1 else "processes {} serve"
        raise StorageError(f"{who.format(', '.join(pids))} {path}; end what runs first")


def _open_backup(file: Path) -> Database:
    """A file to be restored, left as it is."""
    if not files.check_file(file):
        raise StorageError(f"there is no backup at {file}; `sqlsched backup` makes one")
    return connection.open_as_it_is(file, unused=not _has_log(file))


def _has_log(file: Path) -> bool:
    """Whether a file is not the whole of its database: it is in use, or was when all ended."""
    return any(files.size(Path(f"{file.resolve()}{suffix}")) for suffix in _LOGS)


# -- copying --------------------------------------------------------------------------------------


def _copy(source: Database, copy: Path, progress: Progress | None) -> None:
    """Copy a database page by page, as it is at one instant; StorageError if it is damaged.

    In steps, and not by VACUUM INTO, which takes as long, cannot say how far it is, and cannot be
    interrupted. The read transaction around them makes them one instant: without it SQLite begins
    again whenever somebody has written (https://sqlite.org/c3ref/backup_finish.html), beside a
    busy scheduler for ever. No writer waits for it; only the log grows until it ends.
    """
    files.create_private(copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous = OFF")  # it is brought to the disk once, at the end
        source.execute("BEGIN")
        source.execute("PRAGMA schema_version").fetchall()  # the instant
        try:
            source.backup(
                target,
                pages=_STEP_PAGES,
                progress=progress and (lambda _, left, total: progress(total - left, total)),
            )
        finally:
            source.execute("ROLLBACK")
        _check_sound(target, source.path)


def _check_sound(copy: sqlite3.Connection, origin: Path) -> None:
    """StorageError if what was copied from `origin` is damaged: it must replace nothing."""
    try:
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # it quotes what it finds
        found = str(error)
    if found != "ok":
        raise DamagedDatabaseError(
            f"{origin} is damaged: {' '.join(found.split())}; nothing was replaced"
        )


@contextmanager
def _staging(file: Path) -> Iterator[Path]:
    """Where to make what is to take the place of `file`: in a private directory beside it."""
    with (
        storage_errors(file),
        tempfile.TemporaryDirectory(prefix=".sqlsched-", dir=file.resolve().parent) as directory,
    ):
        yield Path(directory) / "copy.db"


def _move_log_in(copy: Database) -> None:
    """Let the file hold all of it: its log will not go with it."""
    busy, *_ = copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy  # nobody else knows of it


def _put(copy: Path, real: Path) -> None:
    """Let the copy take the place of a file, at once and durably.

    No log of the old file may lie there for a moment beside the new one, whatever happens, as
    SQLite would replay it into the new one.
    """
    files.sync(copy)
    for suffix in (*_LOGS, "-shm"):
        Path(f"{real}{suffix}").unlink(missing_ok=True)
    files.sync(real.parent)
    copy.replace(real)
    files.sync(real.parent)


def _replace(copy: Path, real: Path, now_us: int) -> Path | None:
    """Let the copy take the place of a database, which is kept with its log under another name.

    Until the copy is there the old file has two names, and so nobody opens it without its log.
    """
    kept = _unused_name(real, now_us)
    old = [suffix for suffix in ("", *_LOGS) if files.size(Path(f"{real}{suffix}"))]
    for suffix in old:
        os.link(f"{real}{suffix}", f"{kept}{suffix}")
    if "" in old and os.geteuid() == 0:
        status = real.stat()
        os.chown(copy, status.st_uid, status.st_gid)
    _put(copy, real)
    for suffix in old:
        Path(f"{kept}{suffix}").chmod(files.PRIVATE)
    return kept if "" in old else None


def _unused_name(real: Path, now_us: int) -> Path:
    name = f"{real}.replaced-{from_us(now_us):%Y%m%dT%H%M%SZ}"
    number = 1
    while Path(name).exists():
        number += 1
        name = f"{name.partition('Z')[0]}Z-{number}"
    return Path(name)


def _finish_interrupted(real: Path) -> None:
    """Undo what a `restore` that was killed amidst `_replace` left: the file has two names."""
    for kept in real.parent.glob(f"{glob.escape(real.name)}.replaced-*Z*"):
        if files.identity(kept) == files.identity(real):
            for suffix in _LOGS:
                log = Path(f"{kept}{suffix}")
                if log.exists():
                    log.replace(f"{real}{suffix}")
                    log.unlink(missing_ok=True)  # rename(2): of two names of one file both stay
            kept.unlink()

"""Whether an open database is still the one at its path, and only SQLite has written to it.

SQLite does not look. In WAL mode a file that was deleted or replaced goes on accepting writes into
nowhere, and so does a log; processes with different -shm overwrite each other; and a file that was
overwritten in place is mixed, page by page, with what its log still holds.

A look is a few calls of stat. The file itself changes only when SQLite moves the log into it, once
in about a thousand pages and within the gate, where that is noted. A change that is not noted is
looked into: another program may have moved the log, too; a restored backup and damage are told
from that.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from sqlsched.storage.files import Gate
from sqlsched.storage.migrations import APPLICATION_ID

REPLACED = "was deleted or replaced by another file while it was open"
OVERWRITTEN = "was overwritten by another program while it was open"
RESTORED = "was restored from a backup while it was open"
SWAPPED = {REPLACED, OVERWRITTEN, RESTORED}
BEREFT = "has lost its -wal or -shm, deleted or replaced while it was open"

CHECKED_BYTES = 32 * 1024 * 1024
"""A file up to this size is checked for damage, in a tenth of a second, when something else seems
to have written to it. In a larger one damage shows when it is read."""


class _State(NamedTuple):
    """What tells a file from another, and from itself after a change."""

    device: int
    inode: int
    size: int
    changed_ns: int


class _Witness(NamedTuple):
    """What never goes back in a database: the version of its schema, and how many schedulers and
    runs there have been.

    A copy made by SQLite has another version: `VACUUM INTO` raises it, a backup starts anew. A copy
    of the bytes has fewer of the rest; or, if it has not, all that it lacks is in the log still.
    """

    schema: int = 0
    owners: int = 0
    runs: int = 0


class Seal:
    """What the files of an open database were when they were looked at last."""

    def __init__(self, path: Path, gate: Gate) -> None:
        self._path, self._real = os.fspath(path), os.fspath(path.resolve())
        self._gate = gate
        self._file = _state(self._path)
        self._beside: tuple[int, int] | None = None
        """The inodes of -wal and -shm; None as long as they may come and go."""
        self._floor = _Witness()
        """The witness in the file, without its log, when it was looked at last."""
        self._knows = False
        """Whether it is known what the file was: not while it is being made."""
        self._log_before = _inode(f"{self._real}-wal")
        """What lay there before SQLite opened the file, which it does when it is first asked."""
        self._noted = False
        self._found: str | None = None
        """What is wrong, once something was: that does not go away."""

    def begin(self, connection: sqlite3.Connection) -> None:
        """Take note of the files as SQLite has opened them: they stay while it has them open."""
        connection.execute("PRAGMA schema_version").fetchone()  # so that it has
        self._file, self._beside, self._knows = _state(self._path), self._inodes(), True
        self._look_into()

    def resume(self) -> bool:
        """Go on from what was noted last, if that was of the log that lies here; whether it was.

        If not, file and log may have been brought here together, and nothing is known of them.
        """
        noted = self._gate.noted() if self._log_before else ()
        if len(noted) != _NOTED or noted[4] != self._log_before:
            return False
        self._file, self._floor, self._knows = _State(*noted[:4]), _Witness(*noted[5:_NOTED]), True
        return True

    def differs(self) -> bool:
        """Whether there is anything to look into."""
        return _state(self._path) != self._file or self.is_bereft()

    def problem(self, connection: sqlite3.Connection) -> str | None:
        """What is wrong with the file, in words that follow the path; None if nothing is."""
        now = _state(self._path)
        if now == self._file or self._found:
            return self._found
        if now is None or self._file is None or now[:2] != self._file[:2]:
            self._found = REPLACED
        elif self._knows:
            self._found = self._problem_of_change(connection, now)
        if self._found is None:
            self._file, self._noted = now, False
        return self._found

    def is_bereft(self) -> bool:
        """Whether -wal or -shm is not what SQLite has open: others do not see what it writes."""
        return self._beside is not None and self._inodes() != self._beside

    def wrote(self) -> None:
        """Note that the file is as SQLite has left it just now. Within the gate."""
        now = _state(self._path)
        if now is not None and (now != self._file or not self._noted):
            if now != self._file:  # the log was moved into it
                self._look_into()
            self._file, self._noted = now, True
            self._gate.note((*now, _inode(f"{self._real}-wal"), *self._floor))

    def closed(self) -> None:
        """Forget, if SQLite has removed the log: of the next one nothing is known."""
        if not _inode(f"{self._real}-wal"):
            self.forget()

    def forget(self) -> None:
        """Note that nothing is known of the files."""
        self._floor = _Witness()
        self._gate.note(())

    def put_log_aside(self) -> None:
        """Take the log out of the way of a file that it does not belong to: whoever opens that
        next would mix them. It stays, as -wal-old. Within the gate."""
        log = Path(f"{self._real}-wal")
        if self._found == RESTORED:
            self.forget()  # SQLite may have done it: then the log is the file's own
        elif self._beside is not None and _inode(str(log)) == self._beside[0]:
            with suppress(OSError):
                log.replace(f"{log}-old")
                Path(f"{self._real}-shm").unlink()

    def _inodes(self) -> tuple[int, int]:
        return _inode(f"{self._real}-wal"), _inode(f"{self._real}-shm")

    def _look_into(self) -> None:
        with suppress(sqlite3.DatabaseError, UnicodeDecodeError):  # it may be written to just now
            self._floor = self._in_file() or self._floor

    def _problem_of_change(self, connection: sqlite3.Connection, now: _State) -> str | None:
        try:
            found = self._in_file()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _raise_unless_damage(error)
            return self._damage()  # none, if somebody was killed while moving the log into it
        known = _witness(connection)
        if not _in_order(self._floor, known):
            return RESTORED
        if found is None or not _in_order(self._floor, found) or not _in_order(found, known):
            return OVERWRITTEN
        if self._gate.noted()[:4] != now and now.size <= CHECKED_BYTES:
            problem = self._damage()
            if problem is not None:
                return problem
        self._floor = found
        return None

    def _in_file(self) -> _Witness | None:
        """The witness in the file, without its log; None if the file is none of ours.

        sqlite3.DatabaseError if it cannot be read, or stands on a page that was written in part:
        so a disk leaves it that was full while the log was moved. The log has it all.
        """
        with closing(self._open("immutable=1")) as raw:
            if raw.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                return None
            found = _witness(raw)
            if not _in_order(self._floor, found):
                problem = raw.execute("PRAGMA quick_check(sqlite_sequence)").fetchone()[0]
                if problem != "ok":
                    raise sqlite3.DatabaseError(problem)
            return found

    def _damage(self) -> str | None:
        """What SQLite finds wrong with the file and its log, read afresh."""
        if self.is_bereft():
            return OVERWRITTEN  # it would be read with another log
        with closing(self._open("mode=ro")) as fresh:
            try:
                found = str(fresh.execute("PRAGMA quick_check(1)").fetchone()[0])
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # it quotes what it finds
                _raise_unless_damage(error)
                found = str(error)
        if found == "ok":
            return None
        return f"is damaged: {' '.join(found.split())}; restore a backup, or name another"

    def _open(self, parameter: str) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(self._real)}?{parameter}", uri=True)


_NOTED = 8
"""Numbers in a note: a state, the log's inode, a witness."""
_WITNESS = """SELECT schema_version,
        coalesce((SELECT CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name = 'owners'), 0),
        coalesce((SELECT CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name = 'runs'), 0)
    FROM pragma_schema_version"""
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL", "SQLITE_CANTOPEN", "SQLITE_IOERR")


def _raise_unless_damage(error: Exception) -> None:
    """What a disk in trouble, or another program, leads to may pass; all else does not."""
    if getattr(error, "sqlite_errorname", "").startswith(_PASSING):
        raise error


def _in_order(earlier: _Witness, later: _Witness) -> bool:
    return all(before <= after for before, after in zip(earlier, later, strict=True))


def _witness(connection: sqlite3.Connection) -> _Witness:
    return _Witness(*connection.execute(_WITNESS).fetchone())


def _state(path: str) -> _State | None:
    """A file's state; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # asked before each write; Path takes thrice as long
    except FileNotFoundError:
        return None
    return _State(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _inode(path: str) -> int:
    """A file's inode; 0 if there is none."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116  # as above
    except FileNotFoundError:
        return 0

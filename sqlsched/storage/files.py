"""The files beside the database: who may write now (the gate), and who is alive (owners).

Both rest on flock, which the kernel drops when a process ends, however it ends; no clock step,
suspend or long pause can fake a death. flock locks belong to an open file, so two owners within
one process are told apart as well.
"""

import fcntl
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlsched.exceptions import StorageError
from sqlsched.storage import trust

PRIVATE = 0o600
_NOTE_AT = 16
"""Where in the gate's file the note is, behind the pid."""
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def check_file(path: Path) -> bool:
    """Whether there is a database file; StorageError if it must not be trusted or used.

    Whoever can write the file decides what is executed. An empty file counts as missing.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
    trust.check(path, status)
    return status.st_size > 0


def half_made(path: Path) -> bool:
    """Whether a database file is still being made, or was never finished, as the disk was full.

    Its rollback journal tells: it says how many pages there were before, and it is gone once they
    stand. SQLite undoes such a file when it opens it for writing; until then it is as good as none.
    """
    try:
        with Path(f"{path.resolve()}-journal").open("rb") as journal:
            header = journal.read(20)
    except OSError:
        return False
    return header[:8] == _JOURNAL_MAGIC and header[16:] == bytes(4)


def group_writable(path: Path) -> bool:
    """True if others could add schedules, were they in the file's group; see `trust`."""
    return bool(path.stat().st_mode & stat.S_IWGRP)


def read_only(path: Path) -> bool:
    """True if its owner made the file read-only; binds root too, who could write all the same."""
    return not path.stat().st_mode & stat.S_IWUSR or not os.access(path, os.W_OK)


def create_private(path: Path) -> None:
    """Make an empty file that only its owner can read; keep one that is there."""
    trust.check_place(path, os.geteuid())
    os.close(_open_private(path, _OPEN & ~os.O_NOFOLLOW))
    check_file(path)  # somebody else may have been quicker


def _open_beside(path: Path, flags: int, database: Path) -> int:
    """The same of a file beside a database. As SQLite does with its own, root gives it away to
    the database's owner, who could not use it otherwise."""
    fd = _open_private(path, flags)
    with suppress(OSError):
        status = database.stat()
        if os.geteuid() == 0 and os.fstat(fd).st_uid != status.st_uid:
            os.fchown(fd, status.st_uid, status.st_gid)
    return fd


def _open_private(path: Path, flags: int) -> int:
    """Open a file, made if missing, that its owner can use whatever the umask takes away."""
    fd = os.open(path, flags, PRIVATE)
    status = os.fstat(fd)
    if status.st_mode & PRIVATE != PRIVATE and status.st_uid == os.geteuid():
        os.fchmod(fd, PRIVATE)
    return fd


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode: tells a file from another that took its name. None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class Gate:
    """Lets one writer in at a time, over all processes, first come first served.

    SQLite's own lock is polled and unfair: under load a writer may wait for seconds. Not
    reentrant, and for one thread at a time.
    """

    def __init__(self, database: Path) -> None:
        self.path = Path(f"{database}-gate")
        self._database = database
        self.refused = False
        """Whether the last wait at it was in vain."""
        self._fd = -1

    def open(self) -> None:
        """Open the gate's file; made if missing."""
        if self._fd < 0:
            self._fd = _open_beside(self.path, _OPEN, self._database)

    def close(self) -> None:
        """Let go of the file; it stays, as others may be waiting at it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def held(self, timeout_s: float) -> Iterator[None]:
        """Hold the gate; StorageError that names the holder's pid after `timeout_s`."""
        self.open()
        self._acquire(timeout_s)
        try:
            with suppress(OSError):  # a full disk must not close the gate
                os.pwrite(self._fd, b"%-10d\n" % os.getpid(), 0)
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _acquire(self, timeout_s: float) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # flock has no timeout and polling would lose every race against those who queue:
            # a thread queues for us, on this open file, whose lock is then ours.
            fd, self._fd = self._fd, -1
            self.refused = not _flock_within(fd, timeout_s)
            if self.refused:
                holder = self.holder()
                raise StorageError(
                    f"{self.path.name.removesuffix('-gate')} has been busy for {timeout_s:.0f} s: "
                    f"process {holder} is writing to it; try again"
                ) from None
            self._fd = fd

    def note(self, numbers: Sequence[int]) -> None:
        """Leave numbers for whoever asks next, here or in another process. Within the gate."""
        with suppress(OSError):
            os.pwrite(self._fd, b"%-255s\n" % " ".join(map(str, numbers)).encode(), _NOTE_AT)

    def noted(self) -> tuple[int, ...]:
        """The numbers that were left last; none if they cannot be read."""
        with suppress(OSError, ValueError):
            return tuple(map(int, self.path.read_bytes()[_NOTE_AT:].split()))
        return ()

    def holder(self) -> int | None:
        """The pid of who holds the gate, or held it last."""
        with suppress(OSError, ValueError):
            return int(self.path.read_text()[:11])
        return None


def _flock_within(fd: int, timeout_s: float) -> bool:
    """Lock an open file; False if that took too long, and then the file is not ours any more."""
    acquired, lock, given_up = threading.Event(), threading.Lock(), False

    def queue() -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with lock:
            acquired.set()
            if given_up:
                os.close(fd)

    threading.Thread(target=queue, daemon=True).start()
    in_time = False
    try:
        in_time = acquired.wait(timeout_s)
    finally:  # also when interrupted: the thread must not keep the gate for nobody
        with lock:
            given_up = not in_time
            if given_up and acquired.is_set():
                os.close(fd)
    return in_time


class OwnerLock:
    """Held by a running scheduler from start to end; others ask whether it still is."""

    def __init__(self, database: Path, token: str) -> None:
        self.path = Path(f"{database}-owner-{token}")
        self._database = database
        self._fd = -1

    def acquire(self) -> None:
        """Make the file and lock it."""
        while True:
            fd = _open_beside(self.path, _OPEN | os.O_EXCL, self._database)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_named(fd, self.path):
                break
            os.close(fd)  # before it was locked it was taken for a dead owner's
        self._fd = fd
        _HELD.add(self)
        with suppress(OSError):  # a full disk is for the first transaction to tell of
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Remove the file, then let go: whoever finds neither file nor lock finds us gone."""
        if self._fd >= 0:
            with suppress(OSError):  # on a disk in trouble it stays, and says nothing unlocked
                self.path.unlink(missing_ok=True)
            self._forget()

    def _forget(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _HELD.discard(self)


_HELD: set[OwnerLock] = set()
"""The locks of this process, which a child forked without exec must not keep: it is not us."""


def _forget_all() -> None:
    for lock in tuple(_HELD):
        lock._forget()


os.register_at_fork(after_in_child=_forget_all)


def owner_alive(database: Path, token: str) -> bool:
    """Whether the process that holds this owner's lock is alive, running or stopped.

    Where that cannot be found out it is: whoever is taken for dead loses its runs.
    """
    try:
        fd = os.open(OwnerLock(database, token).path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def remove_owner(database: Path, token: str) -> None:
    """Remove a dead owner's file, if the disk lets us; what stays says nothing unlocked."""
    with suppress(OSError):
        OwnerLock(database, token).path.unlink(missing_ok=True)


def owners_alive(database: Path) -> list[str]:
    """The pids of those who serve a database, which need not be readable, nor there any more.

    "?" stands for one that is not known.
    """
    start = f"{database.name}-owner-"
    tokens = (
        path.name.removeprefix(start)
        for path in database.parent.iterdir()
        if path.name.startswith(start)
    )
    living = (token for token in tokens if owner_alive(database, token))
    return sorted(_pid_in(OwnerLock(database, token).path) for token in living)


def _pid_in(path: Path) -> str:
    with suppress(OSError, ValueError):
        return str(int(path.read_text()))
    return "?"


def remove_strays(database: Path) -> None:
    """Remove the files of owners that died before their entry in the ledger, or after its end."""
    beside: list[Path] = []
    with suppress(OSError):  # a directory may be closed to those who look for names
        beside += database.parent.iterdir()
    for path in beside:
        if path.name.startswith(f"{database.name}-owner-"):
            with suppress(OSError):  # alive, or just removed by another
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_named(fd, path):
            path.unlink()
    finally:
        os.close(fd)


def _is_named(fd: int, path: Path) -> bool:
    """Whether this open file is the one that has this name now."""
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino) == identity(path)


def size(path: Path) -> int:
    """How large a file is, bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def size_text(count: int) -> str:
    """So many bytes, for people: `88.0 KiB`."""
    if count < 1024:
        return f"{count} B"
    steps = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**steps:.1f} {'KMGT'[steps - 1]}iB"


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk: past its cache too on macOS."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        if hasattr(fcntl, "F_FULLFSYNC") and stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    finally:
        os.close(fd)

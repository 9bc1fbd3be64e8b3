"""`disk.c` from Python: a disk that fails when it is told to, and what was left on it.

The library is compiled by the test that needs it, and loaded into the real program. `Disk` tells
it what to do; `Recording` reads what it wrote down, and says what a power failure would leave.
"""

import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import SkipTest

ROOT = Path(__file__).parents[2]

WRITE, TRUNCATE, SYNC, CREATE, UNLINK, SYNC_DIRECTORY, OPEN, LOCK, RENAME, MARK, FORGET = (
    1 << bit for bit in range(11)
)
CHANGES = WRITE | TRUNCATE | SYNC | CREATE | UNLINK | SYNC_DIRECTORY | RENAME
"""What fails on a disk that is full, or broken."""
READ_ONLY = WRITE | TRUNCATE | CREATE | UNLINK | OPEN | RENAME
"""What fails on a file system that has become read-only."""
FOREVER = 2**63

_CONTROL = struct.Struct("=QQQII1024s1024s1024s")
_HEADER = struct.Struct("=IIQQQ")


@cache
def library() -> Path:
    """The compiled library; SkipTest, by which pytest skips, where it cannot be had."""
    if sys.platform != "linux":
        raise SkipTest("what stands between SQLite and libc is written for Linux")
    compiler = shutil.which("cc")
    if compiler is None:
        raise SkipTest("cc is not installed")
    made = Path(tempfile.mkdtemp(prefix="sqlsched-disk-")) / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


class Disk:
    """The memory that the test shares with the library: `environment` is for the program."""

    def __init__(self, path: Path) -> None:
        new = not path.exists()
        self.path = path
        with path.open("w+b" if new else "r+b") as file:
            if new:
                file.truncate(_CONTROL.size)
            self._memory = mmap.mmap(file.fileno(), _CONTROL.size)

    @property
    def environment(self) -> dict[str, str]:
        """What loads the library into a program, and tells it of this disk."""
        return {"LD_PRELOAD": str(library()), "DISK_CONTROL": str(self.path)}

    def set(
        self,
        database: Path,
        *,
        counted: int = 0,
        error: int = 0,
        first: int = FOREVER,
        last: int = FOREVER,
        record: Path | None = None,
        marks: Path | None = None,
    ) -> None:
        """Watch over a database's files: of the `counted` operations, from now on and from 1, those
        from `first` to `last` fail; all are written down to `record`."""
        self._memory[: _CONTROL.size] = _CONTROL.pack(
            *(0, first, last + 1, counted, error),
            *(os.fsencode(path) if path else b"" for path in (database, record, marks)),
        )

    def off(self) -> None:
        """Do nothing from now on."""
        self._memory[: _CONTROL.size] = bytes(_CONTROL.size)

    @property
    def count(self) -> int:
        """How many operations there have been, of those counted."""
        counted: int = struct.unpack_from("=Q", self._memory)[0]
        return counted


def require_disk(directory: Path) -> None:
    """SkipTest if this Python's SQLite does not call libc by name, as in a static build."""
    disk = Disk(directory / "probe")
    database = directory / "probe.db"
    disk.set(database, counted=WRITE)
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE t (x)')"
    subprocess.run(
        [sys.executable, "-c", script, str(database)], env=os.environ | disk.environment, check=True
    )
    if not disk.count:
        raise SkipTest("SQLite of this Python is linked so that nothing can stand in between")


class Record(NamedTuple):
    """One operation that reached the disk. Of a write `data` is what, of a rename the new name."""

    kind: int
    name: str
    inode: int
    offset: int
    data: bytes


def read_records(path: Path) -> Iterator[Record]:
    """What the library wrote down, in order."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        kind, name_length, inode, offset, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        name = data[at : at + name_length].decode()
        at += name_length
        yield Record(kind, Path(name).name, inode, offset, data[at : at + length])
        at += length


@dataclass(slots=True)
class _File:
    """The bytes of a file that are on the disk for certain, and what was done to it since."""

    durable: bytearray = field(default_factory=bytearray)
    since: list[Record] = field(default_factory=list)


class Platter:
    """The disk itself, record by record: what is on it for certain, and what may be.

    As POSIX has it, and no kinder: bytes are durable once their file was synced, names once their
    directory was. What has not been synced may be there in any part: writes in any subset, each
    whole or cut at a sector, names up to any point in their order (journals of file systems keep
    that order).
    """

    def __init__(self) -> None:
        self._by_inode: dict[int, _File] = {}
        self._names: dict[str, _File] = {}
        self._names_since: list[tuple[str, _File | None]] = []
        self._current: dict[str, _File] = {}

    def add(self, record: Record) -> None:
        """One more operation."""
        kind = record.kind
        if kind in (WRITE, TRUNCATE):
            self._by_inode[record.inode].since.append(record)
        elif kind == SYNC:
            file = self._by_inode[record.inode]
            for change in file.since:
                _apply(file.durable, change)
            file.since.clear()
        elif kind == FORGET:
            # Linux takes what it could not write for written: another sync does not try again.
            self._by_inode[record.inode].since.clear()
        elif kind == SYNC_DIRECTORY:
            self._names = _named(self._names, self._names_since)
            self._names_since.clear()
        elif kind == CREATE:
            self._by_inode[record.inode] = file = _File()  # an inode's number is used again
            self._name(record.name, file)
        elif kind == UNLINK:
            self._name(record.name, None)
        elif kind == RENAME:
            self._name(Path(record.data.decode()).name, self._current[record.name])
            self._name(record.name, None)

    def _name(self, name: str, file: _File | None) -> None:
        self._names_since.append((name, file))
        self._current = _named(self._current, [(name, file)])

    def left(self, rng: random.Random | None = None) -> dict[str, bytes]:
        """The files that a power failure leaves now: only what is certain, or at random more."""
        since = self._names_since[: rng.randint(0, len(self._names_since))] if rng else []
        return {name: _left(file, rng) for name, file in _named(self._names, since).items()}


def _named(names: Mapping[str, _File], changes: list[tuple[str, _File | None]]) -> dict[str, _File]:
    result = dict(names)
    for name, file in changes:
        if file is None:
            result.pop(name, None)
        else:
            result[name] = file
    return result


_SECTOR = 512


def _left(file: _File, rng: random.Random | None) -> bytes:
    data = bytearray(file.durable)
    if rng is not None:
        share = rng.choice((0.1, 0.5, 0.9, 1.0))
        for change in file.since:
            if rng.random() < share:
                cut = rng.randint(0, len(change.data) // _SECTOR) * _SECTOR
                torn = rng.random() < 0.2
                _apply(data, change._replace(data=change.data[:cut]) if torn else change)
    return bytes(data)


def _apply(data: bytearray, change: Record) -> None:
    if change.kind == TRUNCATE:
        del data[change.offset :]
        data.extend(bytes(change.offset - len(data)))
        return
    end = change.offset + len(change.data)
    data.extend(bytes(max(0, end - len(data))))
    data[change.offset : end] = change.data

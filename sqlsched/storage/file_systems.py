"""Which file system a database lies on: our promises hold on one kernel's local ones only.

On those that machines share, or a machine and its guest, locks and shared memory may not reach the
other side: SQLite's (https://sqlite.org/wal.html#overview) no more than ours.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_SHARED = {
    "NFS": "nfs nfs4",
    "an SMB share": "cifs smb3 smbfs",
    "a share of a virtual machine": "9p virtiofs fakeowner fuse.grpcfuse vboxsf vmhgfs "
    "fuse.vmhgfs-fuse prl_fs",
    "a share over the network": "fuse.sshfs macfuse osxfuse afpfs afs webdav fuse.davfs",
    "a cluster's file system": "ceph fuse.ceph fuse.glusterfs lustre beegfs gpfs gfs2 ocfs2 "
    "fuse.juicefs",
    "an object store": "fuse.rclone fuse.s3fs fuse.gcsfuse",
}
_MOUNT_LINE = re.compile(r".* on (?P<place>/.*) \((?P<kind>\w+)[,)]")
"""mount(8) on macOS: `//ada@server/share on /Volumes/share (smbfs, nodev, nosuid)`."""


class FileSystem(NamedTuple):
    """A mounted file system."""

    kind: str
    place: Path

    @property
    def shared(self) -> str | None:
        """What shares it, in words; None if it is local, as far as anyone can tell."""
        return next((name for name, kinds in _SHARED.items() if self.kind in kinds.split()), None)


def file_system(path: Path) -> FileSystem | None:
    """The file system that a file lies on, or would; None if the system does not say."""
    with suppress(OSError, subprocess.SubprocessError):
        return innermost(Path(os.path.realpath(path)), _mounted())
    return None


def shared_warning(path: Path) -> str | None:
    """Why a database is not safe where it is; None if it lies on a local file system."""
    found = file_system(path)
    if found is None or found.shared is None:
        return None
    return (
        f"{path} lies on {found.shared} ({found.kind}, mounted at {found.place}), where locks may "
        "not hold: runs can be lost or doubled, the file damaged; move it to a local disk"
    )


def innermost(path: Path, mounted: Iterable[FileSystem]) -> FileSystem | None:
    """Of mounted file systems, the one that a resolved path lies on: the last of the deepest."""
    holding = [mount for mount in mounted if path.is_relative_to(mount.place)]
    deepest = max((len(mount.place.parts) for mount in holding), default=0)
    return next((m for m in reversed(holding) if len(m.place.parts) == deepest), None)


def _mounted() -> Iterator[FileSystem]:
    if sys.platform == "linux":
        yield from read_mountinfo(os.fsdecode(Path("/proc/self/mountinfo").read_bytes()))
    else:
        ran = subprocess.run(["/sbin/mount"], capture_output=True, timeout=5, check=True)
        yield from read_mount(os.fsdecode(ran.stdout))


def read_mountinfo(text: str) -> Iterator[FileSystem]:
    """The lines of /proc/self/mountinfo: proc(5)."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        yield FileSystem(after.split(" ")[0], Path(place))


def read_mount(text: str) -> Iterator[FileSystem]:
    """What mount(8) prints on macOS."""
    for line in text.splitlines():
        if found := _MOUNT_LINE.match(line):
            yield FileSystem(found["kind"], Path(found["place"]))

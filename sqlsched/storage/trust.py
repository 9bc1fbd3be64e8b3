"""Who else could change a database: whoever writes it decides what is executed.

It is trusted if it belongs to us (root may use anyone's), has one name, and nobody but its owner
can write to it; if nobody else can replace it in its directory; and if the same holds of what lies
beside it, which SQLite believes as much as the file itself.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path

from sqlsched.exceptions import StorageError

BESIDE = ("-wal", "-shm", "-journal", "-gate")
"""What SQLite and we keep beside a database."""

_ROOT = 0


def check(path: Path, status: os.stat_result) -> None:
    """StorageError if the database at `path`, which has this `status`, must not be trusted."""
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise StorageError(f"{path} is {kind}; give the path of a database file")
    if problem := problem_of(status) or _problem_of_links(status):
        raise StorageError(f"{path} {problem}")
    check_place(path, status.st_uid)


def check_place(path: Path, owner: int) -> None:
    """StorageError if another than `owner` can replace what is, or will be, at `path`."""
    real = path.resolve()
    for directory in {path.absolute().parent, real.parent}:  # of a link, and of the file
        if problem := problem_of_directory(directory.stat(), owner):
            raise StorageError(f"{path} lies in a directory that {problem}")
    for suffix in BESIDE:
        beside = Path(f"{real}{suffix}")
        try:
            status = beside.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{beside} is not a regular file, and belongs to the database")
        if problem := problem_of(status, (owner, _ROOT)) or _problem_of_links(status):
            raise StorageError(f"{beside} {problem}")


def problem_of(status: os.stat_result, owners: Collection[int] = ()) -> str | None:
    """Why a file is not to be trusted, to be read after its path; None if it is.

    It may belong to one of `owners`; by default to us, or to anyone if we are root.
    """
    if status.st_uid not in (owners or _ourselves(status)):
        return f"belongs to user {status.st_uid}, who could run commands as you; make it yours"
    if who := _others_who_write(status, {status.st_uid}):
        return f"is writable by {who}, who could then run commands as you; chmod it to 600"
    return None


def _problem_of_links(status: os.stat_result) -> str | None:
    if status.st_nlink > 1:
        return "has more than one hard link; copy it instead of linking it"
    return None


def _ourselves(status: os.stat_result) -> Collection[int]:
    return (status.st_uid if os.geteuid() == _ROOT else os.geteuid(),)


def problem_of_directory(status: os.stat_result, owner: int) -> str | None:
    """Who but `owner` can replace what lies in a directory: to be read after "a directory that"."""
    if status.st_uid not in {owner, _ROOT, *_ourselves(status)}:
        return f"belongs to user {status.st_uid}, who could replace it; move it"
    if status.st_mode & stat.S_ISVTX:  # there, as in /tmp, files are their owners' to replace
        return None
    who = _others_who_write(status, {status.st_uid, owner})
    return f"{who} can write to; move it or chmod the directory" if who else None


def _others_who_write(status: os.stat_result, owners: set[int]) -> str | None:
    """Who beside these may write to a file or directory."""
    if status.st_mode & stat.S_IWOTH:
        return "everyone"
    if status.st_mode & stat.S_IWGRP:
        return _shared_group(status.st_gid, owners | {_ROOT})
    return None


def _shared_group(gid: int, owners: set[int]) -> str | None:
    """Name a group that others than `owners` belong to; None if there is nobody else.

    A group for each user, with umask 002, is the rule on many systems: as OpenSSH on Debian does,
    we let it write what its one member can write anyway.
    """
    import grp  # late: most files are nobody's but their owner's
    import pwd

    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return None if gid in map(_primary_group, owners) else f"group {gid}"
    users = pwd.getpwall()
    members = {user.pw_name for user in users if user.pw_gid == gid}.union(group.gr_mem)
    aside = {user.pw_name for user in users if user.pw_uid in owners}
    return f"group {group.gr_name}" if members - aside else None


def _primary_group(user: int) -> int | None:
    import pwd

    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:  # as in a container that was given numbers
        return os.getegid() if user == os.geteuid() else None

"""Processes beyond our own children: when one started, who is in its session, how to end them.

A pid alone names nobody for long: the kernel gives it to another process. A pid with its start
time, on one boot, does. While any process is in the group or session of a dead leader, the
kernel gives the leader's number to nobody else (fork(2): a pid in use as a group or session id
is not allocated).
"""

import calendar
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_LINUX = sys.platform == "linux"


def boot_id() -> str:
    """A name for the time since the machine started; another one after each boot."""
    if _LINUX:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return _output("sysctl", "-n", "kern.bootsessionuuid").strip()


def process_start_time(pid: int) -> int | None:
    """When a process started; None if there is none with this pid.

    Linux: clock ticks since boot (proc(5), stat, field 22). Elsewhere: seconds since the epoch.
    """
    if _LINUX:
        stat = _stat(pid)
        return int(stat[19]) if stat else None
    text = _output("ps", "-o", "lstart=", "-p", str(pid)).strip()
    return calendar.timegm(time.strptime(text, "%a %b %d %H:%M:%S %Y")) if text else None


def session_members(session: int) -> dict[int, int]:
    """The living processes of a session, {pid: process group}; zombies are not living."""
    members = {}
    for pid in _pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session and _is_alive(pid):
                members[pid] = os.getpgid(pid)
    return members


def signal_groups(groups: set[int], signum: int) -> bool:
    """Send a signal to process groups; False if there was nobody to send it to."""
    reached = False
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signum)
            reached = True
    return reached


def kill_leftovers(pid: int, start_time: int) -> bool:
    """SIGKILL what is left of a run that was started as the session leader `pid`.

    Nothing happens, and False comes back, when `pid` belongs to another process by now or when
    nothing is left. `start_time` is the run's `process_start_time(pid)`, on this boot.
    """
    now = process_start_time(pid)
    if pid <= 1 or now not in (None, start_time):
        return False
    members = session_members(pid)
    ours = {group for member, group in members.items() if _since(member, start_time)}
    return signal_groups(ours, signal.SIGKILL)


def _since(pid: int, start_time: int) -> bool:
    started = process_start_time(pid)
    return started is not None and started >= start_time


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, and may hold both and spaces.
    return text.rpartition(")")[2].split()


def _is_alive(pid: int) -> bool:
    if not _LINUX:
        return True  # `_pids` left the zombies out
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def _pids() -> Iterator[int]:
    if _LINUX:
        yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
        return
    for line in _output("ps", "-A", "-o", "pid=,stat=").splitlines():
        pid, state = line.split(None, 1)
        if not state.startswith("Z"):
            yield int(pid)


def _output(*command: str) -> str:
    import subprocess  # the warm process on Linux never needs it

    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return result.stdout

"""The warm process: an interpreter that has imported what every run needs, and forks one for each.

It is started by exec, lives in a session of its own, has one thread, and imports nothing but the
standard library and this package's light modules; a task's modules are imported after the fork.
It ends when its socket does, and takes all runs with it.
"""

import gc
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from sqlsched.brokers import wire
from sqlsched.brokers.job import Job, leave
from sqlsched.brokers.linux import adopt_orphans, die_with_parent, wake_with_parents_end
from sqlsched.processes import process_start_time, session_members, signal_groups

_RECEIVE_BYTES = 1 << 18
_RECEIVE_FDS = 16
_LINGER_SECONDS = 0.05


def main(control_fd: int) -> None:
    """Serve the socket. A forked child comes back here too, with its job, and does only that."""
    preloaded = set(sys.modules)
    control = socket.socket(fileno=control_fd)
    wake_with_parents_end()
    gc.disable()  # a collection would write to pages that are shared with the children
    gc.collect()
    gc.freeze()
    job = Server(control).serve()
    if job is not None:
        leave(job.run(), preloaded)


@dataclass(slots=True)
class _Child:
    pid: int
    status: int | None = None
    stopping: bool = False
    killed: bool = False


class Server:
    """Requests in, events out, and the children in between."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._received = bytearray()
        self._fds: deque[int] = deque()
        self._children: dict[int, _Child] = {}
        self._lingering = False
        self._pid = os.getpid()
        self._adopts = adopt_orphans()
        self._wakeup, wakeup = os.pipe()
        for fd in (self._wakeup, wakeup):
            os.set_blocking(fd, False)
        # Blocked, not ignored: a child between its fork and its first handler must not lose one.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def serve(self) -> Job | None:
        """Until the scheduler is gone: None. In a forked child: at once, its job."""
        control = self._control.fileno()
        self._send(wire.READY, 0)
        while True:
            timeout = _LINGER_SECONDS if self._lingering else None
            ready, _, _ = select.select([control, self._wakeup], [], [], timeout)
            if control not in ready:
                self._reap()
            elif not self._receive():
                self._end()
                return None
            for signum, run, payload in self._requests():
                if signum != wire.START:
                    self._stop(run, signum)
                elif job := self._start(run, payload):
                    return job

    def _receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, _RECEIVE_BYTES, _RECEIVE_FDS)
        except ConnectionResetError:  # closed with events unread
            return False
        self._received += data
        self._fds += fds
        return bool(data)

    def _requests(self) -> Iterator[tuple[int, int, bytes]]:
        while len(self._received) >= wire.REQUEST.size:
            signum, run, size = wire.REQUEST.unpack_from(self._received)
            end = wire.REQUEST.size + size
            if len(self._received) < end:
                return
            payload = bytes(self._received[wire.REQUEST.size : end])
            del self._received[:end]
            yield signum, run, payload

    def _start(self, run: int, payload: bytes) -> Job | None:
        output_fd, report_fd = self._fds.popleft(), self._fds.popleft()
        try:
            pid = os.fork()
        except OSError as error:
            self._send(wire.REFUSED, run, error.errno or 0)
            pid = -1
        if pid == 0:
            return self._become_child(run, payload, output_fd, report_fd)
        os.close(output_fd)
        os.close(report_fd)
        if pid > 0:
            self._children[run] = _Child(pid)
        return None

    def _become_child(self, run: int, payload: bytes, output_fd: int, report_fd: int) -> Job:
        die_with_parent(self._pid)
        # Said here, before the run can leave anything behind that somebody has to find.
        pid = os.getpid()
        self._send(wire.STARTED, run, pid, process_start_time(pid) or 0)
        # Detached: its number will be another file's soon, and the object must not close that one.
        os.close(self._control.detach())
        signal.set_wakeup_fd(-1)
        return Job(payload, output_fd, report_fd)

    def _stop(self, run: int, signum: int) -> None:
        child = self._children.get(run)
        if child is None:
            return
        child.stopping = True
        child.killed = signum == signal.SIGKILL
        self._signal(child.pid, signum)
        if not child.killed:
            self._signal(child.pid, signal.SIGCONT)  # who was stopped is to hear of it, too
        self._reap()

    @staticmethod
    def _signal(pid: int, signum: int) -> None:
        groups = set(session_members(pid).values())
        if not signal_groups(groups | {pid}, signum):
            with suppress(ProcessLookupError):
                os.kill(pid, signum)  # it has not made its session yet

    def _reap(self) -> None:
        """Report who has ended, and end what is left of their groups while the pids are theirs."""
        with suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        self._lingering = False
        for run, child in list(self._children.items()):
            if child.status is None:
                child.status = _status(child.pid)
            if child.status is None:
                continue
            if child.stopping and not child.killed and session_members(child.pid):
                # Asked to stop, its leader did: the others get the same time.
                self._lingering = True
                continue
            self._release(run, child, child.status)
        if self._adopts:
            self._reap_adopted()

    def _reap_adopted(self) -> None:
        """What runs left behind has us for a parent, and an init that reaps, as a container need
        not have one."""
        with suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if any(child.pid == ended.si_pid for child in self._children.values()):
                    return  # one of our own that lingers: its time comes
                os.waitpid(ended.si_pid, 0)

    def _release(self, run: int, child: _Child, status: int) -> None:
        if child.stopping:
            self._signal(child.pid, signal.SIGKILL)
        else:
            signal_groups({child.pid}, signal.SIGKILL)
        with suppress(ChildProcessError):  # see `_status`
            os.waitpid(child.pid, 0)
        del self._children[run]
        self._send(wire.EXITED, run, status)

    def _end(self) -> None:
        for child in self._children.values():
            child.stopping = child.killed = True
            self._signal(child.pid, signal.SIGKILL)
        while self._children:
            select.select([self._wakeup], [], [], _LINGER_SECONDS)
            self._reap()

    def _send(self, kind: int, run: int, first: int = 0, second: int = 0) -> None:
        with suppress(OSError):  # the scheduler is gone: the next read says so
            self._control.sendall(wire.EVENT.pack(kind, run, first, second))


def _status(pid: int) -> int | None:
    """The exit status of a child that has ended, negative for a signal; None while it lives.

    The child stays a zombie, and so keeps its pid, where Python knows waitid (macOS: from 3.13).
    """
    if hasattr(os, "waitid"):
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
    reaped, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if reaped else None

"""The warm process, seen from the scheduler: starting it, asking it, hearing of its runs' ends.

Nothing here waits in the middle: a request is put in line and sent as the socket takes it, so a
cancelled kick can never leave half a request behind, and a stop always follows its start.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from sqlsched.brokers import wire
from sqlsched.brokers.run import Run
from sqlsched.exceptions import SendTaskError
from sqlsched.output import OutputBuffer
from sqlsched.processes import kill_leftovers

_PACKAGE_ROOT = str(Path(__file__).parents[2])
_BOOTSTRAP = """\
import sys
from importlib.util import find_spec
from os.path import dirname
found = find_spec("sqlsched")
if found is None:
    sys.path.append(sys.argv[2])
elif dirname(dirname(found.origin or "")) != sys.argv[2]:
    sys.path.insert(0, sys.argv[2])
from sqlsched.brokers.child import main
main(int(sys.argv[1]))
"""
_RECEIVE_BYTES = 1 << 16
_END_SECONDS = 10.0
_DIED = "the process that runs tasks died"


class _Request(NamedTuple):
    data: memoryview
    run: Run | None
    """Set for a START; its pipes go with the first byte."""


class WarmProcess:
    """A running interpreter that forks; ended for good when `ended` is done.

    SendTaskError if it cannot be started. `environment` is what it and its runs get.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._numbers = count(1)
        self._runs: dict[int, Run] = {}
        self._outgoing: deque[_Request] = deque()
        self._received = bytearray()
        try:
            self._socket, self._process = _spawn(environment)
        except OSError as error:
            raise SendTaskError(f"cannot start a process: {error.strerror}") from None
        self._socket.setblocking(False)
        self.loop.add_reader(self._socket, self._receive)

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, payload: bytes, output: OutputBuffer) -> Run:
        """Ask for a run; SendTaskError if there are no descriptors for its pipes."""
        try:
            run = Run(next(self._numbers), output)
        except OSError as error:
            raise SendTaskError(f"cannot start a process: {error.strerror}") from None
        self._runs[run.number] = run
        header = wire.REQUEST.pack(wire.START, run.number, len(payload))
        self._send(_Request(memoryview(header + payload), run))
        return run

    def stop(self, run: Run, signum: signal.Signals) -> None:
        """Send a signal to everything in the run's session; SIGKILL reaches it for certain."""
        if not run.done.done():
            self._wake()
            request = wire.REQUEST.pack(signum, run.number, 0)
            self._send(_Request(memoryview(request), None))

    async def close(self) -> None:
        """End it and all runs; they fail as killed."""
        if not self.ended.is_set():
            self._wake()
            self._socket.shutdown(socket.SHUT_WR)
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await self.ended.wait()
        self._end()

    def abandon(self) -> None:
        """End it from outside its event loop, which is closed."""
        self._wake()
        self._socket.close()
        self._process.wait()

    def _wake(self) -> None:
        # Should somebody have stopped it, a task its parent: it has to hear of this.
        self._process.send_signal(signal.SIGCONT)

    def _send(self, request: _Request) -> None:
        self._outgoing.append(request)
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._send_some(self._outgoing[0])
        except BlockingIOError:
            self.loop.add_writer(self._socket, self._flush)
            return
        except OSError:
            pass  # it died: the next read says so, and deals with it
        self.loop.remove_writer(self._socket)

    def _send_some(self, request: _Request) -> None:
        ends = request.run.ends if request.run else ()
        if request.run and ends:
            sent = socket.send_fds(self._socket, [request.data], ends)
            request.run.close_ends()
        else:
            sent = self._socket.send(request.data)
        if sent < len(request.data):
            self._outgoing[0] = _Request(request.data[sent:], request.run)
        else:
            self._outgoing.popleft()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it died with requests unread
            data = b""
        if not data:
            self._end()
            return
        self._received += data
        whole = len(self._received) // wire.EVENT.size * wire.EVENT.size
        events, self._received = self._received[:whole], self._received[whole:]
        for event in wire.EVENT.iter_unpack(events):
            self._handle(*event)

    def _handle(self, kind: int, number: int, first: int, second: int) -> None:
        if kind == wire.READY:
            self.ready.set()
        elif kind == wire.STARTED:
            self._runs[number].process = (first, second)
        elif kind == wire.EXITED:
            self._runs.pop(number).exited(first)
        elif kind == wire.REFUSED:
            error = SendTaskError(f"cannot start a process: {os.strerror(first)}")
            self._runs.pop(number).refused(error)

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.loop.remove_reader(self._socket)
        self.loop.remove_writer(self._socket)
        self._socket.close()
        self._process.kill()
        self._process.wait()
        unsent = {request.run for request in self._outgoing}
        for run in self._runs.values():
            if run in unsent:
                run.refused(SendTaskError(_DIED))
            else:
                _lose(run)
        self._runs.clear()
        self.ended.set()
        self.ready.set()


def _lose(run: Run) -> None:
    if run.process is not None:
        kill_leftovers(*run.process)
    run.lost(_DIED)


def _spawn(
    environment: Mapping[str, str] | None,
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        try:
            # A session of its own: a terminal's Ctrl-C and a signal to our group pass it by.
            return ours, subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, str(fd), _PACKAGE_ROOT],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                pass_fds=(fd,),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise

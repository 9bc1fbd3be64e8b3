"""One run in a process of its own, seen from the scheduler: its pipes, its output, its outcome."""

import asyncio
import os
import signal
from contextlib import suppress

from sqlsched.abc import RunOutcome
from sqlsched.brokers.wire import MAX_ERROR
from sqlsched.output import OutputBuffer

_READ_BYTES = 1 << 16
_READS_PER_TURN = 4
"""A quarter of a MiB, then the event loop has its turn."""
_EOF_SECONDS = 0.2
"""How long a process that left the run's group may keep the output open after the run's end."""


class Run:
    """Collects what the process prints; `done` is set once it has ended and the output is read.

    `ends` are the write ends, for the warm process, until it has them. `process` is (pid, start
    time) once it has started.
    """

    def __init__(self, number: int, output: OutputBuffer) -> None:
        self.number = number
        self.process: tuple[int, int] | None = None
        self._output = output
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[RunOutcome] = self._loop.create_future()
        self._status: int | None = None
        self._lost: str | None = None
        self._output_fd, output_end = os.pipe()
        try:
            self._report_fd, report_end = os.pipe()
        except OSError:
            os.close(self._output_fd)
            os.close(output_end)
            raise
        self.ends: tuple[int, ...] = (output_end, report_end)
        os.set_blocking(self._output_fd, False)
        os.set_blocking(self._report_fd, False)
        self._loop.add_reader(self._output_fd, self._read)

    def close_ends(self) -> None:
        """The warm process has them, or never will."""
        for end in self.ends:
            os.close(end)
        self.ends = ()

    def exited(self, status: int) -> None:
        """The process has ended; what it printed may not be read yet."""
        self._status = status
        if self._output_fd < 0:
            self._finish()
        else:
            self._loop.call_later(_EOF_SECONDS, self._finish)

    def lost(self, reason: str) -> None:
        """Nobody will ever tell how the process ended."""
        self._lost = reason
        self._finish()

    def refused(self, error: Exception) -> None:
        """It was never started."""
        self._close()
        if not self.done.done():
            self.done.set_exception(error)

    def _read(self) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data = os.read(self._output_fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_output()
                if self._status is not None:
                    self._finish()
                return
            self._output.write(data)

    def _finish(self) -> None:
        if self.done.done():
            return
        if self._output_fd >= 0:
            self._read_rest()
        outcome = self._outcome()
        self._close()
        self.done.set_result(outcome)

    def _read_rest(self) -> None:
        # No more than a pipe holds: a process that left the group may print for ever.
        with suppress(BlockingIOError):
            self._output.write(os.read(self._output_fd, _READ_BYTES))

    def _outcome(self) -> RunOutcome:
        error = self._lost or self._error()
        return RunOutcome(
            "failed" if error else "succeeded", error, self._output.text(), self._status
        )

    def _error(self) -> str | None:
        if self._status is not None and self._status < 0:
            return f"killed by {_signal_name(-self._status)}"
        with suppress(BlockingIOError):
            report = os.read(self._report_fd, 4 * MAX_ERROR)
            if report:
                return report.decode(errors="replace")
        return f"exit status {self._status}" if self._status else None

    def _close_output(self) -> None:
        self._loop.remove_reader(self._output_fd)
        os.close(self._output_fd)
        self._output_fd = -1

    def _close(self) -> None:
        self.close_ends()
        if self._output_fd >= 0:
            self._close_output()
        if self._report_fd >= 0:
            os.close(self._report_fd)
            self._report_fd = -1


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX
        return f"signal {number}"

"""`sqlsched run` in a process that is ready in hundredths of a second."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.faults import victim
from tests.servers import ROOT


class Forked:
    """A `run` process forked from one that has imported the program; answers as a Popen does."""

    _context = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(["tests.faults.victim"])
    _lock = threading.Lock()  # multiprocessing is for one thread at a time

    def __init__(
        self,
        directory: Path,
        words: Sequence[str],
        kill_at: victim.KillAt | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.kill_at = kill_at
        self.returncode: int | None = None
        environment = {"PYTHONPATH": str(ROOT)} | dict(environment or {})
        arguments = (str(directory), list(words), environment, kill_at)
        self._process = self._context.Process(target=victim.run, args=arguments, daemon=True)
        with self._lock:
            self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None and self._process.exitcode is not None:
                self.returncode = self._process.exitcode
                self._process.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended; TimeoutExpired otherwise."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("run", timeout or 0)
            time.sleep(0.002)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)

"""Real servers and workers for tests: each started on a free port, and stopped with its test.

A test that needs a program that is not installed is skipped, saying so; in CI that is a failure.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def require(program: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is true; the test fails if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class RedisServer:
    """A redis-server of our own, with an append-only file, that can be stopped and started."""

    def __init__(self, directory: Path) -> None:
        self.program = require("redis-server")
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.directory / "redis.log").open("ab")
        self.process = subprocess.Popen(
            [
                *(self.program, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.directory), "--save", "", "--appendonly", "yes"),
                *("--appendfsync", "always"),
            ],
            stdout=log,
            stderr=log,
        )
        log.close()
        wait_for(self.answers)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; with SIGKILL as it ends in a crash."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None


class Program:
    """A process of its own, a program of this Python's, in a directory that its modules lie in."""

    def __init__(
        self, directory: Path, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = directory / f"{'-'.join(arguments[:2]).replace('/', '_')}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"} | dict(env or {}),
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the whole session, which a worker's children belong to; the exit status."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait(20)

"""What every part of the suite may use: the program, called as its user calls it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from sqlsched.cli import main
from tests.servers import Program, RedisServer


@pytest.fixture
def sqlsched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., CompletedProcess[str]]:
    """Call the program within this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SQLSCHED_DB", raising=False)

    def call(*arguments: str) -> CompletedProcess[str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr()
        return CompletedProcess(arguments, int(stop.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for tests that neither stop it nor mind others' keys: each takes a prefix,
    or empties it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server of our own."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start `python -m …` in the test's directory; it is stopped with the test."""
    started: list[Program] = []

    def start(*arguments: str, **options: Any) -> Program:
        started.append(Program(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for program in started:
        program.stop(signal.SIGKILL)

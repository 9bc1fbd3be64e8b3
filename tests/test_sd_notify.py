"""What systemd is told of a scheduler, over a real socket."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched import InProcessBroker, Scheduler
from sqlsched.engine.scheduler import Options
from sqlsched.sd_notify import Systemd, from_environment
from sqlsched.supervisor import NOBODY, Supervisor
from sqlsched.testing import FakeClock
from tests.servers import Program

Sqlsched = Callable[..., CompletedProcess[str]]


class Listener:
    """What systemd is to its services."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        self.socket.settimeout(20)

    def next(self) -> dict[str, str]:
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def heard(self) -> list[dict[str, str]]:
        """What has been sent already."""
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found


@pytest.fixture(params=["", "@"], ids=["a path", "no file"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}{tmp_path / 'notify'}"


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    made = Listener(address)
    yield made
    made.socket.close()


@pytest.mark.parametrize("address", ["@"], indirect=True)
def test_a_service_says_that_it_serves_lives_and_stops_and_its_tasks_are_not_asked_to(
    listener: Listener,
    address: str,
    sqlsched: Sqlsched,
    start_program: Callable[..., Program],
    tmp_path: Path,
) -> None:
    sqlsched(
        "add", "--id", "env", "--at", "2026-01-01", "--shell", "env | grep -c 'NOTIFY\\|WATCH'"
    )
    watchdog = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    service = start_program("sqlsched", "run", env=watchdog)
    assert listener.next() == {"READY": "1", "STATUS": "serving sqlsched.db"}
    said = [listener.next() for _ in range(2)]
    assert [message["WATCHDOG"] for message in said] == ["1", "1"]
    assert said[-1]["STATUS"] == "0 running, no firing to come"
    service.process.send_signal(signal.SIGTERM)
    while (last := listener.next()).get("WATCHDOG"):
        pass
    assert last == {"STOPPING": "1", "STATUS": "stopping"}
    assert service.process.wait(20) == 0
    assert list(tmp_path.glob("*owner*")) == []
    assert sqlsched("logs", "--last", "env").stdout == "0\n"


def test_that_nobody_listens_is_no_failure(tmp_path: Path) -> None:
    for address in (str(tmp_path / "gone"), "@gone", "/" + "x" * 200):
        Systemd(address).ready("serving")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (False, None)),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, (False, None)),
        ({"NOTIFY_SOCKET": "/run/x"}, (True, 60)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "4000000"}, (True, 2)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}, (True, 60)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "often"}, (True, 60)),
        (
            {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "9", "WATCHDOG_PID": str(os.getpid())},
            (True, 4.5e-6),
        ),
    ],
)
def test_the_environment_says_who_listens_and_keeps_none_of_it(
    environment: dict[str, str], expected: tuple[bool, float | None]
) -> None:
    found = from_environment(environment)
    assert environment == {}
    assert (found is not NOBODY, getattr(found, "_every_s", None)) == expected


def test_life_is_told_of_twice_in_each_watchdog_time(listener: Listener, address: str) -> None:
    systemd = Systemd(address, watchdog_s=10)
    for tenths in range(200):
        systemd.alive(tenths / 10, lambda tenths=tenths: f"at {tenths / 10}")  # type: ignore[misc]
    assert [said["STATUS"] for said in listener.heard()] == [
        "at 0.0",
        "at 5.0",
        "at 10.0",
        "at 15.0",
    ]


class Recorder(Supervisor):
    """Remembers what it was told."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.told: list[tuple[str, datetime]] = []

    def ready(self, text: str) -> None:
        self.told.append((text.split()[0], self.clock.now()))

    def alive(self, elapsed_s: float, describe: Callable[[], str]) -> None:
        assert elapsed_s == pytest.approx((self.clock.now() - START).total_seconds())
        self.told.append((describe(), self.clock.now()))

    def stopping(self) -> None:
        self.told.append(("stopping", self.clock.now()))


START = datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)


async def test_the_loop_shows_life_whatever_it_waits_for(
    tmp_path: Path,
) -> None:
    clock = FakeClock(START)
    recorder = Recorder(clock)
    scheduler = Scheduler(InProcessBroker(), [], database=tmp_path / "a.db", clock=clock)
    until = START + timedelta(minutes=2)
    await scheduler.run(skip_first_run=True, until=until, options=Options(supervisor=recorder))
    words = [word for word, _ in recorder.told]
    assert (words[0], words[1], words[-1]) == ("serving", "waiting for the next minute", "stopping")
    assert set(words[1:-1]) == {"waiting for the next minute", "0 running, no firing to come"}
    assert recorder.told[-1][1] == until

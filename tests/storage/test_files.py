"""The gate and the owners' locks, across real processes: what the kernel promises, and we use."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sqlsched.exceptions import StorageError
from sqlsched.storage.files import Gate, OwnerLock, owner_alive, remove_owner, remove_strays

Spawn = Callable[..., subprocess.Popen[str]]

HOLD_GATE = """
import sys
from pathlib import Path
from sqlsched.storage.files import Gate
with Gate(Path(sys.argv[1])).held(5):
    print("held", flush=True)
    sys.stdin.read()
"""
OWN = """
import os, sys
from pathlib import Path
from sqlsched.storage.files import OwnerLock
lock = OwnerLock(Path(sys.argv[1]), "token")
lock.acquire()
if "fork" not in sys.argv or os.fork() == 0:  # the child speaks, once it is a child
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
def spawn(database: Path) -> Iterator[Spawn]:
    """Start a process that has said its first line; it is gone when the test is."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(database), *arguments]
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# -- the gate -------------------------------------------------------------------------------------


def test_while_another_process_holds_the_gate_it_is_closed_and_the_error_names_its_pid(
    database: Path, spawn: Spawn
) -> None:
    holder = spawn(HOLD_GATE)
    assert first_line(holder) == "held"
    gate = Gate(database)
    with pytest.raises(StorageError, match=f"test.db has been busy .* process {holder.pid} "):
        gate.held(0.05).__enter__()
    holder.communicate()
    with gate.held(5):
        assert gate.holder() == os.getpid()
    gate.close()


def test_a_killed_process_opens_the_gate(database: Path, spawn: Spawn) -> None:
    holder = spawn(HOLD_GATE)
    assert first_line(holder) == "held"
    holder.kill()
    gate = Gate(database)
    with gate.held(5):
        pass
    gate.close()


def test_who_gave_up_waiting_does_not_keep_the_gate_closed_later(
    database: Path, spawn: Spawn
) -> None:
    holder = spawn(HOLD_GATE)
    assert first_line(holder) == "held"
    impatient, patient = Gate(database), Gate(database)
    with pytest.raises(StorageError):
        impatient.held(0.02).__enter__()
    holder.communicate()
    for gate in (patient, impatient, patient):
        with gate.held(5):
            pass
    impatient.close()
    patient.close()


def test_an_exception_opens_the_gate(database: Path) -> None:
    gate, other = Gate(database), Gate(database)
    with pytest.raises(KeyboardInterrupt), gate.held(1):
        raise KeyboardInterrupt
    with other.held(0.02):
        pass
    gate.close()
    other.close()


def test_those_who_queue_are_let_in_in_the_order_they_came(database: Path) -> None:
    order: list[int] = []

    def enter(number: int) -> None:
        gate = Gate(database)
        with gate.held(10):
            order.append(number)
        gate.close()

    holder = Gate(database)
    with holder.held(1):
        queue = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
        for thread in queue:
            thread.start()
            thread.join(0.1)  # it has come to the gate by then, and waits
    for thread in queue:
        thread.join()
    holder.close()
    assert order == [0, 1, 2, 3]


def test_who_writes_without_a_pause_does_not_starve_others(database: Path) -> None:
    greedy, entered = Gate(database), threading.Event()

    def enter() -> None:
        gate = Gate(database)
        with gate.held(10):
            entered.set()
        gate.close()

    thread = threading.Thread(target=enter)
    thread.start()
    turns = 0
    while not entered.is_set() and turns < 1000:
        with greedy.held(10):
            entered.wait(0.002)
        turns += 1
    thread.join()
    greedy.close()
    assert turns < 1000


# -- owners ---------------------------------------------------------------------------------------


def test_an_owner_lives_from_its_entry_to_its_leaving(database: Path) -> None:
    lock = OwnerLock(database, "token")
    assert not owner_alive(database, "token")
    lock.acquire()
    assert owner_alive(database, "token")
    assert not owner_alive(database, "other")
    lock.release()
    assert not owner_alive(database, "token")
    assert not lock.path.exists()
    lock.release()


def test_a_killed_owner_is_dead_at_once_and_a_stopped_one_is_not(
    database: Path, spawn: Spawn
) -> None:
    process = spawn(OWN)
    assert first_line(process) == str(process.pid)
    process.send_signal(signal.SIGSTOP)
    assert owner_alive(database, "token")
    process.kill()
    process.wait()
    assert not owner_alive(database, "token")


def test_a_child_forked_without_exec_does_not_keep_its_owner_alive(
    database: Path, spawn: Spawn
) -> None:
    process = spawn(OWN, "fork")
    child = int(first_line(process))
    assert owner_alive(database, "token")
    process.kill()
    process.wait()
    os.kill(child, 0)  # it lives
    assert not owner_alive(database, "token")


def test_asking_does_not_disturb_the_owner_or_another_who_asks(database: Path) -> None:
    lock = OwnerLock(database, "token")
    lock.acquire()
    assert all(owner_alive(database, "token") for _ in range(3))
    lock.release()


def test_a_token_is_used_once(database: Path) -> None:
    lock = OwnerLock(database, "token")
    lock.acquire()
    with pytest.raises(FileExistsError):
        OwnerLock(database, "token").acquire()
    lock.release()


def test_files_of_the_dead_that_nobody_knows_of_are_removed_and_no_others(
    database: Path, spawn: Spawn
) -> None:
    process = spawn(OWN)
    assert first_line(process) == str(process.pid)
    (database.parent / "test.db-owner-dead").touch()
    (database.parent / "other.db-owner-dead").touch()
    remove_strays(database)
    assert owner_alive(database, "token")
    process.kill()
    process.wait()
    remove_strays(database)
    assert [path.name for path in database.parent.iterdir()] == ["other.db-owner-dead"]


def test_an_owner_whose_file_was_taken_for_a_dead_ones_makes_another(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def come_late(fd: int, operation: int) -> None:
        monkeypatch.undo()
        remove_strays(database)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", come_late)
    lock = OwnerLock(database, "token")
    lock.acquire()
    remove_strays(database)
    assert owner_alive(database, "token")
    lock.release()


def test_an_owner_leaves_a_disk_in_trouble_without_an_error(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    lock = OwnerLock(database, "token")
    lock.acquire()
    monkeypatch.setattr(Path, "unlink", fail)
    lock.release()
    assert not owner_alive(database, "token")
    remove_owner(database, "token")
    assert lock.path.exists()


def test_an_owner_that_cannot_be_asked_for_is_not_taken_for_dead(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", fail)
    assert owner_alive(database, "token")

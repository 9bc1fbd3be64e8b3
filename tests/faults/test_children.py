"""What children do that nobody should: each is recorded, and leaves nothing behind.

All of them run side by side under one scheduler, so that what one does is also seen to do no harm
to the others.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sqlsched import ScheduledTask, Scheduler, SubprocessBroker
from sqlsched.engine.scheduler import Options
from sqlsched.output import HEAD_BYTES, KEEP_BYTES
from sqlsched.scheduled_task import SHELL_TASK, TaskMessage
from sqlsched.storage import additions, runs
from sqlsched.storage.connection import open_for_reading, open_for_writing
from tests.faults.courses import Result
from tests.faults.harness import Fleet
from tests.servers import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

JOBS = """
import os, resource, signal, subprocess, sys, time

def note(name, pid=None):
    with open(name + ".pids", "a") as file:
        print(pid or os.getpid(), file=file)

def deaf(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(name)
    time.sleep(60)

def daemonize(name, session):
    note(name)
    if os.fork():
        return os.wait()
    if session:
        os.setsid()
    if os.fork():
        os._exit(0)
    note(name)  # it keeps the output pipe open
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)

def hoard(name):
    note(name)
    size = 256 << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    bytearray(4 * size)

def hoard_in_crumbs(name):
    note(name)
    size = 256 << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    kept = []
    while True:
        kept.append(bytearray(100_000))

def become(name):
    note(name)
    os.execvp("sh", ["sh", "-c", "echo another program; exit 4"])

def move(name):
    os.chdir("/")
    time.sleep(1)

def where(name):
    time.sleep(0.5)
    print(os.getcwd())

def close_streams(name):
    note(name)
    print("before")
    sys.stdout.close()
    sys.stderr.close()
    os.close(1)
    os.close(2)
    time.sleep(0.4)
    sys.exit(3)

def close_all(name, status):
    note(name)
    os.closerange(0, 256)
    sys.exit(status)

def binary(name):
    sys.stdout.buffer.write(bytes(range(256)) * 400)

def end_group(name):
    note(name)
    child = subprocess.Popen(["sleep", "60"])
    note(name, child.pid)
    os.killpg(0, signal.SIGKILL)

def halt(name):
    note(name)
    child = subprocess.Popen(["sleep", "60"])
    note(name, child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)

def orphan_zombies(name):
    note(name)
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        note(name, pid)

def fall_out(name):
    note(name)
    if os.fork() == 0:
        note(name)
        raise ValueError("in a fork")
    os.wait()
"""

PATTERN = bytes(range(256)) * 400
SIGNALS = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2"),
    *("PIPE", "ALRM", "TERM", "XCPU", "XFSZ", "VTALRM", "PROF", "SYS"),
)


@dataclass
class Case:
    """What a child does, and what must be on record of it."""

    task: str
    args: list[Any]
    status: str = "succeeded"
    exit_code: int | None = 0
    error: str | None = None
    timeout: int | None = None
    output: bytes | None = None
    """What it must have printed; None: anything."""
    survivors: int = 0
    """Processes that have left the run, by a session of their own."""


def job(task: str, *args: Any, **expected: Any) -> Case:
    return Case(f"jobs:{task}", list(args), **expected)


def line(text: str, **expected: Any) -> Case:
    return Case(SHELL_TASK, [text], **expected)


def failed(status: int) -> dict[str, Any]:
    return {"status": "failed", "exit_code": status, "error": f"exit status {status}"}


def slain(name: str) -> dict[str, Any]:
    number = signal.Signals[f"SIG{name}"]
    return {"status": "failed", "exit_code": -number, "error": f"killed by SIG{name}"}


def late(seconds: int = 1) -> dict[str, Any]:
    error = f"timed out after {seconds} s"
    return {"status": "timed_out", "exit_code": None, "error": error, "timeout": seconds}


NO_MEMORY: dict[str, Any] = {"status": "failed", "exit_code": 1, "error": "MemoryError"}

CASES = {
    "deaf": job("deaf", **late()),
    "deaf-line": line(
        "trap '' TERM; echo $$ >>deaf-line.pids; while :; do sleep 60; done", **late()
    ),
    "daemon": job("daemonize", False),
    "daemon-session": job("daemonize", True, survivors=1),
    "job-control": line("set -m; sleep 60 & echo $! $$ >>job-control.pids; wait", **late()),
    "holds-the-pipe": line(
        "sleep 60 & echo $! $$ >>holds-the-pipe.pids; echo done", output=b"done\n"
    ),
    "fills-the-pipe": line("head -c 3000000 /dev/zero; exit 5", **failed(5)),
    "no-newline": line("echo $$ >>no-newline.pids; yes | tr -d '\\n'", **late()),
    "binary": job("binary", output=PATTERN),
    "closes-streams": job("close_streams", output=b"before\n", **failed(3)),
    "closes-all": job("close_all", 0),
    "closes-all-and-fails": job("close_all", 6, **failed(6)),
    "memory": job("hoard", **NO_MEMORY),
    "memory-in-crumbs": job("hoard_in_crumbs", **NO_MEMORY),
    "killed-from-outside": line("echo $$ >>killed-from-outside.pids; sleep 60", **slain("KILL")),
    "another-program": job("become", output=b"another program\n", **failed(4)),
    "changes-directory": job("move"),
    "where": job("where"),
    "ends-its-group": job("end_group", **slain("KILL")),
    "halts-itself": job("halt", **late()),
    "leaves-zombies": job("orphan_zombies"),
    "falls-out": job("fall_out"),
    **{
        f"dies-by-{name}": line(f"ulimit -c 0; kill -s {name} $$", **slain(name))
        for name in SIGNALS
    },
}


class Findings:
    """What was left of all of them: in the ledger, among the processes, of descriptors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "app.db"
        self.rows: dict[str, runs.RunRow] = {}
        self.outputs: dict[str, tuple[bytes, bytes, int]] = {}
        self.files: list[tuple[int, int]] = []
        """Open descriptors of the scheduler and of its warm process, before and after."""
        self.adopted: list[int] = []
        """Children that the warm process has at the end."""

    def prepare(self) -> None:
        (self.directory / "jobs.py").write_text(JOBS)
        with closing(open_for_writing(self.path, create=True)) as database:
            for name, case in CASES.items():
                is_line = case.task == SHELL_TASK
                schedule = ScheduledTask(
                    task_name=case.task,
                    args=case.args if is_line else [name, *case.args],
                    schedule_id=name,
                    time=datetime.now(UTC),
                    timeout=case.timeout,
                )
                additions.add(database, schedule, time.time_ns() // 1000)

    async def run(self) -> None:
        broker = SubprocessBroker(self.directory, kill_after_seconds=0.3)
        scheduler = Scheduler(broker, [], database=self.path)
        await scheduler.startup()
        assert broker._warm is not None
        warm = broker._warm.pid
        self.files.append(await self._files(broker, warm))
        killing = asyncio.create_task(self._kill_from_outside())
        await scheduler.run(until_idle=True, options=Options(concurrency=64))
        await killing
        self.files.append(await self._files(broker, warm))
        self.adopted = children_of(warm)
        await scheduler.shutdown()

    async def _files(self, broker: SubprocessBroker, warm: int) -> tuple[int, int]:
        message = TaskMessage(task_id="count", task_name=SHELL_TASK, args=["true"])
        await broker.kick(message)
        mine, its = (len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (os.getpid(), warm))
        return mine, its

    async def _kill_from_outside(self) -> None:
        while not pids(self.directory, "killed-from-outside"):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)
        os.kill(pids(self.directory, "killed-from-outside")[0], signal.SIGKILL)

    def read(self) -> None:
        with closing(open_for_reading(self.path)) as database:
            for row in runs.history(database):
                assert row.schedule_id not in self.rows, "it ran twice"
                self.rows[row.schedule_id] = row
                self.outputs[row.schedule_id] = runs.output(database, row.run_id)


def pids(directory: Path, name: str) -> list[int]:
    path = directory / f"{name}.pids"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def is_there(pid: int) -> bool:
    """Whether a process lives, or is a zombie."""
    return Path(f"/proc/{pid}").exists()


def find(directory: Path) -> Findings:
    """Run them all."""
    findings = Findings(directory)
    findings.prepare()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has all children ignore it
    try:
        asyncio.run(findings.run())
    finally:
        signal.signal(signal.SIGHUP, before)
    findings.read()
    return findings


def check_case(findings: Findings, name: str) -> None:
    """One is recorded as it ended, and has left nothing; what may survive is ended here."""
    case, row = CASES[name], findings.rows[name]
    ended = (row.status, row.exit_code, row.error)
    assert ended == (case.status, case.exit_code, case.error), f"{name}: {ended}"
    head, tail, total = findings.outputs[name]
    assert len(head) + len(tail) == min(total, KEEP_BYTES)
    if case.output is not None:
        assert total == len(case.output)
        assert head == case.output[:HEAD_BYTES]
        assert tail == case.output[HEAD_BYTES:][-HEAD_BYTES:]
    left = [pid for pid in pids(findings.directory, name) if is_there(pid)]
    assert len(left) == case.survivors, f"{name}: {left}"
    for pid in left:
        os.kill(pid, signal.SIGKILL)


def check_rest(findings: Findings) -> None:
    """No descriptor and no zombie is left."""
    before, after = findings.files
    assert before == after
    assert len(findings.adopted) == sum(case.survivors for case in CASES.values())


def children(rounds: int) -> Result:
    """All of them, so many times."""
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            findings = find(Path(directory))
            for name in CASES:
                check_case(findings, name)
            check_rest(findings)
    return Result(rounds * len(CASES))


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return find(tmp_path_factory.mktemp("children"))


@pytest.mark.parametrize("name", CASES)
def test_it_is_recorded_as_it_ended_and_leaves_nothing(findings: Findings, name: str) -> None:
    check_case(findings, name)


def test_no_descriptor_and_no_zombie_is_left(findings: Findings) -> None:
    check_rest(findings)


def test_what_prints_for_ever_was_read_all_the_time(findings: Findings) -> None:
    assert findings.outputs["no-newline"][2] > 100 * KEEP_BYTES


def test_a_directory_that_one_changes_is_no_others(findings: Findings) -> None:
    assert findings.outputs["where"][0].decode() == f"{findings.directory}\n"


def test_the_program_shows_what_is_no_text(findings: Findings, sqlsched: Any) -> None:
    shown = sqlsched("--db", str(findings.path), "logs", "--last", "binary")
    assert shown.returncode == 0
    assert "bytes left out" in shown.stdout


LASTING = ("deaf", "deaf-line", "job-control", "halts-itself", "killed-from-outside", "no-newline")


class Killed:
    """A scheduler with children that would go on for long, killed with -9."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.fleet = Fleet(directory)
        (directory / "jobs.py").write_text(JOBS)
        with closing(open_for_writing(self.fleet.path, create=True)) as database:
            for name in LASTING:
                case = CASES[name]
                args = case.args if case.task == SHELL_TASK else [name, *case.args]
                schedule = ScheduledTask(
                    task_name=case.task, args=args, schedule_id=name, time=datetime.now(UTC)
                )
                additions.add(database, schedule, time.time_ns() // 1000)
        self.process = self.fleet.start("--concurrency", "8")

    def is_going(self) -> bool:
        """Whether all have begun, and the ledger knows which processes they are."""
        if not all(pids(self.directory, name) for name in LASTING):
            return False
        with closing(open_for_reading(self.fleet.path)) as database:
            query = "SELECT count(*) FROM runs WHERE pid IS NOT NULL"
            return bool(database.execute(query).fetchone()[0] == len(LASTING))

    def kill(self, *, warm_too: bool) -> None:
        (warm,) = children_of(self.process.pid)
        self.process.kill()
        if warm_too:
            os.kill(warm, signal.SIGKILL)
        self.process.wait()
        self.pids = [warm, *(pid for name in LASTING for pid in pids(self.directory, name))]

    def are_gone(self) -> bool:
        return not any(map(is_alive, self.pids))

    def rows(self) -> list[runs.RunRow]:
        with closing(open_for_reading(self.fleet.path)) as database:
            return list(runs.history(database))


def test_when_the_scheduler_is_killed_they_all_end_and_are_recorded_as_abandoned(
    tmp_path: Path,
) -> None:
    alone, together = both = Killed(tmp_path / "alone"), Killed(tmp_path / "together")
    try:
        wait_for(lambda: all(killed.is_going() for killed in both))
        alone.kill(warm_too=False)
        together.kill(warm_too=True)
        wait_for(alone.are_gone)  # nobody else has to come for that
        successors = [killed.fleet.start("--until-idle") for killed in both]
        assert [process.wait(20) for process in successors] == [0, 0]
        wait_for(together.are_gone)
    finally:
        for killed in both:
            killed.fleet.stop()
    for killed in both:
        rows = killed.rows()
        assert {(row.status, row.reason) for row in rows} == {("abandoned", "owner-died")}
        assert len(rows) == len(LASTING)


def is_alive(pid: int) -> bool:
    """Whether a process lives; a zombie, which somebody has yet to reap, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False

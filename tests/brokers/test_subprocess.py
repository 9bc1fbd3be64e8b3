"""What only processes can do: start fresh, be killed, leave things behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sqlsched import processes
from sqlsched.abc import RunOutcome
from sqlsched.brokers.subprocess import SubprocessBroker
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

JOBS = """
import asyncio, atexit, json, os, pathlib, signal, subprocess, sys, threading, time
COUNTER = 0
def increment():
    global COUNTER
    COUNTER += 1
    print(COUNTER)
def where(): print(os.getcwd(), sys.path[0], sys.argv)
def whose_json(): print(json.__file__, asyncio.__name__)
def read_stdin(): print(repr(sys.stdin.read()))
def leave_at_once(): os._exit(7)
def die(number): os.kill(os.getpid(), number)
def session(): print(os.getpid() == os.getsid(0) == os.getpgid(0), os.getppid())
def files(): print(sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
def signals(): print(signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    signal.pthread_sigmask(signal.SIG_BLOCK, []))
def size(text): print(len(text))
def at_exit():
    atexit.register(print, "atexit")
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
FILE = None
def leave_file_open(path):
    global FILE
    FILE = open(path, "w")
    FILE.write("written")
def stubborn(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(60)
def tidy(path):
    signal.signal(signal.SIGTERM, lambda *_: (print("tidied"), sys.exit(0)))
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(60)
def grandchild(path, own_session):
    child = subprocess.Popen(["sleep", "60"], start_new_session=own_session)
    pathlib.Path(path).write_text(str(child.pid))
    print("left")
def halt(path):
    signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(path).write_text("tidied"), sys.exit(0)))
    pathlib.Path(path).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
def halt_the_parent(path):
    os.kill(os.getppid(), signal.SIGSTOP)
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(60)
def fall_out(error):
    if os.fork() == 0:
        raise ValueError(error)
    os.wait()
def own_third_file(path):
    os.closerange(3, 256)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"%d" % fd)
    raise ValueError("boom")
"""

numbers = count()


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@pytest.fixture
async def broker(app_dir: Path) -> AsyncIterator[SubprocessBroker]:
    broker = SubprocessBroker(app_dir, kill_after_seconds=0.2)
    await broker.startup()
    yield broker
    await broker.shutdown()


def message(task: str, *args: Any) -> TaskMessage:
    name = task if ":" in task else f"jobs:{task}"
    return TaskMessage(task_id=f"task{next(numbers)}", task_name=name, args=list(args))


async def kick(broker: SubprocessBroker, task: str, *args: Any) -> RunOutcome:
    return await broker.kick(message(task, *args))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what happens in other processes sets no event
            await asyncio.sleep(0.005)


def warm_pid(broker: SubprocessBroker) -> int:
    warm = broker._warm
    assert warm is not None
    return warm.pid


def is_running(pid: int) -> bool:
    return pid in processes.session_members(session_of(pid))


def is_halted(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def in_a_family(mark: Path) -> str:
    """A shell line that starts a child, and writes both pids, its own last."""
    return f"sleep 60 & echo $! $$ >{mark}; wait"


def pids_in(mark: Path) -> list[int]:
    return [int(pid) for pid in content(mark).split()]


async def started(broker: SubprocessBroker, task: str, path: Path) -> asyncio.Task[RunOutcome]:
    running = asyncio.create_task(kick(broker, task, str(path)))
    await until(lambda: content(path))
    return running


async def test_each_run_starts_with_fresh_modules(broker: SubprocessBroker) -> None:
    assert [(await kick(broker, "increment")).output for _ in range(3)] == ["1\n"] * 3


async def test_an_edit_counts_at_the_next_run(broker: SubprocessBroker, app_dir: Path) -> None:
    await kick(broker, "increment")
    (app_dir / "jobs.py").write_text("def increment(): print('edited')")
    assert (await kick(broker, "increment")).output == "edited\n"


async def test_a_task_runs_in_the_applications_directory(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    assert (await kick(broker, "where")).output == f"{app_dir} {app_dir} ['jobs:where']\n"


async def test_a_missing_directory_is_named(app_dir: Path) -> None:
    broker = SubprocessBroker(app_dir / "absent")
    outcome = await kick(broker, SHELL_TASK, "true")
    await broker.shutdown()
    assert outcome.status == "failed"
    assert str(app_dir / "absent") in (outcome.error or "")


async def test_a_module_of_the_application_does_not_replace_what_is_loaded(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(app_dir)
    for name in ("json", "asyncio", "signal", "sqlsched"):
        (app_dir / f"{name}.py").write_text("raise RuntimeError('taken over')")
    broker = SubprocessBroker(app_dir)
    outcome = await kick(broker, "whose_json")
    await broker.shutdown()
    assert outcome.status == "succeeded", outcome.output
    assert str(app_dir) not in outcome.output


async def test_stdin_is_empty(broker: SubprocessBroker) -> None:
    assert (await kick(broker, "read_stdin")).output == "''\n"


async def test_a_run_leads_a_session_and_has_no_files_but_its_own(
    broker: SubprocessBroker,
) -> None:
    assert (await kick(broker, "session")).output == f"True {warm_pid(broker)}\n"
    assert (await kick(broker, "files")).output == "[0, 1, 2, 3]\n"
    assert (await kick(broker, EXEC_TASK, "ls", "/proc/self/fd")).output.split() == list("0123")


async def test_signals_are_those_of_a_fresh_program(broker: SubprocessBroker) -> None:
    assert (await kick(broker, "signals")).output == "True True set()\n"
    masks = await kick(broker, EXEC_TASK, "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    assert [line.split()[1].strip("0") for line in masks.output.splitlines()] == ["", ""]


async def test_they_are_so_when_a_shell_has_started_the_scheduler_in_the_background(
    app_dir: Path,
) -> None:
    broker = SubprocessBroker(app_dir)
    ignored = (signal.SIGINT, signal.SIGQUIT)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        masks = await kick(broker, EXEC_TASK, "grep", "SigIgn", "/proc/self/status")
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
        await broker.shutdown()
    assert masks.output.split()[1].strip("0") == ""


async def test_leaving_at_once_keeps_the_status(broker: SubprocessBroker) -> None:
    outcome = await kick(broker, "leave_at_once")
    assert (outcome.status, outcome.error, outcome.exit_code) == ("failed", "exit status 7", 7)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_death_by_signal_is_named(broker: SubprocessBroker, number: signal.Signals) -> None:
    outcome = await kick(broker, "die", int(number))
    assert (outcome.error, outcome.exit_code) == (f"killed by {number.name}", -number)


async def test_threads_are_waited_for_and_atexit_runs(broker: SubprocessBroker) -> None:
    assert (await kick(broker, "at_exit")).output == "thread\natexit\n"


async def test_a_file_left_open_is_written_out(broker: SubprocessBroker, app_dir: Path) -> None:
    await kick(broker, "leave_file_open", str(app_dir / "file"))
    assert content(app_dir / "file") == "written"


async def test_what_a_task_forks_and_lets_fall_out_of_it_does_not_fail_the_run(
    broker: SubprocessBroker,
) -> None:
    outcome = await kick(broker, "fall_out", "in the fork")
    assert (outcome.status, outcome.error, outcome.exit_code) == ("succeeded", None, 0)
    assert "ValueError: in the fork" in outcome.output


async def test_a_file_that_a_task_opens_in_place_of_ours_is_left_alone(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    outcome = await kick(broker, "own_third_file", str(app_dir / "file"))
    assert (outcome.status, outcome.error) == ("failed", "exit status 1")
    assert "ValueError: boom" in outcome.output
    assert content(app_dir / "file") == "3"


async def test_five_megabytes_of_arguments_arrive(broker: SubprocessBroker) -> None:
    outcomes = await asyncio.gather(*(kick(broker, "size", "x" * 5_000_000) for _ in range(3)))
    assert [outcome.output for outcome in outcomes] == ["5000000\n"] * 3


async def test_a_cancelled_task_may_tidy_up(broker: SubprocessBroker, app_dir: Path) -> None:
    run = message("tidy", str(app_dir / "pid"))
    running = asyncio.create_task(broker.kick(run))
    await until(lambda: content(app_dir / "pid"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert broker.process_of(run) is None


async def test_a_task_that_ignores_sigterm_is_killed(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    running = await started(broker, "stubborn", app_dir / "pid")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_running(int(content(app_dir / "pid")))


async def test_a_run_that_has_halted_itself_may_tidy_up_when_it_is_cancelled(
    app_dir: Path,
) -> None:
    broker = SubprocessBroker(app_dir, kill_after_seconds=20)
    mark = app_dir / "mark"
    running = await started(broker, "halt", mark)
    await until(lambda: is_halted(int(content(mark))))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert content(mark) == "tidied"
    await broker.shutdown()


@pytest.mark.parametrize("way", ["cancel", "shutdown"])
async def test_a_warm_process_that_was_halted_is_woken_to_end_a_run(
    broker: SubprocessBroker, app_dir: Path, way: str
) -> None:
    running = await started(broker, "halt_the_parent", app_dir / "pid")
    await until(lambda: is_halted(warm_pid(broker)))
    async with asyncio.timeout(5):
        if way == "cancel":
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            await broker.shutdown()
            assert (await running).error == "killed by SIGKILL"
    assert not is_running(int(content(app_dir / "pid")))


async def test_a_second_cancellation_does_not_wait(app_dir: Path) -> None:
    broker = SubprocessBroker(app_dir, kill_after_seconds=60)
    running = await started(broker, "stubborn", app_dir / "pid")
    running.cancel()
    await asyncio.sleep(0.02)
    running.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not is_running(int(content(app_dir / "pid")))
    await broker.shutdown()


@pytest.mark.parametrize("turns", range(6))
async def test_a_run_cancelled_while_it_starts_leaves_nothing(
    broker: SubprocessBroker, turns: int
) -> None:
    running = asyncio.create_task(kick(broker, SHELL_TASK, "sleep 60"))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not children(warm_pid(broker)))  # what was adopted may be a zombie yet


async def test_members_of_a_stopped_group_get_the_same_time(app_dir: Path) -> None:
    broker = SubprocessBroker(app_dir, kill_after_seconds=20)
    mark = app_dir / "mark"
    tidy = f'sh -c \'trap "sleep 0.2; echo tidied >>{mark}; exit" TERM; echo on >>{mark};'
    line = f"{tidy} while :; do sleep 0.01; done'; true"
    running = asyncio.create_task(kick(broker, SHELL_TASK, line))
    await until(lambda: content(mark))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await broker.shutdown()
    assert content(mark) == "on\ntidied\n"


async def test_a_grandchild_in_the_group_ends_with_the_run(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    outcome = await kick(broker, "grandchild", str(app_dir / "pid"), False)
    assert (outcome.status, outcome.output) == ("succeeded", "left\n")
    await until(lambda: not is_running(int(content(app_dir / "pid"))))


async def test_a_grandchild_with_a_session_of_its_own_does_not_hang_the_run(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    async with asyncio.timeout(20):
        outcome = await kick(broker, "grandchild", str(app_dir / "pid"), True)
    pid = int(content(app_dir / "pid"))
    assert (outcome.status, outcome.output) == ("succeeded", "left\n")
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


async def test_what_outlives_its_run_has_the_warm_process_for_a_parent_that_reaps_it(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    await kick(broker, "grandchild", str(app_dir / "pid"), True)
    pid = int(content(app_dir / "pid"))
    await until(lambda: children(warm_pid(broker)).split() == [str(pid)])
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_signals_for_the_scheduler_pass_the_warm_process_by(
    broker: SubprocessBroker,
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(warm_pid(broker), number)
    before = warm_pid(broker)
    assert (await kick(broker, "increment")).status == "succeeded"
    assert warm_pid(broker) == before


async def test_a_dead_warm_process_fails_its_runs_and_is_replaced(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    mark = app_dir / "pids"
    running = asyncio.create_task(kick(broker, SHELL_TASK, in_a_family(mark)))
    await until(lambda: content(mark).endswith("\n"))
    os.kill(warm_pid(broker), signal.SIGKILL)
    outcome = await running
    assert (outcome.status, outcome.error) == ("failed", "the process that runs tasks died")
    await until(lambda: not any(map(is_running, pids_in(mark))))
    assert (await kick(broker, "increment")).status == "succeeded"


async def test_a_run_that_kills_the_warm_process_first_of_all_leaves_nothing(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    mark = app_dir / "pid"
    for _ in range(3):
        line = f"sleep 60 & echo $! >{mark}; kill -9 $PPID; wait"
        outcome = await kick(broker, SHELL_TASK, line)
        assert (outcome.status, outcome.error) == ("failed", "the process that runs tasks died")
        await until(lambda: not is_running(int(content(mark))))


async def test_shutdown_ends_what_is_running(broker: SubprocessBroker, app_dir: Path) -> None:
    running = await started(broker, "stubborn", app_dir / "pid")
    await broker.shutdown()
    assert (await running).error == "killed by SIGKILL"
    assert not is_running(int(content(app_dir / "pid")))


@pytest.fixture
async def scheduler(app_dir: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Another process with a broker, in which a shell line and its child run."""
    program = app_dir / "scheduler.py"
    mark = app_dir / "pids"
    program.write_text(
        textwrap.dedent(f"""
        import asyncio
        from sqlsched.brokers.subprocess import SubprocessBroker
        from sqlsched.scheduled_task import TaskMessage
        line = {in_a_family(mark)!r}
        message = TaskMessage(task_id="t", task_name="sqlsched:shell", args=[line])
        asyncio.run(SubprocessBroker().kick(message))
        """)
    )
    root = Path(processes.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, cwd=app_dir, env=environment) as process:  # noqa: ASYNC220 - starting takes a moment
        await until(lambda: content(mark).endswith("\n"))
        assert all(map(is_running, pids_in(mark)))
        yield process
        process.kill()


async def test_runs_end_when_the_scheduler_is_killed(
    scheduler: subprocess.Popen[bytes], app_dir: Path
) -> None:
    scheduler.kill()
    await until(lambda: not any(map(is_running, pids_in(app_dir / "pids"))))


async def test_a_run_ends_with_the_warm_process_even_if_nobody_looks(
    scheduler: subprocess.Popen[bytes], app_dir: Path
) -> None:
    _, leader = pids_in(app_dir / "pids")
    warm = int(children(scheduler.pid))
    scheduler.send_signal(signal.SIGSTOP)
    os.kill(warm, signal.SIGKILL)
    await until(lambda: not is_running(leader))
    scheduler.send_signal(signal.SIGCONT)
    await until(lambda: not any(map(is_running, pids_in(app_dir / "pids"))))


async def test_a_warm_process_that_was_halted_ends_when_the_scheduler_is_killed(
    scheduler: subprocess.Popen[bytes], app_dir: Path
) -> None:
    warm = int(children(scheduler.pid))
    os.kill(warm, signal.SIGSTOP)
    await until(lambda: is_halted(warm))
    scheduler.kill()
    await until(lambda: not any(map(is_running, [warm, *pids_in(app_dir / "pids")])))


async def test_two_hundred_runs_leave_no_zombies_and_no_descriptors(
    broker: SubprocessBroker,
) -> None:
    async def files() -> tuple[int, int]:
        await kick(broker, SHELL_TASK, "true")
        pids = os.getpid(), warm_pid(broker)
        mine, warm = (len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        return mine, warm

    before = await files()
    for _ in range(10):
        await asyncio.gather(*(kick(broker, SHELL_TASK, "true") for _ in range(20)))
    after = await files()
    assert max(a - b for a, b in zip(after, before, strict=True)) <= 0
    await until(lambda: not children(warm_pid(broker)))


async def test_arguments_are_on_no_command_line(broker: SubprocessBroker, app_dir: Path) -> None:
    secret = app_dir / "hunter2"
    running = await started(broker, "stubborn", secret)
    lines = [
        Path(f"/proc/{pid}/cmdline").read_text() for pid in (content(secret), warm_pid(broker))
    ]
    assert all(lines)
    assert not any("hunter2" in line for line in lines)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_running_process_can_be_named_and_killed_by_a_successor(
    broker: SubprocessBroker, app_dir: Path
) -> None:
    run = message("stubborn", str(app_dir / "pid"))
    running = asyncio.create_task(broker.kick(run))
    await until(lambda: content(app_dir / "pid"))
    pid, start_time = broker.process_of(run) or (0, 0)
    assert pid == int(content(app_dir / "pid"))
    assert start_time == processes.process_start_time(pid)
    assert not processes.kill_leftovers(pid, start_time - 1)
    assert not processes.kill_leftovers(pid, start_time + 1)
    assert processes.kill_leftovers(pid, start_time)
    assert (await running).error == "killed by SIGKILL"
    assert not processes.kill_leftovers(pid, start_time)


def test_a_process_that_is_not_there_has_no_start_time() -> None:
    assert processes.process_start_time(2**22 + 1) is None
    assert processes.boot_id() == processes.boot_id() != ""


async def test_arguments_that_are_not_json_fail_the_run(broker: SubprocessBroker) -> None:
    outcome = await kick(broker, "size", object())
    assert (outcome.error or "").startswith("the arguments are not JSON")


def test_a_broker_serves_one_event_loop_after_another(app_dir: Path) -> None:
    broker = SubprocessBroker(app_dir)
    for _ in range(2):
        assert asyncio.run(kick(broker, "increment")).output == "1\n"
    asyncio.run(broker.shutdown())

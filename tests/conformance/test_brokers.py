"""What every broker that runs tasks itself must do. A new one adds a line to `BROKERS`."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sqlsched.abc import Broker, RunOutcome
from sqlsched.brokers.in_process import InProcessBroker
from sqlsched.brokers.subprocess import SubprocessBroker
from sqlsched.output import KEEP_BYTES, OutputBuffer
from sqlsched.run_context import current_run
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage

BROKERS: dict[str, Callable[[Path], Broker]] = {
    "in_process": lambda _: InProcessBroker(),
    "subprocess": lambda app_dir: SubprocessBroker(app_dir, kill_after_seconds=0.2),
}

JOBS = """
import asyncio, os, pathlib, sys, time
from sqlsched.run_context import current_run

NUMBER = 1

def nothing(): pass
async def nothing_async(): await asyncio.sleep(0)
def show(*args, **kwargs): print(args, kwargs)
async def show_async(*args, **kwargs): print(args, kwargs)
def fail(): raise ValueError("boom")
async def fail_async(): raise ValueError("boom")
def fail_at_length(): raise ValueError("first\\nsecond \\x1b[31m\\ud800")
def both_streams():
    print("to stdout")
    print("to stderr", file=sys.stderr)
def raw(): sys.stdout.buffer.write(b"a\\xffb")
def write_lines(): sys.stdout.writelines(["one\\n", "two\\n"])
def many():
    line = "x" * 99
    for _ in range(300_000): print(line)
def leave(code): sys.exit(code)
async def leave_async(code): sys.exit(code)
def interrupt(): raise KeyboardInterrupt
def identity():
    run = current_run()
    print(run.task_id, run.schedule_id, run.scheduled_for.isoformat(), run.attempt)
def wait_for(path):
    print("begun")
    while not pathlib.Path(path).exists(): time.sleep(0.01)
async def hang(path):
    pathlib.Path(path).write_text("begun")
    await asyncio.sleep(60)
    pathlib.Path(path).write_text("ended")
async def cancel_itself(): raise asyncio.CancelledError
"""

numbers = itertools.count()


@pytest.fixture
def app_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "conformance_jobs.py").write_text(JOBS)
    (tmp_path / "broken_jobs.py").write_text("1 / 0")
    (tmp_path / "leaving_jobs.py").write_text("raise SystemExit(3)")
    (tmp_path / "needy_jobs.py").write_text("import missing_dependency")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("conformance_jobs", None)


@pytest.fixture(params=list(BROKERS))
async def broker(request: pytest.FixtureRequest, app_dir: Path) -> AsyncIterator[Broker]:
    broker = BROKERS[request.param](app_dir)
    await broker.startup()
    yield broker
    await broker.shutdown()


def message(task: str, *args: Any, **fields: Any) -> TaskMessage:
    name = task if ":" in task else f"conformance_jobs:{task}"
    return TaskMessage(task_id=f"task{next(numbers)}", task_name=name, args=list(args), **fields)


async def kick(broker: Broker, task: str, *args: Any, **fields: Any) -> RunOutcome:
    outcome = await broker.kick(message(task, *args, **fields))
    assert outcome is not None
    return outcome


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what happens in other processes sets no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("task", ["nothing", "nothing_async"])
async def test_a_function_that_returns_has_succeeded(broker: Broker, task: str) -> None:
    outcome = await kick(broker, task)
    assert (outcome.status, outcome.error, outcome.output) == ("succeeded", None, "")


@pytest.mark.parametrize("task", ["show", "show_async"])
async def test_arguments_arrive_as_they_were_sent(broker: Broker, task: str) -> None:
    outcome = await kick(broker, task, 1, "ünï ☃ 𝄞", None, [1.5], kwargs={"a": {"b": True}})
    assert outcome.output == "(1, 'ünï ☃ 𝄞', None, [1.5]) {'a': {'b': True}}\n"


@pytest.mark.parametrize("task", ["fail", "fail_async"])
async def test_an_exception_is_a_failed_run_with_its_traceback(broker: Broker, task: str) -> None:
    outcome = await kick(broker, task)
    assert (outcome.status, outcome.error) == ("failed", "ValueError: boom")
    first, *_, last = outcome.output.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "ValueError: boom"
    assert f"in {task}" in outcome.output


async def test_a_traceback_shows_the_task_and_not_the_broker(broker: Broker) -> None:
    for task in ("fail", "fail_async"):
        outcome = await kick(broker, task)
        assert outcome.output.count('File "') == 1


async def test_the_error_is_one_printable_line(broker: Broker) -> None:
    outcome = await kick(broker, "fail_at_length")
    assert outcome.error == r"ValueError: first second \x1b[31m\ud800"


async def test_both_streams_are_captured(broker: Broker) -> None:
    assert (await kick(broker, "both_streams")).output == "to stdout\nto stderr\n"


async def test_bytes_that_are_not_text_are_kept_as_replacements(broker: Broker) -> None:
    assert (await kick(broker, "raw")).output == "a\ufffdb"


async def test_lines_written_together_are_captured(broker: Broker) -> None:
    assert (await kick(broker, "write_lines")).output == "one\ntwo\n"


async def test_output_is_seen_while_the_task_runs(broker: Broker, app_dir: Path) -> None:
    output = OutputBuffer()
    running = asyncio.create_task(kick(broker, "wait_for", str(app_dir / "go"), output=output))
    await until(lambda: output.total_bytes > 0)
    assert output.text() == "begun\n"
    assert not running.done()
    (app_dir / "go").touch()
    assert (await running).output == "begun\n"


async def test_thirty_megabytes_are_kept_as_head_and_tail(broker: Broker) -> None:
    output = OutputBuffer()
    outcome = await kick(broker, "many", output=output)
    assert outcome.status == "succeeded"
    assert output.total_bytes == 30_000_000
    assert len(output.head) + len(output.tail) == KEEP_BYTES
    assert "bytes left out" in outcome.output


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("no_such_module:f", "there is no module 'no_such_module'"),
        ("conformance_jobs.sub:f", "there is no module 'conformance_jobs.sub'"),
        ("conformance_jobs:absent", "there is no 'absent' in conformance_jobs"),
        ("conformance_jobs:show.deep", "there is no 'deep' in conformance_jobs:show"),
        ("conformance_jobs:NUMBER", "conformance_jobs:NUMBER is of type int, which cannot be"),
        ("broken_jobs:f", "the module 'broken_jobs' raised ZeroDivisionError on import: division"),
        ("leaving_jobs:f", "the module 'leaving_jobs' raised SystemExit on import: 3"),
        ("needy_jobs:f", "the module 'needy_jobs' raised ModuleNotFoundError on import: No mod"),
    ],
)
async def test_a_task_that_cannot_be_found_says_what_is_missing(
    broker: Broker, task: str, error: str
) -> None:
    outcome = await kick(broker, task)
    assert outcome.status == "failed"
    assert (outcome.error or "").startswith(error)
    assert error in outcome.output


async def test_a_module_that_fails_shows_where(broker: Broker) -> None:
    assert 'broken_jobs.py", line 1' in (await kick(broker, "broken_jobs:f")).output


@pytest.mark.parametrize("task", ["leave", "leave_async"])
@pytest.mark.parametrize(
    ("code", "error"),
    [(None, None), (0, None), (3, "exit status 3"), ("no disk", "no disk"), (257, "exit status 1")],
)
async def test_sys_exit_means_what_it_means_in_a_script(
    broker: Broker, task: str, code: object, error: str | None
) -> None:
    outcome = await kick(broker, task, code)
    assert (outcome.status, outcome.error) == ("failed" if error else "succeeded", error)
    assert outcome.output == ("no disk\n" if code == "no disk" else "")


@pytest.mark.parametrize("task", ["interrupt", "cancel_itself"])
async def test_what_a_task_raises_never_reaches_the_scheduler(broker: Broker, task: str) -> None:
    outcome = await kick(broker, task)
    assert outcome.status == "failed"
    assert outcome.error in ("KeyboardInterrupt", "CancelledError")


async def test_a_task_knows_its_run_and_nobody_else_does(broker: Broker) -> None:
    labels = {"schedule_id": "nightly", "scheduled_for": "2026-11-23T18:05:00+00:00"}
    run = message("identity", labels=labels, attempt=3)
    outcome = await broker.kick(run)
    assert outcome is not None
    assert outcome.output == f"{run.task_id} nightly 2026-11-23T18:05:00+00:00 3\n"
    assert current_run() is None


async def test_a_shell_line_is_run_by_the_shell(broker: Broker) -> None:
    outcome = await kick(broker, SHELL_TASK, "echo $((1 + 1)); echo err >&2")
    assert (outcome.status, outcome.output, outcome.exit_code) == ("succeeded", "2\nerr\n", 0)


async def test_a_shell_line_finds_its_run_in_the_environment(broker: Broker) -> None:
    line = "echo $SQLSCHED_TASK_ID $SQLSCHED_SCHEDULE_ID $SQLSCHED_SCHEDULED_FOR $SQLSCHED_ATTEMPT"
    labels = {"schedule_id": "nightly", "scheduled_for": "2026-11-23T18:05:00+00:00"}
    run = message(SHELL_TASK, line, labels=labels)
    outcome = await broker.kick(run)
    assert outcome is not None
    assert outcome.output == f"{run.task_id} nightly 2026-11-23T18:05:00+00:00 1\n"


async def test_a_command_gets_its_arguments_unchanged(broker: Broker) -> None:
    outcome = await kick(broker, EXEC_TASK, "printf", "<%s>", "a b", "$HOME", "é*")
    assert (outcome.status, outcome.output) == ("succeeded", "<a b><$HOME><é*>")


async def test_a_command_that_does_not_exist_is_named(broker: Broker) -> None:
    outcome = await kick(broker, EXEC_TASK, "no-such-program", "x")
    assert (outcome.status, outcome.exit_code) == ("failed", 127)
    assert outcome.error == "there is no program 'no-such-program'"


async def test_a_command_that_may_not_run_is_named(broker: Broker, app_dir: Path) -> None:
    outcome = await kick(broker, EXEC_TASK, str(app_dir / "conformance_jobs.py"))
    assert (outcome.status, outcome.exit_code) == ("failed", 126)
    assert "Permission denied" in (outcome.error or "")


async def test_a_non_zero_exit_is_a_failure(broker: Broker) -> None:
    outcome = await kick(broker, SHELL_TASK, "exit 3")
    assert (outcome.status, outcome.error, outcome.exit_code) == ("failed", "exit status 3", 3)


async def test_a_cancelled_task_is_stopped_and_says_so(broker: Broker, app_dir: Path) -> None:
    mark = app_dir / "mark"
    running = asyncio.create_task(kick(broker, "hang", str(mark)))
    await until(mark.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await kick(broker, "nothing")).status == "succeeded"


async def test_a_cancelled_shell_line_ends_with_all_it_started(
    broker: Broker, app_dir: Path
) -> None:
    pids = app_dir / "pids"
    line = f"sleep 60 & echo $! $$ >{pids}; wait"
    running = asyncio.create_task(kick(broker, SHELL_TASK, line))
    await until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for pid in map(int, pids.read_text().split()):
        await until(lambda pid=pid: not is_running(pid))  # type: ignore[misc]


async def test_a_broker_can_be_started_and_stopped_again_and_again(broker: Broker) -> None:
    for _ in range(2):
        await broker.startup()
        await broker.startup()
        assert (await kick(broker, "nothing")).status == "succeeded"
        await broker.shutdown()
        await broker.shutdown()


async def test_a_kick_after_shutdown_starts_the_broker(broker: Broker) -> None:
    await broker.shutdown()
    assert (await kick(broker, "both_streams")).output == "to stdout\nto stderr\n"


async def test_fifty_at_once_keep_their_output_apart(broker: Broker) -> None:
    outcomes = await asyncio.gather(*(kick(broker, "show", n) for n in range(50)))
    assert [outcome.output for outcome in outcomes] == [f"({n},) {{}}\n" for n in range(50)]


def is_running(pid: int) -> bool:
    # A process whose parent died is reaped by init, in its own time.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")

"""What only the broker inside this process does: threads, the event loop, the real streams."""

import asyncio
import io
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sqlsched.abc import RunOutcome
from sqlsched.brokers.in_process import InProcessBroker
from sqlsched.scheduled_task import TaskMessage


@pytest.fixture
async def broker() -> AsyncIterator[InProcessBroker]:
    broker = InProcessBroker(concurrency=2)
    await broker.startup()
    yield broker
    await broker.shutdown()


async def kick(broker: InProcessBroker, name: str, **fields: Any) -> RunOutcome:
    return await broker.kick(TaskMessage(task_id="task", task_name=name, **fields))


async def test_a_registered_function_is_found_without_an_import(broker: InProcessBroker) -> None:
    broker.tasks["no_such_module:f"] = lambda: sys.stdout.write("here\n")
    assert (await kick(broker, "no_such_module:f")).output == "here\n"


async def test_a_plain_function_with_a_timeout_is_refused(broker: InProcessBroker) -> None:
    async def wait() -> None: ...

    broker.tasks |= {"m:plain": lambda: None, "m:wait": wait}
    outcome = await kick(broker, "m:plain", timeout=1)
    assert outcome.status == "failed"
    assert "timeout" in (outcome.error or "")
    assert (await kick(broker, "m:wait", timeout=1)).status == "succeeded"


async def test_a_cancelled_thread_keeps_its_place_until_it_ends(broker: InProcessBroker) -> None:
    begun, go = asyncio.Semaphore(0), threading.Event()
    loop = asyncio.get_running_loop()

    def stuck() -> None:
        loop.call_soon_threadsafe(begun.release)
        go.wait()

    broker.tasks |= {"m:stuck": stuck, "m:next": lambda: None}
    running = [asyncio.create_task(kick(broker, "m:stuck")) for _ in range(2)]
    for _ in running:
        await begun.acquire()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert all(task.cancelled() for task in running)
    waiting = asyncio.create_task(kick(broker, "m:next"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    go.set()
    assert (await waiting).status == "succeeded"


async def test_what_others_print_goes_where_it_went(
    broker: InProcessBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = io.StringIO()
    monkeypatch.setattr(sys, "stdout", real)

    async def speak() -> None:
        sys.stdout.write("the task\n")
        await asyncio.sleep(0.05)

    broker.tasks["m:speak"] = speak
    running = asyncio.create_task(kick(broker, "m:speak"))
    await asyncio.sleep(0.01)
    sys.stdout.write("the host\n")
    assert real.getvalue() == "the host\n"
    assert (await running).output == "the task\n"


async def test_the_streams_come_back_with_the_last_broker() -> None:
    real = sys.stdout, sys.stderr
    first, second = InProcessBroker(), InProcessBroker()
    await first.startup()
    await second.startup()
    await first.shutdown()
    assert sys.stdout is not real[0]
    await second.shutdown()
    assert (sys.stdout, sys.stderr) == real


def test_a_stuck_thread_does_not_keep_the_interpreter() -> None:
    program = (
        "import asyncio, threading\n"
        "from sqlsched.brokers.in_process import InProcessBroker\n"
        "from sqlsched.scheduled_task import TaskMessage\n"
        "async def main():\n"
        "    broker = InProcessBroker()\n"
        "    broker.tasks['m:f'] = threading.Event().wait\n"
        "    kick = broker.kick(TaskMessage(task_id='t', task_name='m:f'))\n"
        "    await asyncio.wait([asyncio.create_task(kick)], timeout=0.1)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, timeout=20, capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_broker_that_was_not_shut_down_serves_the_next_event_loop_too() -> None:
    broker = InProcessBroker()
    broker.tasks["m:plain"] = lambda: print("done")
    message = TaskMessage(task_id="1", task_name="m:plain")
    for _ in range(2):
        outcome = asyncio.run(asyncio.wait_for(broker.kick(message), 10))
        assert (outcome.status, outcome.output) == ("succeeded", "done\n")
    asyncio.run(broker.shutdown())

"""What every broker that hands runs to a queue must do. A new one adds a line to `QUEUES`."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sqlsched import Broker, BrokerError, ScheduledTask, Scheduler, SendTaskError
from sqlsched import SqliteScheduleSource as Source
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage
from sqlsched.storage import runs
from sqlsched.storage.connection import open_for_reading
from tests.servers import Program, RedisServer, wait_for

TASKIQ_APP = """
import json
from taskiq import Context, TaskiqDepends
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker("{url}")

@broker.task
async def note(*args, context: Context = TaskiqDepends(), **kwargs) -> None:
    message = context.message
    with open("ran.txt", "a") as file:
        said = [message.task_id, message.args, message.kwargs, message.labels]
        file.write(json.dumps(said) + "\\n")
"""

CELERY_APP = """
import json
from celery import Celery

app = Celery("work", broker="{url}")

@app.task(bind=True)
def note(self, *args, **kwargs) -> None:
    with open("ran.txt", "a") as file:
        said = [self.request.id, list(args), kwargs, self.request.headers]
        file.write(json.dumps(said) + "\\n")
"""


def taskiq_broker(url: str) -> Broker:
    from taskiq_redis import ListQueueBroker

    from sqlsched.brokers.taskiq import TaskiqBroker

    return TaskiqBroker(ListQueueBroker(url))


def celery_broker(url: str) -> Broker:
    from celery import Celery

    from sqlsched.brokers.celery import CeleryBroker

    return CeleryBroker(Celery("work", broker=url))


@dataclass(frozen=True)
class Queue:
    """How to send to a queue, and a worker whose task writes down what it got."""

    make: Callable[[str], Broker]
    app: str
    worker: tuple[str, ...]


QUEUES = {
    "taskiq": Queue(
        taskiq_broker, TASKIQ_APP, ("taskiq", "worker", "work:broker", "--workers", "1")
    ),
    "celery": Queue(
        celery_broker, CELERY_APP, ("celery", "-A", "work:app", "worker", "-P", "solo")
    ),
}


@pytest.fixture(params=list(QUEUES))
def queue(request: pytest.FixtureRequest) -> Queue:
    return QUEUES[request.param]


@pytest.fixture
async def broker(queue: Queue, redis_server: RedisServer) -> AsyncIterator[Broker]:
    made = queue.make(redis_server.url)
    await made.startup()
    yield made
    await made.shutdown()


def message(task_id: str = "id1", **fields: Any) -> TaskMessage:
    return TaskMessage(task_id=task_id, **{"task_name": "work:note"} | fields)


async def test_a_worker_gets_all_that_belongs_to_a_run(
    queue: Queue,
    broker: Broker,
    tmp_path: Path,
    redis_server: RedisServer,
    start_program: Callable[..., Program],
) -> None:
    (tmp_path / "work.py").write_text(queue.app.format(url=redis_server.url))
    start_program(*queue.worker)
    labels = {"schedule_id": "s", "scheduled_for": "2026-11-23T18:05:00+00:00", "tenant": "ümlaut"}
    args, kwargs = [1, "ünï ☃", None, [1.5, {"a": True}]], {"key": {"b": [False]}}
    assert not broker.reports_completion
    sent = message("firing", args=args, kwargs=kwargs, labels=labels)
    assert await broker.kick(sent) is None
    ran = tmp_path / "ran.txt"
    await asyncio.to_thread(wait_for, lambda: ran.exists() and ran.read_text().endswith("\n"))
    task_id, got_args, got_kwargs, got_labels = json.loads(ran.read_text())
    assert (task_id, got_args, got_kwargs) == ("firing", args, kwargs)
    assert {name: got_labels[name] for name in labels} == labels


@pytest.mark.parametrize("name", [SHELL_TASK, EXEC_TASK])
async def test_commands_are_refused_for_good(broker: Broker, name: str) -> None:
    with pytest.raises(BrokerError, match=name) as refused:
        await broker.kick(message(task_name=name, args=["true"]))
    assert not isinstance(refused.value, SendTaskError)


async def test_what_cannot_be_written_is_refused_for_good_and_stops_nothing(
    broker: Broker,
) -> None:
    with pytest.raises(BrokerError, match="work:note") as refused:
        await broker.kick(message("bad", args=[object()]))
    assert not isinstance(refused.value, SendTaskError)
    await broker.kick(message("good"))


async def test_a_queue_that_is_down_refuses_within_seconds_and_takes_it_when_it_is_back(
    broker: Broker, redis_server: RedisServer
) -> None:
    redis_server.stop()
    async with asyncio.timeout(10):
        with pytest.raises(SendTaskError):
            await broker.kick(message())
    await asyncio.to_thread(redis_server.start)
    await broker.kick(message())


async def test_a_queue_that_is_down_at_the_start_is_waited_for(
    queue: Queue, redis_server: RedisServer
) -> None:
    redis_server.stop()
    broker = queue.make(redis_server.url)
    await broker.startup()
    with pytest.raises(SendTaskError):
        await broker.kick(message())
    await asyncio.to_thread(redis_server.start)
    await broker.kick(message())
    await broker.shutdown()


async def test_it_is_started_and_stopped_again_and_again(broker: Broker) -> None:
    for _ in range(2):
        await broker.startup()
        await broker.startup()
        await broker.kick(message())
        await broker.shutdown()
        await broker.shutdown()
    await broker.kick(message())


async def test_a_run_that_was_handed_on_is_recorded_as_sent(broker: Broker, tmp_path: Path) -> None:
    source = Source(tmp_path / "app.db")
    await source.startup()
    now = datetime.now(UTC)
    policies: list[dict[str, Any]] = [{}, {"overlap": "allow"}, {"overlap": "skip"}]
    for number, policy in enumerate(policies):
        await source.add_schedule(
            ScheduledTask(
                task_name="work:note",
                schedule_id=f"s{number}",
                time=now - timedelta(minutes=1),
                **policy,
            )
        )
    shell = ScheduledTask(task_name=SHELL_TASK, args=["true"], schedule_id="shell", time=now)
    await source.add_schedule(shell)
    await Scheduler(broker, [source]).run(until_idle=True)
    await source.shutdown()
    database = open_for_reading(tmp_path / "app.db")
    ended = {row.schedule_id: (row.status, row.reason) for row in runs.history(database)}
    database.close()
    assert ended == {
        "s0": ("sent", None),
        "s1": ("sent", None),
        "s2": ("skipped", "overlap-unsupported"),
        "shell": ("failed", None),
    }

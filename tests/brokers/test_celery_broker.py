"""`CeleryBroker` with a real Celery worker on a real Redis, and with servers that misbehave."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery

from sqlsched.brokers.celery import CeleryBroker
from sqlsched.exceptions import BrokerError, SendTaskError
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage
from tests.servers import Program, RedisServer, wait_for

APP = """
import json, os
import redis
from celery import Celery

url = os.environ["REDIS_URL"]
app = Celery("jobs", broker=url, backend=url)
app.conf.broker_connection_retry_on_startup = True
client = redis.Redis.from_url(url)

def tell(task, args, kwargs):
    request = task.request
    seen = {
        "task": task.name, "id": request.id, "headers": request.headers, "args": args,
        "kwargs": kwargs, "expires": request.expires, "timelimit": request.timelimit,
        "queue": request.delivery_info["routing_key"],
        "priority": request.delivery_info["priority"],
    }
    client.rpush("seen", json.dumps(seen))
    return "result"

@app.task(bind=True)
def record(self, *args, **kwargs): return tell(self, args, kwargs)

@app.task(bind=True, name="shop:exact")
def exact(self): tell(self, (), {})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with a Celery worker at it."""
    directory = tmp_path_factory.mktemp("celery")
    server = RedisServer(directory)
    server.start()
    (directory / "jobs.py").write_text(APP)
    options = ("--pool", "solo", "-Q", "celery,low", "--without-gossip", "--without-mingle")
    env = {"REDIS_URL": server.url}
    worker = Program(directory, "celery", "-A", "jobs", "worker", *options, env=env)
    yield server
    worker.stop(signal.SIGKILL)
    server.stop()


@pytest.fixture
async def broker(server: RedisServer) -> AsyncIterator[CeleryBroker]:
    app = Celery("sender", broker=server.url, backend=server.url)

    @app.task(name="shop:exact", shared=False)
    def exact() -> None: ...

    broker = CeleryBroker(app)
    await broker.startup()
    yield broker
    await broker.shutdown()


def message(**fields: Any) -> TaskMessage:
    return TaskMessage(**{"task_id": "t1", "task_name": "jobs:record"} | fields)


def next_seen(server: RedisServer) -> dict[str, Any]:
    with redis.Redis.from_url(server.url) as client:
        item: Any = client.blpop(["seen"], timeout=20)
        assert item is not None, "no worker ran it"
        seen: dict[str, Any] = json.loads(item[1])
        return seen


async def seen_after(broker: CeleryBroker, server: RedisServer, **fields: Any) -> dict[str, Any]:
    assert await broker.kick(message(**fields)) is None  # type: ignore[func-returns-value]
    return await asyncio.to_thread(next_seen, server)


async def test_a_worker_runs_what_was_sent_with_all_that_belongs_to_it(
    broker: CeleryBroker, server: RedisServer
) -> None:
    labels = {
        "schedule_id": "nightly",
        "scheduled_for": "2026-11-23T18:05:00+00:00",
        "tenant": "ünï ☃",
        "number": 7,
        "share": 0.5,
        "urgent": True,
        "list": [1, None],
    }
    seen = await seen_after(
        broker, server, args=[1, None, {"a": [1.5]}], kwargs={"deep": {"x": True}}, labels=labels
    )
    assert seen == {
        "task": "jobs.record",
        "id": "t1",
        "headers": labels,
        "queue": "celery",
        "args": [1, None, {"a": [1.5]}],
        "kwargs": {"deep": {"x": True}},
        "expires": None,
        "timelimit": [None, None],
        "priority": 0,
    }


async def test_a_task_is_called_as_celery_registers_it(
    broker: CeleryBroker, server: RedisServer
) -> None:
    for sent, run in [
        ("jobs:record", "jobs.record"),
        ("jobs.record", "jobs.record"),
        ("shop:exact", "shop:exact"),
    ]:
        assert (await seen_after(broker, server, task_name=sent))["task"] == run


async def test_the_labels_that_celery_knows_choose_the_queue(
    broker: CeleryBroker, server: RedisServer
) -> None:
    labels = {"queue": "low", "priority": "6"}
    seen = await seen_after(broker, server, labels=labels)
    assert (seen["queue"], seen["priority"], seen["headers"]) == ("low", 6, labels)


async def test_a_timeout_is_a_time_limit_and_expires_is_expires(
    broker: CeleryBroker, server: RedisServer
) -> None:
    expires = datetime.now(UTC) + timedelta(minutes=5)
    seen = await seen_after(broker, server, timeout=30, expires=expires)
    assert seen["timelimit"] == [40, 30]
    assert datetime.fromisoformat(seen["expires"]) == expires


async def test_results_are_the_workers_business(broker: CeleryBroker, server: RedisServer) -> None:
    await seen_after(broker, server, task_id="with-result")
    with redis.Redis.from_url(server.url) as client:
        channels: Any = client.pubsub_channels()
        assert not [name for name in channels if b"celery-task-meta" in name]
        wait_for(lambda: bool(client.exists("celery-task-meta-with-result")))


async def test_many_at_once_all_arrive(broker: CeleryBroker, server: RedisServer) -> None:
    await asyncio.gather(*(broker.kick(message(task_id=f"many{n}")) for n in range(40)))
    seen = [await asyncio.to_thread(next_seen, server) for _ in range(40)]
    assert {each["id"] for each in seen} == {f"many{n}" for n in range(40)}


async def test_a_queue_that_is_down_refuses_within_a_second_and_takes_it_when_it_is_back(
    redis_server: RedisServer,
) -> None:
    broker = CeleryBroker(Celery("sender", broker=redis_server.url))
    await broker.startup()
    await broker.kick(message())
    redis_server.stop()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(SendTaskError, match=r"jobs:record \(task id t1\): .*Error") as told:
            await broker.kick(message())
        assert time.monotonic() - began < 1
        assert "\n" not in str(told.value)
        assert not broker._lines._open  # AMQP's does not recover
    redis_server.start()
    await broker.kick(message())
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.llen("celery") == 2
    await broker.shutdown()


async def test_a_server_that_says_nothing_does_not_hold_a_send_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}"
        app = Celery("sender", broker=url)
        app.conf.broker_transport_options = {"socket_timeout": 0.2}
        broker = CeleryBroker(app)
        with pytest.raises(SendTaskError, match=r"Timeout"):
            await broker.kick(message())
        await broker.shutdown()


async def test_a_send_that_takes_too_long_is_given_up(redis_server: RedisServer) -> None:
    broker = CeleryBroker(Celery("sender", broker=redis_server.url), send_seconds=0.3)
    await broker.kick(message())
    assert redis_server.process is not None
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    with pytest.raises(SendTaskError, match="no answer in time"):
        await broker.kick(message())
    os.kill(redis_server.process.pid, signal.SIGCONT)
    await broker.kick(message())
    await broker.shutdown()


async def test_an_app_that_is_not_in_order_is_not_a_queue_that_is_down() -> None:
    class Wrong(Celery):
        @property
        def tasks(self) -> Any:
            raise ConnectionError("no configuration")

    with pytest.raises(BrokerError, match=r"not in order: .*no configuration") as told:
        await CeleryBroker(Wrong("sender", broker="memory://")).kick(message())
    assert not isinstance(told.value, SendTaskError)


async def test_what_cannot_be_serialised_is_named_and_is_not_to_be_sent_again() -> None:
    broker = CeleryBroker(Celery("sender", broker="memory://"))
    with pytest.raises(BrokerError, match=r"jobs:record .*cannot be sent to Celery") as told:
        await broker.kick(message(args=[object()]))
    assert not isinstance(told.value, SendTaskError)
    await broker.kick(message())
    await broker.shutdown()


@pytest.mark.parametrize("label", ["id", "group", "retries", "get"])
async def test_a_label_that_would_overwrite_celerys_own_header_is_refused(label: str) -> None:
    broker = CeleryBroker(Celery("sender", broker="memory://"))
    with pytest.raises(BrokerError, match=f"the label '{label}' of jobs:record"):
        await broker.kick(message(labels={label: "x"}))


@pytest.mark.parametrize(("label", "value"), [("queue", 3), ("priority", "high")])
async def test_a_label_that_is_no_option_is_named(label: str, value: object) -> None:
    broker = CeleryBroker(Celery("sender", broker="memory://"))
    with pytest.raises(BrokerError, match=f"the label {label} is"):
        await broker.kick(message(labels={label: value}))


@pytest.mark.parametrize("name", [SHELL_TASK, EXEC_TASK])
async def test_commands_are_refused_as_no_queue_runs_them(name: str) -> None:
    broker = CeleryBroker(Celery("sender", broker="memory://"))
    with pytest.raises(BrokerError, match="a queue runs no commands"):
        await broker.kick(message(task_name=name, args=["true"]))


async def test_it_can_be_started_and_shut_down_again_and_again(redis_server: RedisServer) -> None:
    broker = CeleryBroker(Celery("sender", broker=redis_server.url))
    await broker.shutdown()
    with redis.Redis.from_url(redis_server.url) as client:
        before = len(client.client_list())
        for _ in range(2):
            await broker.startup()
            await broker.startup()
            await broker.kick(message())
            await broker.shutdown()
            await broker.shutdown()
        assert client.llen("celery") == 2
        assert len(client.client_list()) == before


@pytest.mark.parametrize(("given", "confirmed"), [({}, True), ({"confirm_publish": False}, False)])
def test_rabbitmq_confirms_unless_the_app_says_otherwise(
    given: dict[str, Any], confirmed: bool
) -> None:
    from sqlsched.brokers.celery import _connection

    app = Celery("sender", broker="amqp://one;amqp://two")
    app.conf.broker_transport_options = given
    options = _connection(app).transport_options
    assert options["confirm_publish"] is confirmed
    assert options["max_retries"] == 1
    assert options["read_timeout"] > 0

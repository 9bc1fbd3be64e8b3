"""`TaskiqBroker` with real taskiq workers on a real Redis, and with brokers that misbehave."""

import asyncio
import importlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from taskiq import AsyncBroker, BrokerMessage, InMemoryBroker, TaskiqMessage, TaskiqMiddleware
from taskiq.abc.serializer import TaskiqSerializer
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from sqlsched.brokers.taskiq import TaskiqBroker
from sqlsched.exceptions import BrokerError, SendTaskError
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage
from tests.servers import Program, RedisServer

APP = """
import json, os
import redis.asyncio
from taskiq import Context, TaskiqDepends
from taskiq_redis import ListQueueBroker, RedisStreamBroker

url = os.environ["REDIS_URL"]
lists = ListQueueBroker(url, queue_name="lists")
streams = RedisStreamBroker(url, queue_name="streams")
broker = {"lists": lists, "streams": streams}[os.environ["QUEUE"]]

@broker.task("shop.jobs:record")
async def record(*args, context: Context = TaskiqDepends(), **kwargs) -> None:
    message = context.message
    seen = {"task_id": message.task_id, "labels": message.labels, "args": args, "kwargs": kwargs}
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.rpush("seen", json.dumps(seen))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["lists", "streams"])
def worker(
    request: pytest.FixtureRequest, server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A worker that serves one of taskiq-redis' brokers, whose name this is."""
    queue: str = request.param
    directory = tmp_path_factory.mktemp(queue)
    (directory / "app.py").write_text(APP)
    env = {"REDIS_URL": server.url, "QUEUE": queue}
    options = ("--workers", "1", "--no-configure-logging")
    program = Program(directory, "taskiq", "worker", "app:broker", *options, env=env)
    yield queue
    program.stop(signal.SIGKILL)  # asked nicely it waits for messages first


@pytest.fixture
async def broker(worker: str, server: RedisServer) -> AsyncIterator[TaskiqBroker]:
    made = {"lists": ListQueueBroker, "streams": RedisStreamBroker}[worker]
    broker = TaskiqBroker(made(server.url, queue_name=worker))
    await broker.startup()
    yield broker
    await broker.shutdown()


def message(**fields: Any) -> TaskMessage:
    return TaskMessage(**{"task_id": "t1", "task_name": "shop.jobs:record"} | fields)


def next_seen(server: RedisServer) -> dict[str, Any]:
    with redis.Redis.from_url(server.url) as client:
        item: Any = client.blpop(["seen"], timeout=20)
        assert item is not None, "no worker ran it"
        seen: dict[str, Any] = json.loads(item[1])
        return seen


async def seen_after(broker: TaskiqBroker, server: RedisServer, **fields: Any) -> dict[str, Any]:
    assert await broker.kick(message(**fields)) is None  # type: ignore[func-returns-value]
    return await asyncio.to_thread(next_seen, server)


async def test_a_worker_runs_what_was_sent_with_all_that_belongs_to_it(
    broker: TaskiqBroker, server: RedisServer
) -> None:
    labels = {
        "schedule_id": "nightly",
        "scheduled_for": "2026-11-23T18:05:00+00:00",
        "tenant": "ünï ☃",
        "number": 7,
        "share": 0.5,
        "urgent": True,
    }
    seen = await seen_after(
        broker, server, args=[1, None, {"a": [1.5]}], kwargs={"deep": {"x": True}}, labels=labels
    )
    assert seen == {
        "task_id": "t1",
        "labels": labels,
        "args": [1, None, {"a": [1.5]}],
        "kwargs": {"deep": {"x": True}},
    }


async def test_a_timeout_is_taskiqs_label_unless_the_labels_have_one(
    broker: TaskiqBroker, server: RedisServer
) -> None:
    assert (await seen_after(broker, server, timeout=30))["labels"] == {"timeout": 30}
    seen = await seen_after(broker, server, timeout=30, labels={"timeout": 9})
    assert seen["labels"] == {"timeout": 9}


async def test_the_callers_labels_stay_as_they_are(
    broker: TaskiqBroker, server: RedisServer
) -> None:
    labels = {"number": 7}
    await seen_after(broker, server, timeout=30, labels=labels)
    assert labels == {"number": 7}


async def test_the_queue_may_be_down_at_the_start_and_go_down_later(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.stop()
    broker = TaskiqBroker(RedisStreamBroker(redis_server.url))
    await broker.startup()
    assert [r.levelno for r in caplog.records if r.name == "sqlsched"] == [logging.WARNING]
    with pytest.raises(SendTaskError, match=r"taskiq cannot be started: .*ConnectionError"):
        await broker.kick(message())
    redis_server.start()
    await broker.kick(message())
    redis_server.stop()
    with pytest.raises(
        SendTaskError, match=r"shop.jobs:record \(task id t1\): .*ConnectionError"
    ) as told:
        await broker.kick(message())
    assert "\n" not in str(told.value)
    redis_server.start()
    await broker.kick(message())
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.xlen("taskiq") == 2
    await broker.shutdown()


async def test_a_server_that_says_nothing_does_not_hold_a_send_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}"
        broker = TaskiqBroker(ListQueueBroker(url), send_seconds=0.2)
        with pytest.raises(SendTaskError, match="no answer in time"):
            await broker.kick(message())
        await broker.shutdown()


async def test_a_stopped_server_gets_the_same_task_id_again(redis_server: RedisServer) -> None:
    broker = TaskiqBroker(ListQueueBroker(redis_server.url), send_seconds=0.5)
    await broker.kick(message())
    assert redis_server.process is not None
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    with pytest.raises(SendTaskError, match="no answer in time"):
        await broker.kick(message())
    os.kill(redis_server.process.pid, signal.SIGCONT)
    await broker.kick(message())
    with redis.Redis.from_url(redis_server.url) as client:
        raw: Any = client.lrange("taskiq", 0, -1)
        assert {json.loads(item)["task_id"] for item in raw} == {"t1"}
    await broker.shutdown()


class Recorder(AsyncBroker):
    """Keeps what it is given; `trouble` says in which step it fails."""

    def __init__(self, *trouble: str) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.messages: list[BrokerMessage] = []
        self.trouble = trouble

    async def startup(self) -> None:
        await asyncio.sleep(0)
        self._call("startup")
        await super().startup()

    async def shutdown(self) -> None:
        self._call("shutdown")
        await super().shutdown()

    async def kick(self, message: BrokerMessage) -> None:
        self._call("kick")
        self.messages.append(message)

    def listen(self) -> Any:
        raise NotImplementedError

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if what in self.trouble:
            raise ConnectionError(f"{what}\nfailed")


class Stamp(TaskiqMiddleware):
    """Changes what is sent, and fails where it is told to."""

    def __init__(self, trouble: str = "") -> None:
        super().__init__()
        self.trouble = trouble
        self.sent: list[TaskiqMessage] = []

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        if self.trouble == "pre_send":
            raise PermissionError("not this one")
        return message.model_copy(update={"labels": {**message.labels, "stamp": "s"}})

    def post_send(self, message: TaskiqMessage) -> None:
        self.sent.append(message)
        if self.trouble == "post_send":
            raise PermissionError("too late")


async def test_the_brokers_middlewares_run_as_in_its_own_kicker() -> None:
    recorder, stamp = Recorder(), Stamp()
    recorder.add_middlewares(stamp)
    await TaskiqBroker(recorder).kick(message())
    assert recorder.messages[0].labels == {"stamp": "s"}
    assert stamp.sent[0].labels == {"stamp": "s"}


async def test_what_a_middleware_refuses_is_not_sent() -> None:
    recorder = Recorder()
    recorder.add_middlewares(Stamp("pre_send"))
    with pytest.raises(PermissionError, match="not this one"):
        await TaskiqBroker(recorder).kick(message())
    assert recorder.messages == []


async def test_what_fails_after_the_send_is_logged_and_not_sent_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    recorder.add_middlewares(Stamp("post_send"))
    await TaskiqBroker(recorder).kick(message())
    assert "shop.jobs:record (task id t1) was sent, but post_send failed" in caplog.text


async def test_what_cannot_be_serialised_is_named_and_is_not_to_be_sent_again() -> None:
    broker = InMemoryBroker()
    broker.serializer = Unable()
    with pytest.raises(BrokerError, match=r"shop.jobs:record .*cannot be serialised.*no") as told:
        await TaskiqBroker(broker).kick(message())
    assert not isinstance(told.value, SendTaskError)


class Unable(TaskiqSerializer):
    def dumpb(self, value: Any) -> bytes:
        raise ValueError(f"no {type(value).__name__}")

    def loadb(self, value: bytes) -> Any:
        raise NotImplementedError


async def test_a_task_that_the_broker_does_not_know_is_not_to_be_sent_again() -> None:
    with pytest.raises(BrokerError, match=r"does not take shop.jobs:record") as told:
        await TaskiqBroker(InMemoryBroker()).kick(message())
    assert not isinstance(told.value, SendTaskError)


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("brokers.taskiq", "taskiq"),
        ("brokers.celery", "celery"),
        ("sources.taskiq", "taskiq"),
        ("integrations.taskiq", "taskiq"),
        ("exactly_once.taskiq", "taskiq"),
        ("exactly_once.celery", "celery"),
        ("exactly_once.redis", "redis"),
    ],
)
def test_a_module_whose_extra_is_missing_says_what_to_install(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"sqlsched.{module}", raising=False)
    if module.startswith("integrations"):
        monkeypatch.delitem(sys.modules, "sqlsched.sources.taskiq", raising=False)
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ImportError, match=rf"pip install 'sqlsched\[{extra}\]'"):
        importlib.import_module(f"sqlsched.{module}")


@pytest.mark.parametrize("name", [SHELL_TASK, EXEC_TASK])
async def test_commands_are_refused_as_no_queue_runs_them(name: str) -> None:
    recorder = Recorder()
    with pytest.raises(BrokerError, match="a queue runs no commands"):
        await TaskiqBroker(recorder).kick(message(task_name=name, args=["true"]))
    assert recorder.messages == []


async def test_it_is_started_and_shut_down_once_and_can_be_started_again() -> None:
    recorder = Recorder()
    broker = TaskiqBroker(recorder)
    await broker.shutdown()
    for _ in range(2):
        await broker.startup()
        await broker.startup()
        await broker.shutdown()
        await broker.shutdown()
    assert recorder.calls == ["startup", "shutdown"] * 2
    assert recorder.is_scheduler_process


async def test_all_who_wait_for_the_start_share_one_attempt() -> None:
    recorder = Recorder("startup")
    broker = TaskiqBroker(recorder)
    ends = await asyncio.gather(*(broker.kick(message()) for _ in range(9)), return_exceptions=True)
    assert {type(end) for end in ends} == {SendTaskError}
    assert str(ends[0]) == "taskiq cannot be started: ConnectionError: startup failed"
    assert recorder.calls == ["startup", "shutdown"]
    recorder.trouble = ()
    await asyncio.gather(*(broker.kick(message()) for _ in range(9)))
    assert recorder.calls == ["startup", "shutdown", "startup", *["kick"] * 9]


async def test_one_cancelled_sender_does_not_stop_the_start_for_the_others() -> None:
    broker = TaskiqBroker(Recorder())
    senders = [asyncio.create_task(broker.kick(message())) for _ in range(2)]
    await asyncio.sleep(0)
    senders[0].cancel()
    ends = await asyncio.gather(*senders, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1] is None

"""The same task id twice is one run: in real taskiq and Celery workers, and piece by piece."""

import asyncio
import json
import logging
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import taskiq
from celery import Celery
from taskiq_redis import ListQueueBroker

from sqlsched.brokers.celery import CeleryBroker
from sqlsched.brokers.taskiq import TaskiqBroker
from sqlsched.exactly_once import Seen, SqliteSeen, guarded
from sqlsched.exactly_once.celery import exactly_once as celery_exactly_once
from sqlsched.exactly_once.redis import RedisSeen
from sqlsched.exactly_once.taskiq import exactly_once as taskiq_exactly_once
from sqlsched.exceptions import InvalidScheduleError, StorageError
from sqlsched.scheduled_task import TaskMessage
from sqlsched.storage.connection import open_for_writing
from sqlsched.testing import FakeClock
from tests.servers import ROOT, Program, RedisServer

START = datetime(2026, 11, 23, tzinfo=UTC)

TASKIQ_APP = """
from __future__ import annotations
import redis, taskiq
from taskiq.serializers import JSONSerializer
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend
from sqlsched.exactly_once import SqliteSeen
from sqlsched.exactly_once.redis import RedisSeen
from sqlsched.exactly_once.taskiq import exactly_once

client = redis.Redis.from_url("URL")
results = RedisAsyncResultBackend("URL", serializer=JSONSerializer())
broker = ListQueueBroker("URL").with_result_backend(results)
in_redis, in_sqlite = RedisSeen("URL"), SqliteSeen("seen.db")

@broker.task("unguarded")
async def unguarded(value: str) -> int: return client.rpush("ran", value)

@broker.task("guarded")
@exactly_once(in_redis)
async def guarded(value: str) -> int: return client.rpush("ran", value)

@broker.task("plain")
@exactly_once(in_sqlite)
def plain(value: str, *rest: str, me: taskiq.Context = taskiq.TaskiqDepends()) -> int:
    return client.rpush("ran", f"{value} {me.message.task_id}")

@broker.task("fails-first")
@exactly_once(in_sqlite)
async def fails_first(value: str) -> None:
    client.rpush("ran", value)
    if client.incr("tries") == 1:
        raise ValueError("the first time")
"""

CELERY_APP = """
import redis
from celery import Celery
from sqlsched.exactly_once import SqliteSeen
from sqlsched.exactly_once.redis import RedisSeen
from sqlsched.exactly_once.celery import exactly_once

client = redis.Redis.from_url("URL")
app = Celery("jobs", broker="URL", backend="URL")
app.conf.broker_connection_retry_on_startup = True
in_redis, in_sqlite = RedisSeen("URL"), SqliteSeen("seen.db")

@app.task(name="unguarded")
def unguarded(value): return client.rpush("ran", value)

@app.task(name="guarded")
@exactly_once(in_redis)
def guarded(value): return client.rpush("ran", value)

@app.task(name="plain", bind=True)
@exactly_once(in_sqlite)
def plain(self, value): return client.rpush("ran", f"{value} {self.request.id}")

@app.task(name="fails-first", bind=True)
@exactly_once(in_sqlite)
def fails_first(self, value):
    client.rpush("ran", value)
    if client.incr("tries") == 1:
        raise self.retry(countdown=0)
"""


# -- in real workers ------------------------------------------------------------------------------


class Queue:
    """Redis, a worker at it, and a broker of ours that sends to it."""

    def __init__(self, url: str, broker: Callable[[], Any], result_key: str) -> None:
        self.url = url
        self.broker = broker
        self.result_key = result_key

    async def send(self, *names: str, task_id: str) -> list[str]:
        """Send these, one after another, and one more; what ran, without the last."""
        broker = self.broker()
        for name in names:
            await broker.kick(TaskMessage(task_id=task_id, task_name=name, args=["x"]))
        end = TaskMessage(task_id=f"{task_id}-end", task_name="unguarded", args=["end"])
        await broker.kick(end)
        await broker.shutdown()
        return await asyncio.to_thread(self._ran)

    def _ran(self) -> list[str]:
        ran: list[str] = []
        with redis.Redis.from_url(self.url) as client:
            while not ran or ran[-1] != "end":
                item: Any = client.blpop(["ran"], timeout=20)
                assert item is not None, f"only these ran: {ran}"
                ran.append(item[1].decode())
        return ran[:-1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


WORKERS = {
    "taskiq": ("taskiq", "worker", "app:broker", "--workers", "1", "--max-async-tasks", "1"),
    "celery": ("celery", "-A", "app", "worker", "--pool", "prefork", "-c", "1"),
}


@pytest.fixture(scope="module", params=list(WORKERS))
def queue(
    request: pytest.FixtureRequest, server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Queue]:
    """A worker of each kind, that runs one task after another."""
    directory = tmp_path_factory.mktemp("worker")
    url = f"{server.url[:-1]}{1 + list(WORKERS).index(request.param)}"
    app = TASKIQ_APP if request.param == "taskiq" else CELERY_APP
    (directory / "app.py").write_text(app.replace("URL", url))
    worker = Program(directory, *WORKERS[request.param])
    if request.param == "taskiq":
        yield Queue(url, lambda: TaskiqBroker(ListQueueBroker(url)), "")
    else:
        sender = Celery("sender", broker=url)
        yield Queue(url, lambda: CeleryBroker(sender), "celery-task-meta-")
    worker.stop(signal.SIGKILL)


async def test_without_the_decorator_the_second_message_runs(queue: Queue) -> None:
    assert await queue.send("unguarded", "unguarded", task_id="t1") == ["x", "x"]


async def test_the_second_message_with_a_task_id_does_not_run(queue: Queue) -> None:
    assert await queue.send("guarded", "guarded", task_id="t2") == ["x"]
    assert await queue.send("guarded", task_id="t3") == ["x"]
    assert await queue.send("guarded", task_id="t2") == []


async def test_plain_and_bound_functions_and_those_with_dependencies_are_guarded_too(
    queue: Queue,
) -> None:
    assert await queue.send("plain", "plain", task_id="t4") == ["x t4"]


async def test_the_result_of_the_first_stays(queue: Queue) -> None:
    await queue.send("guarded", "guarded", task_id="t5")
    with redis.Redis.from_url(queue.url) as client:
        kept: Any = client.get(f"{queue.result_key}t5")
        result = json.loads(kept)
        assert result.get("return_value", result.get("result")) == 1


async def test_what_failed_is_run_again(queue: Queue) -> None:
    # Celery's own retry has the same task id: it comes with the first that is sent here, or before
    # the second.
    first, second, third = [await queue.send("fails-first", task_id="t6") for _ in range(3)]
    assert (first + second, third) == (["x", "x"], [])


# -- places for records ---------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "redis"])
def seen(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> Iterator[Seen]:
    if request.param == "sqlite":
        made: Any = SqliteSeen(tmp_path / "seen.db")
    else:
        made = RedisSeen(server.url, prefix=f"{tmp_path}:")
    yield made
    made.close()


def test_a_key_is_new_once_until_it_is_taken_back(seen: Seen) -> None:
    assert [seen.begin("a"), seen.begin("a"), seen.begin("b")] == [True, False, True]
    seen.take_back("a")
    seen.take_back("never seen")
    assert [seen.begin("a"), seen.begin("a"), seen.begin("b")] == [True, False, False]


def test_of_many_threads_one_is_first(seen: Seen) -> None:
    with ThreadPoolExecutor(16) as threads:
        for number in range(5):
            assert sum(threads.map(lambda _, n=number: seen.begin(f"k{n}"), range(16))) == 1


def test_of_many_processes_one_is_first(tmp_path: Path) -> None:
    script = (
        "import sys; from sqlsched.exactly_once import SqliteSeen; seen = SqliteSeen('seen.db')\n"
        "print(sum(seen.begin(f'k{n}') for n in range(50)))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=-1
        )
        for _ in range(3)
    ]
    assert sum(int(process.communicate()[0]) for process in started) == 50


def test_a_closed_place_opens_again_and_still_knows(tmp_path: Path) -> None:
    seen = SqliteSeen(tmp_path / "seen.db")
    assert seen.begin("a")
    seen.close()
    seen.close()
    assert not seen.begin("a")
    seen.close()


def test_sqlite_forgets_after_the_retention_and_prunes(tmp_path: Path) -> None:
    clock = FakeClock(START)
    seen = SqliteSeen(tmp_path / "seen.db", retention=timedelta(days=1), clock=clock)
    for number in range(250):
        assert seen.begin(f"k{number}")
    asyncio.run(clock.sleep(86_399))
    assert not seen.begin("k7")
    asyncio.run(clock.sleep(2))
    assert seen.begin("k7")
    assert not seen.begin("k7")
    for number in range(3):
        seen.begin(f"new{number}")
    seen.close()
    with closing(sqlite3.connect(tmp_path / "seen.db")) as database:
        assert database.execute("SELECT count(*) FROM seen").fetchone() == (4,)


def test_redis_is_told_the_retention(server: RedisServer) -> None:
    seen = RedisSeen(server.url, prefix="kept:", retention=timedelta(hours=2))
    seen.begin("a")
    seen.close()
    with redis.Redis.from_url(server.url) as client:
        assert client.ttl("kept:a") in range(7100, 7201)


def test_a_retention_is_checked(tmp_path: Path, server: RedisServer) -> None:
    for made in (lambda: SqliteSeen(tmp_path / "x", retention=0), lambda: _short(server)):
        with pytest.raises(InvalidScheduleError, match="retention 0"):
            made()


def _short(server: RedisServer) -> RedisSeen:
    return RedisSeen(server.url, retention=0)


def test_redis_knows_its_own_record_when_the_answer_was_lost(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = RedisSeen(server.url, prefix="lost:")
    once = seen._redis.set

    def twice(*args: Any, **kwargs: Any) -> Any:
        once(*args, **kwargs)
        return once(*args, **kwargs)

    monkeypatch.setattr(seen._redis, "set", twice)
    assert seen.begin("a")
    assert not seen.begin("a")
    seen.close()


def test_the_file_is_private_and_durable(tmp_path: Path) -> None:
    seen = SqliteSeen(tmp_path / "seen.db")
    seen.begin("a")
    for name in ("seen.db", "seen.db-wal", "seen.db-gate"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    connection = seen._table()._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    seen.close()


def test_a_trigger_that_others_planted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seen.db"
    seen = SqliteSeen(path)
    seen.begin("a")
    seen.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TRIGGER planted AFTER INSERT ON seen BEGIN DELETE FROM seen; END")
    with pytest.raises(StorageError, match=r"seen\.db is a database for something else"):
        SqliteSeen(path).begin("b")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    open_for_writing(tmp_path / "app.db", create=True).close()
    (tmp_path / "notes.txt").write_text("no database at all, but long enough to be one " * 9)
    for name, said in {
        "app.db": "app.db is a database for something else",
        "notes.txt": "notes.txt is not a SQLite database",
        "no/such/directory.db": "no/such/directory.db: No such file",
    }.items():
        with pytest.raises(StorageError, match=said):
            SqliteSeen(tmp_path / name).begin("a")


# -- the decorator --------------------------------------------------------------------------------


class Dictionary(Seen):
    """Records in memory, which may be slow or out of reach."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.fails = False
        self.go_on = threading.Event()
        self.go_on.set()

    def begin(self, key: str) -> bool:
        self.go_on.wait(20)
        if self.fails:
            raise ConnectionError("no route")
        is_new = key not in self.keys
        self.keys.add(key)
        return is_new

    def take_back(self, key: str) -> None:
        if self.fails:
            raise ConnectionError("no route")
        self.keys.discard(key)


def with_id(kwargs: dict[str, Any]) -> str | None:
    found: str | None = kwargs.pop("task_id", None)
    return found


def test_outside_a_worker_the_function_just_runs() -> None:
    seen = Dictionary()

    def double(number: int) -> int:
        return 2 * number

    for decorated in (taskiq_exactly_once(seen)(double), celery_exactly_once(seen)(double)):
        assert [decorated(2), decorated(2)] == [4, 4]
    assert seen.keys == set()


def test_two_functions_do_not_share_a_record() -> None:
    seen, calls = Dictionary(), []

    def one() -> None:
        calls.append("one")

    def two() -> None:
        calls.append("two")

    for function in (one, two, one):
        decorated: Any = guarded(function, seen, with_id, lambda: None)
        decorated(task_id="t")
    assert calls == ["one", "two"]


async def test_a_cancelled_body_may_run_again() -> None:
    seen, begun = Dictionary(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.sleep(60)

    decorated: Any = guarded(hang, seen, with_id, lambda: None)
    running = asyncio.create_task(decorated(task_id="t"))
    await begun.wait()
    assert len(seen.keys) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen.keys == set()


async def test_a_task_cancelled_while_it_is_recorded_may_run_again() -> None:
    seen = Dictionary()
    seen.go_on.clear()

    async def body() -> None:
        raise AssertionError("it was cancelled before")

    decorated: Any = guarded(body, seen, with_id, lambda: None)
    running = asyncio.create_task(decorated(task_id="t"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    seen.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen.keys == set()


def test_where_nothing_can_be_recorded_the_body_does_not_begin() -> None:
    seen, calls = Dictionary(), []
    seen.fails = True
    decorated: Any = guarded(lambda: calls.append(1), seen, with_id, lambda: None)
    with pytest.raises(ConnectionError):
        decorated(task_id="t")
    assert calls == []


def test_the_bodys_own_error_is_what_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    seen = Dictionary()

    def fail() -> None:
        seen.fails = True
        raise ValueError("the body's")

    decorated: Any = guarded(fail, seen, with_id, lambda: None)
    with pytest.raises(ValueError, match="the body's"):
        decorated(task_id="t")
    assert "stays on record" in caplog.text


def test_a_repeat_is_logged_and_its_result_is_the_given_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sqlsched")
    decorated: Any = guarded(lambda: 1, Dictionary(), with_id, lambda: "dropped")
    assert [decorated(task_id="t"), decorated(task_id="t")] == [1, "dropped"]
    assert "dropped, as a message with this task id was here before: t " in caplog.text


def test_a_repeat_is_ignored_in_celerys_sense() -> None:
    app = Celery("jobs", broker="memory://")

    @app.task(shared=False)
    @celery_exactly_once(Dictionary())
    def count() -> int:
        return 1

    ends = [count.apply(task_id=task_id) for task_id in ("t", "t", "u")]
    states: list[str] = [end.state for end in ends]
    assert states == ["SUCCESS", "IGNORED", "SUCCESS"]


async def test_a_guarded_task_is_sent_and_run_as_before_in_taskiqs_memory() -> None:
    broker, calls = taskiq.InMemoryBroker(await_inplace=True), []

    @broker.task
    @taskiq_exactly_once(Dictionary())
    async def count(number: int, **more: int) -> int:
        """Count."""
        calls.append((number, more))
        return number

    assert count.__doc__ == "Count."
    first = await count.kicker().with_task_id("t").kiq(3, extra=4)
    await count.kicker().with_task_id("t").kiq(3, extra=4)
    assert (await first.wait_result()).return_value == 3
    assert calls == [(3, {"extra": 4})]
    assert json.dumps(await count(5)) == "5"

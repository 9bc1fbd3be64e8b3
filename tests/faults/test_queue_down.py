"""The queue is down when firings come due: they go out once it is back, none lost, none doubled."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sqlsched import Broker, ScheduledTask, Scheduler, SqliteScheduleSource
from sqlsched.scheduled_task import derive_task_id
from sqlsched.storage import runs
from sqlsched.storage.connection import open_for_reading
from tests.servers import Program, RedisServer, wait_for

APPS = {
    "taskiq": """
from taskiq import Context, TaskiqDepends
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker("{url}")

@broker.task(task_name="work:note")
async def note(context: Context = TaskiqDepends()) -> None:
    with open("ran.txt", "a") as file:
        file.write(context.message.task_id + " " + context.message.labels["schedule_id"] + "\\n")
""",
    "celery": """
from celery import Celery

app = Celery("work", broker="{url}")

@app.task(bind=True)
def note(self) -> None:
    with open("ran.txt", "a") as file:
        file.write(self.request.id + " " + self.request.headers["schedule_id"] + "\\n")
""",
}
WORKERS = {
    "taskiq": ("taskiq", "worker", "work:broker", "--workers", "1"),
    "celery": ("celery", "-A", "work:app", "worker", "--pool", "solo"),
}


def make_broker(engine: str, url: str) -> Broker:
    if engine == "taskiq":
        from taskiq_redis import ListQueueBroker

        from sqlsched.brokers.taskiq import TaskiqBroker

        return TaskiqBroker(ListQueueBroker(url))
    from celery import Celery

    from sqlsched.brokers.celery import CeleryBroker

    return CeleryBroker(Celery("work", broker=url))


@pytest.mark.parametrize("engine", ["taskiq", "celery"])
async def test_what_comes_due_while_the_queue_is_down_goes_out_when_it_is_back(
    engine: str,
    tmp_path: Path,
    redis_server: RedisServer,
    start_program: Callable[..., Program],
) -> None:
    (tmp_path / "work.py").write_text(APPS[engine].format(url=redis_server.url))
    source = SqliteScheduleSource(tmp_path / "app.db")
    await source.startup()
    first = (datetime.now(UTC) + timedelta(seconds=1)).replace(microsecond=0)
    schedule = ScheduledTask(
        task_name="work:note",
        schedule_id="each",
        interval=1,
        start=first,
        end=first + timedelta(seconds=3),
    )
    await source.add_schedule(schedule)
    redis_server.stop()
    scheduler = Scheduler(make_broker(engine, redis_server.url), [source])
    running = asyncio.create_task(scheduler.run(until_idle=True))
    await asyncio.sleep(2)
    await asyncio.to_thread(redis_server.start)
    async with asyncio.timeout(30):
        await running
    await source.shutdown()

    start_program(*WORKERS[engine])
    ran = tmp_path / "ran.txt"
    await asyncio.to_thread(wait_for, lambda: ran.exists() and ran.read_text().count("\n") >= 4)
    times = [int(first.timestamp() + seconds) * 1_000_000 for seconds in range(4)]
    expected = [f"{derive_task_id('each', us)} each" for us in times]
    assert Counter(ran.read_text().splitlines()) == Counter(expected)
    database = open_for_reading(tmp_path / "app.db")
    assert [run.status for run in runs.history(database)] == ["sent"] * 4
    database.close()

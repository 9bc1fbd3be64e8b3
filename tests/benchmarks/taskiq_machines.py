"""What taskiq's own scheduler does where `tests/faults/test_machines.py` has three machines.

Three `taskiq scheduler` processes share taskiq-redis's list source; ten schedules fire each second
for a minute, and one process is killed in the middle. Then the same with one process alone, killed
and started again after three seconds, as at a deploy.

Run: python -m tests.benchmarks.taskiq_machines
"""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.servers import Program, RedisServer

SCHEDULES = 10
SECONDS = 60

APP = """
from taskiq import TaskiqScheduler
from taskiq.serializers import JSONSerializer
from taskiq_redis import ListQueueBroker, ListRedisScheduleSource

broker = ListQueueBroker("{url}", queue_name="queue")
source = ListRedisScheduleSource("{url}", serializer=JSONSerializer())
scheduler = TaskiqScheduler(broker, [source])

@broker.task(task_name="app:note")
async def note() -> None:
    pass

async def plan(number):
    for index in range(number):
        await note.schedule_by_interval(source, 1)
"""


def start(directory: Path) -> Program:
    return Program(directory, "taskiq", "scheduler", "app:scheduler")


def share(directory: Path, server: RedisServer, processes: int) -> str:
    (directory / "app.py").write_text(APP.format(url=server.url))
    plan = f"import asyncio, app; asyncio.run(app.plan({SCHEDULES}))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", plan], cwd=directory, check=True)
    running = [start(directory) for _ in range(processes)]
    time.sleep(3 + SECONDS / 2)
    running.pop().stop(signal.SIGKILL)
    if processes == 1:
        time.sleep(3)
        running.append(start(directory))
    time.sleep(SECONDS / 2)
    for program in running:
        program.stop(signal.SIGKILL)
    sent = asyncio.run(count(server.url))
    expected = SCHEDULES * SECONDS
    return f"{sum(sent.values())} messages for about {expected} firings: {dict(sent)}"


async def count(url: str) -> Counter[str]:
    """Messages on the queue, by schedule."""
    from redis.asyncio import Redis

    client: Any = Redis.from_url(url)
    messages = [json.loads(raw) for raw in await client.lrange("queue", 0, -1)]
    await client.aclose()
    return Counter(message["labels"]["schedule_id"][:6] for message in messages)


def main() -> None:
    for title, processes in (
        ("three processes, one killed", 3),
        ("one process, restarted after 3 s", 1),
    ):
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            server = RedisServer(directory)
            server.start()
            try:
                print(f"{title}: {share(directory, server, processes)}", flush=True)
            finally:
                server.stop()


if __name__ == "__main__":
    main()

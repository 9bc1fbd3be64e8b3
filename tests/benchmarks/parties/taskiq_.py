"""taskiq's scheduler over a broker and a source in memory: nothing of it is durable."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from taskiq import InMemoryBroker, ScheduledTask, ScheduleSource, TaskiqScheduler
from taskiq.cli.scheduler.run import SchedulerLoop

from tests.benchmarks.party import Figures, late, main, window_async

CONFIGURATION = "`taskiq scheduler`'s loop, InMemoryBroker, source in memory: nothing is durable"
GIVE_UP_SECONDS = 200


class Listed(ScheduleSource):
    """Schedules in memory; a time goes once it is sent, as in taskiq's own sources."""

    def __init__(self, schedules: list[ScheduledTask]) -> None:
        self._schedules = {schedule.schedule_id: schedule for schedule in schedules}

    async def get_schedules(self) -> list[ScheduledTask]:
        return list(self._schedules.values())

    def post_send(self, task: ScheduledTask) -> None:
        if task.time is not None:
            self._schedules.pop(task.schedule_id, None)


def schedule(number: int, **when: Any) -> ScheduledTask:
    return ScheduledTask(
        task_name="task", labels={}, args=[], kwargs={}, schedule_id=str(number), **when
    )


async def serve(
    task: Callable[[], Coroutine[Any, Any, None]],
    schedules: list[ScheduledTask],
    until: Callable[[], Coroutine[Any, Any, Any]],
) -> Any:
    """Run the scheduler's loop until the answer is there."""
    broker = InMemoryBroker(max_async_tasks=64)
    broker.register_task(task, task_name="task")
    await broker.startup()
    loop = SchedulerLoop(TaskiqScheduler(broker, [Listed(schedules)]))
    serving = asyncio.create_task(loop.run(update_interval=timedelta(minutes=1)))
    try:
        return await until()
    finally:
        serving.cancel()


async def _until(condition: Callable[[], bool], due: datetime) -> None:
    while not condition() and time.time() - due.timestamp() < GIVE_UP_SECONDS:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def nothing() -> None:
    pass


def _cost(seconds: float, schedules: list[ScheduledTask]) -> Figures:
    figures: Figures = asyncio.run(serve(nothing, schedules, lambda: window_async(seconds)))
    return figures


def _yearly(n: int) -> list[ScheduledTask]:
    month = (datetime.now(UTC).month + 3) % 12 + 1
    return [schedule(i, cron=f"{i % 60} {i // 60 % 24} 1 {month} *") for i in range(n)]


def idle(n: int, seconds: float, _directory: Path) -> Figures:
    return _cost(seconds, _yearly(n))


def each_second(n: int, seconds: float, _directory: Path) -> Figures:
    return _cost(seconds, [*_yearly(n), schedule(n, interval=1)])


def burst(n: int, _seconds: float, _directory: Path) -> Figures:
    done: list[float] = []

    async def note() -> None:
        done.append(time.time())

    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3 + n // 20_000)

    async def until() -> None:
        await _until(lambda: len(done) >= n, due)

    asyncio.run(serve(note, [schedule(number, time=due) for number in range(n)], until))
    seconds = max(done, default=time.time()) - due.timestamp()
    return {"seconds": seconds, "lost": max(0, n - len(done)), "twice": max(0, len(done) - n)}


def lateness(n: int, _seconds: float, _directory: Path) -> Figures:
    started: list[float] = []

    async def note() -> None:
        started.append(time.time())

    first = datetime.now(UTC) + timedelta(seconds=2)
    dues = [
        first + timedelta(milliseconds=150 * number + random.uniform(0, 100)) for number in range(n)
    ]

    async def until() -> None:
        await _until(lambda: len(started) >= n, dues[-1])

    asyncio.run(serve(note, [schedule(i, time=due) for i, due in enumerate(dues)], until))
    pairs = zip(sorted(started), dues, strict=True)
    return late([(start - due.timestamp()) * 1000 for start, due in pairs])


if __name__ == "__main__":
    main({"idle": idle, "each_second": each_second, "burst": burst, "lateness": lateness})

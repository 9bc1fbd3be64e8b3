"""The program of the scripted day: its tasks write down that they began, and nothing else counts.

Its clock is a FakeClock, so that a day of seconds, retries and waits takes none.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

from sqlsched import (
    Broker,
    InProcessBroker,
    Scheduler,
    SqliteScheduleSource,
    TaskMessage,
    current_run,
)
from sqlsched.testing import FakeClock

clock = FakeClock(datetime.fromtimestamp(int(os.environ["DAY_SECOND"]), UTC))


def mark(line: str) -> None:
    """Write a line where no fault reaches it."""
    fd = os.open(os.environ["DAY_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def note() -> None:
    run = current_run()
    assert run is not None
    assert run.scheduled_for is not None
    mark(f"began {run.schedule_id} {run.scheduled_for.timestamp():.0f} {run.attempt}")
    print("this is kept, as all that a run prints")


def flaky() -> None:
    note()
    run = current_run()
    if run is not None and run.attempt == 1:
        raise RuntimeError("the first time fails")


async def slow() -> None:
    note()
    await clock.sleep(1.5)


class Queue(Broker):
    """Has a message once that is written down."""

    reports_completion = False

    async def kick(self, message: TaskMessage) -> None:
        scheduled_for = datetime.fromisoformat(message.labels["scheduled_for"])
        second = scheduled_for.timestamp()
        mark(f"sent {message.labels['schedule_id']} {second:.0f} {message.task_id}")


def local() -> Scheduler:
    return Scheduler(InProcessBroker(), [_source()], clock=clock)


def queue() -> Scheduler:
    return Scheduler(Queue(), [_source()], clock=clock)


def _source() -> SqliteScheduleSource:
    return SqliteScheduleSource(Path(os.environ["SQLSCHED_DB"]))

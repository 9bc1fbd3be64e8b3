"""A queue: a file that each message becomes a line of. What it has taken, it has taken for good."""

import asyncio
import os
from datetime import datetime

from sqlsched import Broker, TaskMessage

TRACE = "sent.txt"
_ANSWER_SECONDS = 0.002
"""How long the queue takes to say that it has a message."""


def trace(*words: object) -> None:
    """Add a line: whole, and after all that is there."""
    fd = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


class QueueBroker(Broker):
    """Hands messages on to the file."""

    reports_completion = False

    async def kick(self, message: TaskMessage) -> None:
        """Append the message, then wait for the answer."""
        scheduled_for = datetime.fromisoformat(message.labels["scheduled_for"])
        scheduled_us = round(scheduled_for.timestamp() * 1e6)
        words = (os.getpid(), message.labels["schedule_id"], scheduled_us, message.task_id)
        trace("sent", *words)
        await asyncio.sleep(_ANSWER_SECONDS)
        trace("answered", *words)


broker = QueueBroker()

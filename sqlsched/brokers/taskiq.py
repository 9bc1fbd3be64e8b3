"""`TaskiqBroker`: runs handed to taskiq, whose workers execute them."""

import asyncio
import logging
from contextlib import suppress

from sqlsched.abc import Broker
from sqlsched.brokers.failure import one_line
from sqlsched.exceptions import BrokerError, SendTaskError
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage

try:
    from taskiq import AsyncBroker, BrokerMessage, TaskiqMessage, TaskiqMiddleware
    from taskiq.exceptions import SharedBrokerSendTaskError, UnknownTaskError
    from taskiq.labels import prepare_label
    from taskiq.utils import maybe_awaitable
except ImportError as error:
    raise ImportError(
        "sqlsched.brokers.taskiq needs taskiq: pip install 'sqlsched[taskiq]'"
    ) from error

log = logging.getLogger("sqlsched")

SEND_SECONDS = 30.0
"""How long a send, or a start, may take."""


class TaskiqBroker(Broker):
    """Sends runs through any taskiq broker, as its own kicker would, middlewares included.

    A worker gets the task's name, args, kwargs and labels (also `schedule_id`, `scheduled_for`),
    and the run's task id. Labels arrive as taskiq carries them: text, numbers and booleans as
    they are, anything else as its text. A timeout becomes the label `timeout`, unless there is
    one. taskiq knows no `expires`: it is ignored.
    """

    reports_completion = False

    def __init__(self, broker: AsyncBroker, *, send_seconds: float = SEND_SECONDS) -> None:
        self.broker = broker
        self._send_seconds = send_seconds
        self._starting: asyncio.Task[None] | None = None
        self._started = False

    async def startup(self) -> None:
        """Start the taskiq broker; if its server is down, that is logged and `kick` tries again."""
        try:
            await self._start()
        except SendTaskError as error:
            log.warning("%s; it is tried again with the next message", error)

    async def shutdown(self) -> None:
        """Shut the taskiq broker down if it was started here."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
            self._starting = None
        if self._started:
            self._started = False
            await self.broker.shutdown()

    async def kick(self, message: TaskMessage) -> None:
        """Send one run; returns once the queue has it.

        A send that did not end in time may have arrived: it raises SendTaskError like one that
        was refused, as the engine then sends the same task id again, at least once.
        BrokerError is for a message that no attempt would bring through.
        """
        await self._start()
        taskiq_message = await self._through_pre_send(_to_taskiq(message))
        await self._send(self._written(taskiq_message))
        await self._tell_sent(taskiq_message)

    async def _start(self) -> None:
        """Started, or SendTaskError. All who wait share one attempt."""
        if self._started:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_broker())
            self._starting.add_done_callback(self._attempt_ended)
        await asyncio.shield(self._starting)

    def _attempt_ended(self, attempt: asyncio.Task[None]) -> None:
        if self._starting is attempt:
            self._starting = None
        if not attempt.cancelled():
            attempt.exception()  # whoever waited has it; asyncio need not complain if nobody did

    async def _start_broker(self) -> None:
        self.broker.is_scheduler_process = True
        try:
            async with asyncio.timeout(self._send_seconds):
                await self.broker.startup()
        except Exception as error:
            with suppress(Exception):  # let go of what half a start has opened
                await self.broker.shutdown()
            raise SendTaskError(f"taskiq cannot be started: {_reason(error)}") from error
        self._started = True

    async def _through_pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        for middleware in self.broker.middlewares:
            if type(middleware).pre_send is not TaskiqMiddleware.pre_send:
                message = await maybe_awaitable(middleware.pre_send(message))
        return message

    def _written(self, message: TaskiqMessage) -> BrokerMessage:
        try:
            return self.broker.formatter.dumps(message)
        except Exception as error:
            raise BrokerError(
                f"{_named(message)} cannot be serialised for taskiq: {one_line(error)}"
            ) from error

    async def _send(self, message: BrokerMessage) -> None:
        try:
            async with asyncio.timeout(self._send_seconds):
                await self.broker.kick(message)
        except (SharedBrokerSendTaskError, UnknownTaskError) as error:
            raise BrokerError(f"taskiq does not take {_named(message)}: {error}") from error
        except Exception as error:
            raise SendTaskError(
                f"taskiq did not take {_named(message)}: {_reason(error)}"
            ) from error

    async def _tell_sent(self, message: TaskiqMessage) -> None:
        """The message is away, so what fails here does not make the run fail."""
        for middleware in reversed(self.broker.middlewares):
            if type(middleware).post_send is not TaskiqMiddleware.post_send:
                try:
                    await maybe_awaitable(middleware.post_send(message))
                except Exception:
                    log.exception("%s was sent, but post_send failed", _named(message))


def _to_taskiq(message: TaskMessage) -> TaskiqMessage:
    if message.task_name in (SHELL_TASK, EXEC_TASK):
        raise BrokerError(f"{message.task_name} cannot go through taskiq: a queue runs no commands")
    labels = dict(message.labels)
    if message.timeout is not None:
        labels.setdefault("timeout", message.timeout)
    prepared = {name: prepare_label(value) for name, value in labels.items()}
    return TaskiqMessage(
        task_id=message.task_id,
        task_name=message.task_name,
        labels={name: value for name, (value, _) in prepared.items()},
        labels_types={name: kind for name, (_, kind) in prepared.items()},
        args=message.args,
        kwargs=message.kwargs,
    )


def _named(message: TaskiqMessage | BrokerMessage) -> str:
    return f"{message.task_name} (task id {message.task_id})"


def _reason(error: Exception) -> str:
    """What went wrong, in one line; some brokers put the cause inside an error of their own."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return one_line(error)

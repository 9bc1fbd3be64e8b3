"""`CeleryBroker`: runs handed to Celery, whose workers execute them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from sqlsched.abc import Broker
from sqlsched.brokers.failure import one_line
from sqlsched.exceptions import BrokerError, SendTaskError
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage
from sqlsched.serialization import shorten

try:
    from celery import Celery
    from celery.app.task import Context
    from celery.exceptions import ImproperlyConfigured
    from kombu.exceptions import SerializationError
except ImportError as error:
    raise ImportError(
        "sqlsched.brokers.celery needs celery: pip install 'sqlsched[celery]'"
    ) from error

SEND_SECONDS = 30.0
"""How long a send may take, the wait for a free thread included."""
SOCKET_SECONDS = 5.0
"""How long a server may take to answer."""
GRACE_SECONDS = 10
"""From the soft time limit, which a task can catch, to the hard one, which kills it."""

_THREADS = 8
_OPTIONS = ("queue", "routing_key", "exchange", "priority")
_CELERYS_OWN = {*dir(Context), "lang", "task", "argsrepr", "kwargsrepr", "compression"}
_HOPELESS = (SerializationError, ImproperlyConfigured, TypeError, ValueError, LookupError)
_ANSWER_IN_TIME: dict[str, dict[str, Any]] = {
    "redis": {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS},
    "amqp": {
        "confirm_publish": True,
        "read_timeout": SOCKET_SECONDS,
        "write_timeout": SOCKET_SECONDS,
    },
}


class CeleryBroker(Broker):
    """Sends runs through a Celery app, with connections of its own.

    `shop.jobs:send` goes out as `shop.jobs.send`, which is what Celery calls that function,
    unless the app has a task by the very name. Labels (also `schedule_id` and `scheduled_for`)
    are message headers: a bound task reads `self.request.headers["schedule_id"]`. The labels
    `queue`, `routing_key`, `exchange` and `priority` are send options as well. A timeout is the
    task's soft time limit, and the hard one 10 s later.

    RabbitMQ confirms each message (`confirm_publish`); Redis has it when it answers. Whatever the
    app's `broker_transport_options` say goes first.
    """

    reports_completion = False

    def __init__(self, app: Celery, *, send_seconds: float = SEND_SECONDS) -> None:
        self.app = app
        self._send_seconds = send_seconds
        self._senders: ThreadPoolExecutor | None = None
        self._lines = _Lines(app)

    async def startup(self) -> None:
        """Make ready. Connections are opened as they are needed."""
        self._executor()

    async def shutdown(self) -> None:
        """Close the connections that were opened here."""
        senders, self._senders = self._senders, None
        if senders is not None:
            senders.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(self._lines.close)

    async def kick(self, message: TaskMessage) -> None:
        """Send one run; returns once the queue has it.

        A send that did not end in time may have arrived: it raises SendTaskError like one that
        was refused, as the engine then sends the same task id again, at least once.
        BrokerError is for a message that no attempt would bring through.
        """
        if message.task_name in (SHELL_TASK, EXEC_TASK):
            raise BrokerError(
                f"{message.task_name} cannot go through Celery: a queue runs no commands"
            )
        options = _options(message)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._send_seconds):
                await loop.run_in_executor(self._executor(), self._send, message, options)
        except TimeoutError as error:
            raise _refused(message, "no answer in time") from error

    def _executor(self) -> ThreadPoolExecutor:
        if self._senders is None:
            self._senders = ThreadPoolExecutor(_THREADS, thread_name_prefix="sqlsched-celery")
        return self._senders

    def _send(self, message: TaskMessage, options: dict[str, Any]) -> None:
        """Send from this thread, with its own connection."""
        name = self._name(message.task_name)
        try:
            self.app.send_task(name, producer=self._lines.producer(), **options)
        except _HOPELESS as error:
            raise BrokerError(
                f"{_named(message)} cannot be sent to Celery: {one_line(error)}"
            ) from error
        except Exception as error:
            self._lines.drop()
            raise _refused(message, one_line(error)) from error

    def _name(self, name: str) -> str:
        try:
            known = name in self.app.tasks
        except Exception as error:  # what the app's modules raise while it is put together
            raise BrokerError(f"the Celery app is not in order: {one_line(error)}") from error
        return name if known else name.replace(":", ".")


class _Lines:
    """A connection for each thread; one that failed is not used again."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._of_thread = threading.local()
        self._open: set[Any] = set()

    def producer(self) -> Any:
        """What this thread sends with."""
        producer = getattr(self._of_thread, "producer", None)
        if producer is None or producer.connection not in self._open:
            connection = _connection(self._app)
            self._open.add(connection)
            producer = self._app.amqp.Producer(connection, auto_declare=False)
            self._of_thread.producer = producer
        return producer

    def drop(self) -> None:
        """Close this thread's connection."""
        producer, self._of_thread.producer = getattr(self._of_thread, "producer", None), None
        if producer is not None:
            self._close(producer.connection)

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._open):
            self._close(connection)

    def _close(self, connection: Any) -> None:
        self._open.discard(connection)
        with suppress(Exception):  # a connection that is broken may fail to close
            connection.close()


def _connection(app: Celery) -> Any:
    """A connection that gives up at once: to try again is the engine's work."""
    connection: Any = app.connection_for_write()
    wanted = _ANSWER_IN_TIME.get(connection.transport.driver_type, {})
    # One attempt for each of the servers that the app names.
    retries = {"max_retries": max(len(connection.alt) - 1, 0)}
    connection.transport_options = wanted | connection.transport_options | retries
    return connection


class _NoResult:
    """Stands for the result, for which nobody here will ask."""

    ignored = True

    def __init__(self, task_id: str) -> None:
        self.id = task_id


def _options(message: TaskMessage) -> dict[str, Any]:
    """The arguments of `send_task`, but for the name."""
    options = {
        "args": message.args,
        "kwargs": message.kwargs,
        "task_id": message.task_id,
        "headers": _headers(message),
        "retry": False,
        "add_to_parent": False,
        # Otherwise the scheduler would subscribe to the result of every run that it sends. The
        # header of this name, in `_headers`, leaves the decision about results to the worker.
        "ignore_result": True,
        "result_cls": _NoResult,
    }
    if message.expires is not None:
        options["expires"] = message.expires
    if message.timeout is not None:
        options |= {"soft_time_limit": message.timeout}
        options |= {"time_limit": message.timeout + GRACE_SECONDS}
    return options | {
        name: _option(name, message.labels[name]) for name in _OPTIONS if name in message.labels
    }


def _headers(message: TaskMessage) -> dict[str, Any]:
    taken = sorted(_CELERYS_OWN & set(message.labels))
    if taken:
        raise BrokerError(
            f"the label {taken[0]!r} of {_named(message)} is a word of Celery's own messages; "
            "give it another name"
        )
    return {**message.labels, "ignore_result": None}


def _option(name: str, value: Any) -> str | int:
    if name != "priority" and isinstance(value, str):
        return value
    with suppress(ValueError):
        if name == "priority" and isinstance(value, str | int):
            return int(value)
    accepted = "a whole number" if name == "priority" else "text"
    raise BrokerError(f"the label {name} is {shorten(value)}; to Celery it is {accepted}")


def _refused(message: TaskMessage, reason: str) -> SendTaskError:
    return SendTaskError(f"Celery's queue did not take {_named(message)}: {reason}")


def _named(message: TaskMessage) -> str:
    return f"{message.task_name} (task id {message.task_id})"

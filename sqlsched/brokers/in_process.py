"""`InProcessBroker`: tasks as functions of this very process, on its event loop or in threads."""

import asyncio
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlsched import cancellation
from sqlsched.abc import Broker, RunOutcome
from sqlsched.brokers.capture import Routers, captured, emit
from sqlsched.brokers.failure import Failure
from sqlsched.brokers.subprocess import SubprocessBroker
from sqlsched.brokers.threads import Threads
from sqlsched.exceptions import BrokerError
from sqlsched.importing import import_task
from sqlsched.output import OutputBuffer
from sqlsched.run_context import running
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, TaskMessage

_NO_TIMEOUT = (
    "a timeout needs an async function or the subprocess broker: a thread cannot be stopped"
)


class InProcessBroker(Broker):
    """Runs async functions on the event loop and plain ones in threads, `concurrency` at most.

    A task is looked up in `tasks`, else imported. When a run is cancelled, an async function gets
    CancelledError. A thread cannot be stopped: the cancellation is let through, the function goes
    on to its end, and holds its place among the threads until then; for the same reason a plain
    function with a timeout is refused. Threads are daemons, so a stuck one does not keep the
    interpreter. Shell lines and commands run as child processes in `app_dir`, as they do in
    `SubprocessBroker`.
    """

    def __init__(self, *, concurrency: int = 64, app_dir: str | Path | None = None) -> None:
        self.default_concurrency = concurrency
        self._children = SubprocessBroker(app_dir)
        self._slots = asyncio.Semaphore(concurrency)
        self._threads: Threads | None = None
        self._started = False
        self._kinds: dict[int, tuple[Callable[..., Any], bool]] = {}
        """Functions by their identity, and whether they are async, which takes long to find."""

    async def startup(self) -> None:
        """Begin to capture what tasks print."""
        if not self._started:
            Routers.install()
            self._started = True

    async def shutdown(self) -> None:
        """Stop capturing, and end child processes. A later kick starts up again."""
        if self._started:
            Routers.remove()
            self._started = False
            if self._threads is not None:
                self._threads.close()
        await self._children.shutdown()

    async def kick(self, message: TaskMessage) -> RunOutcome:
        """Run the task; see `Broker.kick`."""
        if message.task_name in (SHELL_TASK, EXEC_TASK):
            return await self._children.kick(message)
        if not self._started:
            await self.startup()
        Routers.ensure()
        output = message.output or OutputBuffer()
        with running(message), captured(output):
            failure = await self._run(message)
        if failure is None or failure.line is None:
            return RunOutcome("succeeded", None, output.text())
        emit(output, failure.text.encode(errors="backslashreplace"))
        return RunOutcome("failed", failure.line, output.text())

    def process_of(self, message: TaskMessage) -> tuple[int, int] | None:
        """(pid, start time) of a shell line or command that is going."""
        return self._children.process_of(message)

    async def _run(self, message: TaskMessage) -> Failure | None:
        try:
            function = await self._find(message.task_name)
            is_async = self._is_async(function)
            if message.timeout is not None and not is_async:
                raise BrokerError(_NO_TIMEOUT)
        except BrokerError as error:
            return Failure.of_import(error)
        try:
            if is_async:
                await function(*message.args, **message.kwargs)
            else:
                await self._call_in_thread(function, message.args, message.kwargs)
        except asyncio.CancelledError as error:
            if cancellation.is_asked_for():
                raise
            return Failure(error)
        except BaseException as error:
            return Failure(error)
        return None

    async def _find(self, name: str) -> Callable[..., Any]:
        if name in self.tasks:
            return self.tasks[name]
        if name.partition(":")[0] in sys.modules:
            return import_task(name)
        # A module may take seconds to import, and the loop must not wait for it.
        function: Callable[..., Any] = await self._pool().run(lambda: import_task(name))
        return function

    def _pool(self) -> Threads:
        """The threads of this event loop; they and the slots belong to one."""
        loop = asyncio.get_running_loop()
        if self._threads is None or self._threads.loop is not loop:
            self._threads = Threads(loop)
            self._slots = asyncio.Semaphore(self.default_concurrency)
        return self._threads

    def _is_async(self, function: Callable[..., Any]) -> bool:
        known = self._kinds.get(id(function))
        if known is None or known[0] is not function:
            known = self._kinds[id(function)] = (function, _is_async(function))
        return known[1]

    async def _call_in_thread(
        self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        threads, slots = self._pool(), self._slots
        await slots.acquire()
        result = await threads.run(lambda: function(*args, **kwargs), at_end=slots.release)
        if inspect.isawaitable(result):
            await result


def _is_async(function: Callable[..., Any]) -> bool:
    inner = inspect.unwrap(function)
    call = getattr(type(inner), "__call__", None)  # noqa: B004  # the method, not whether
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(call)

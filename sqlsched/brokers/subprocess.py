"""`SubprocessBroker`: each run in a process of its own, forked from a warm interpreter.

Isolation as with cron, speed as with a pool: the warm process (`child.py`) has imported what
every run needs and none of what tasks bring, so a run starts fresh and starts quickly.
"""

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sqlsched.abc import Broker, RunOutcome
from sqlsched.brokers.run import Run
from sqlsched.brokers.warm_process import WarmProcess
from sqlsched.exceptions import BrokerError
from sqlsched.output import OutputBuffer
from sqlsched.run_context import CurrentRun
from sqlsched.scheduled_task import TaskMessage


class SubprocessBroker(Broker):
    """Runs Python tasks, shell lines and commands as child processes.

    Their working directory is `app_dir` (default: the current one, now), which is also first on
    their `sys.path`; their environment is `environment`, by default this process's at the broker's
    start; stdin is empty. A cancelled run gets SIGTERM, in all its session, and SIGKILL
    `kill_after_seconds` later. What a run leaves in its process group ends with it.
    """

    def __init__(
        self,
        app_dir: str | Path | None = None,
        *,
        kill_after_seconds: float = 5.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.default_concurrency = 2 * (os.cpu_count() or 1)
        self._app_dir = str(Path(app_dir or ".").absolute())
        self._kill_after_seconds = kill_after_seconds
        self.environment = environment
        self._warm: WarmProcess | None = None
        self._runs: dict[int, Run] = {}

    async def startup(self) -> None:
        """Start the warm process and wait for it; BrokerError if it cannot start."""
        warm = self._warm_process()
        await warm.ready.wait()
        if warm.ended.is_set():
            raise BrokerError("the process that runs tasks could not start")

    async def shutdown(self) -> None:
        """End the warm process and, with SIGKILL, every run. A later kick starts a new one."""
        warm, self._warm = self._warm, None
        if warm is not None and warm.loop is asyncio.get_running_loop():
            await warm.close()
        elif warm is not None:
            warm.abandon()

    async def kick(self, message: TaskMessage) -> RunOutcome:
        """Run the task; see `Broker.kick`."""
        output = message.output or OutputBuffer()
        try:
            payload = self._payload(message)
        except (TypeError, ValueError) as error:
            return RunOutcome("failed", f"the arguments are not JSON: {error}", output.text())
        warm = self._warm_process()
        run = warm.start(payload, output)
        key = id(message)  # task ids need not be unique
        self._runs[key] = run
        try:
            return await asyncio.shield(run.done)
        except asyncio.CancelledError:
            await self._stop(warm, run)
            raise
        finally:
            del self._runs[key]

    def process_of(self, message: TaskMessage) -> tuple[int, int] | None:
        """(pid, start time) of a run that is going, for `kill_leftovers` after a crash."""
        run = self._runs.get(id(message))
        return run.process if run is not None else None

    def _warm_process(self) -> WarmProcess:
        warm = self._warm
        if warm is not None and warm.loop is not asyncio.get_running_loop():
            warm.abandon()
            warm = None
        if warm is None or warm.ended.is_set():
            warm = self._warm = WarmProcess(self.environment)
        return warm

    def _payload(self, message: TaskMessage) -> bytes:
        request = {
            "task_name": self.import_path(message.task_name),
            "args": message.args,
            "kwargs": message.kwargs,
            "app_dir": self._app_dir,
            "environment": CurrentRun.from_message(message).environment(),
        }
        return json.dumps(request).encode()

    async def _stop(self, warm: WarmProcess, run: Run) -> None:
        """End the run and wait for that; a second cancellation makes it quick, never incomplete."""
        warm.stop(run, signal.SIGTERM)
        with suppress(asyncio.CancelledError):
            await asyncio.wait([run.done], timeout=self._kill_after_seconds)
        warm.stop(run, signal.SIGKILL)
        while not run.done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([run.done])
        run.done.exception()  # seen: nobody else will ask

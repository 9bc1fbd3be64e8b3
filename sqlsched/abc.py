"""The two seams: where schedules come from, and where their messages go.

A new source or broker subclasses one of these and is done; the engine knows nothing else of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sqlsched.clock import Clock
from sqlsched.scheduled_task import ScheduledTask, TaskMessage


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a task ended, from a broker that runs tasks itself.

    `error` is one line for people ("ValueError: no such user"), `output` what the task printed,
    `exit_code` that of a process (negative: ended by that signal), None where there was none.
    """

    status: Literal["succeeded", "failed"]
    error: str | None = None
    output: str = ""
    exit_code: int | None = None


class Broker(ABC):
    """Runs tasks, or hands them to a queue whose workers do."""

    reports_completion: ClassVar[bool] = True
    """True when `kick` returns at the task's end; False when it returns once a queue has it."""

    default_concurrency: int = 64
    """How many runs at once, where nobody says."""

    async def startup(self) -> None:  # noqa: B027 - optional
        """Make ready. May be called again, also after `shutdown`."""

    async def shutdown(self) -> None:  # noqa: B027 - optional
        """Let go of everything. May be called again."""

    @abstractmethod
    async def kick(self, message: TaskMessage) -> RunOutcome | None:
        """Run the task to its end and return its outcome, or hand it on and return None.

        A task's own failure is an outcome, never an exception. `SendTaskError` says that the
        message was certainly not sent, and it is tried again; any other exception fails the run.
        When cancelled, a broker that runs tasks first stops the task and all that it started,
        then lets the cancellation through. Everything the task prints goes to `message.output`
        as it comes, if there is one.
        """

    def process_of(self, message: TaskMessage) -> tuple[int, int] | None:  # noqa: ARG002
        """Pid and start time of the process that runs this message, where there is one.

        It is put on record, so that what a killed scheduler leaves behind can be ended.
        """
        return None


class ScheduleSource(ABC):
    """A place that schedules come from. Only `get_schedules` is mandatory."""

    clock: Clock | None = None
    """A source that was given no clock takes its scheduler's."""

    database: Path | None = None
    """The ledger that this source keeps its schedules in, if it does."""

    async def startup(self) -> None:  # noqa: B027 - optional
        """Connect. May be called again, also after `shutdown`."""

    async def shutdown(self) -> None:  # noqa: B027 - optional
        """Disconnect. May be called again."""

    @abstractmethod
    async def get_schedules(self) -> list[ScheduledTask]:
        """Every schedule of this source, whether it is due or not."""

    async def add_schedule(
        self,
        schedule: ScheduledTask,
        replace: bool = False,  # noqa: ARG002
    ) -> None:
        """Store a schedule durably before returning.

        The same content under the same id is a no-op; other content raises
        DuplicateScheduleError unless `replace`.
        """
        raise TypeError(f"{type(self).__name__} takes no schedules: {schedule.schedule_id}")

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule; ScheduleNotFoundError if there is none with this id."""
        raise TypeError(f"{type(self).__name__} removes no schedules: {schedule_id}")

    def pre_send(  # noqa: B027 - optional
        self, task: ScheduledTask
    ) -> Awaitable[None] | None:
        """Called before each send; may raise ScheduledTaskCancelledError. Plain or async."""

    def post_send(  # noqa: B027 - optional
        self, task: ScheduledTask
    ) -> Awaitable[None] | None:
        """Called after each send. Plain or async."""

"""The two seams: where schedules come from, and where their messages go.

A new source or broker subclasses one of these and is done; the engine knows nothing else of it.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar, overload

from sqlsched.clock import Clock
from sqlsched.exceptions import BrokerError, SqlschedError
from sqlsched.planner import Claim as Claim
from sqlsched.planner import Identity as Identity
from sqlsched.planner import Moment
from sqlsched.scheduled_task import ScheduledTask, TaskMessage
from sqlsched.task import DeclaredSchedule, Task, register, task_path

log = logging.getLogger("sqlsched")

_SCHEDULE_WORDS = {"cron", "crons", "interval", "every", "time", "schedules"}
"""Labels that were probably meant to be a schedule."""

P = ParamSpec("P")
R = TypeVar("R")


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

    def __post_init__(self) -> None:
        if self.status not in ("succeeded", "failed"):
            raise BrokerError(f"status {self.status!r}: an outcome is succeeded or failed")


class Broker(ABC):
    """Runs tasks, or hands them to a queue whose workers do."""

    reports_completion: ClassVar[bool] = True
    """True when `kick` returns at the task's end; False when it returns once a queue has it."""

    default_concurrency: int = 64
    """How many runs at once, where nobody says."""

    @cached_property
    def tasks(self) -> dict[str, Callable[..., Any]]:
        """What is registered here, by name: Tasks, and plain functions that were put in."""
        return {}

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        self,
        task_name: str | None = None,
        schedule: Sequence[DeclaredSchedule] | None = None,
        **labels: Any,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(
        self,
        task_name: Any = None,
        schedule: Sequence[DeclaredSchedule] | None = None,
        **labels: Any,
    ) -> Any:
        """Make a function a task: `@broker.task`, or `@broker.task(schedule=[…], queue="low")`.

        Its name is `module:qualname` by default. `schedule` are dicts with fields of
        ScheduledTask, for `LabelScheduleSource`; all other keywords are labels. BrokerError if
        the name belongs to another function; one that was defined again takes its place.
        """

        if callable(task_name):
            return self.task(None, schedule, **labels)(task_name)

        for name in sorted(_SCHEDULE_WORDS & labels.keys()):
            log.warning("%s=… of a task is a label; a schedule is schedule=[{%r: …}]", name, "cron")

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            task = Task(function, self, task_name=task_name, schedule=schedule, labels=labels)
            register(task, self.tasks)
            return task

        return decorate

    def import_path(self, task_name: str) -> str:
        """Where another process imports a task from: for one registered here, its function's place.

        BrokerError if that function has none, as a lambda.
        """
        registered = self.tasks.get(task_name)
        return task_name if registered is None else task_path(registered)

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

    name: str = ""
    """What the ledger calls this source; by default its class. Applications that share a ledger
    give sources of one class different names: what a source lists no more is removed there."""

    clock: Clock | None = None
    """A source that was given no clock takes its scheduler's."""

    database: Path | None = None
    """The ledger that this source keeps its schedules in, if it does."""

    asked_again: ClassVar[bool] = True
    """Whether `get_schedules` is asked again each whole minute, or only when a run begins."""

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
        raise SqlschedError(
            f"{type(self).__name__} takes no schedules, and so not {schedule.schedule_id}; "
            "give a source that stores them"
        )

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule; ScheduleNotFoundError if there is none with this id."""
        raise SqlschedError(
            f"{type(self).__name__} removes no schedules, and so not {schedule_id}; it stores none"
        )

    def pre_send(  # noqa: B027 - optional
        self, task: ScheduledTask
    ) -> Awaitable[None] | None:
        """Called before each send; may raise ScheduledTaskCancelledError. Plain or async."""

    def post_send(  # noqa: B027 - optional
        self, task: ScheduledTask
    ) -> Awaitable[None] | None:
        """Called after each send. Plain or async."""


class ClaimingSource(ScheduleSource):
    """A source that schedulers on several machines share, each with a ledger of its own.

    It decides, firing by firing, who dispatches it. A claim is a lease: one that is neither
    started nor tended for 30 s may be claimed by another. The start is one atomic step that only
    the holder of the claim can make. Whoever has unfinished firings of a schedule also gets its
    next ones, so that its ledger can apply the policies (overlap, retries, `max_runs`).

    Whatever cannot be reached raises an exception of any kind; the engine asks again.
    """

    @property
    @abstractmethod
    def outstanding(self) -> Collection[Identity]:
        """What this process has claimed or started, and has not been told the end of."""

    @abstractmethod
    async def join(self, owner: str, *, resend: bool) -> None:
        """Claim as `owner`, the ledger. `resend`: what it had started when it died may be claimed
        again (a queue that delivers at least once); otherwise it is abandoned."""

    @abstractmethod
    async def claim(
        self, moment: Moment, until_us: int, limit: int, without: Collection[str] = ()
    ) -> list[Claim]:
        """Claim up to `limit` firings that are due by `until_us`, planned for `moment`; none of
        the schedules `without`, which are left to others."""

    @abstractmethod
    async def missing(self, ids: Collection[str]) -> set[str]:
        """Those of these ids that no schedule has any more."""

    @abstractmethod
    async def start(self, schedule_id: str, scheduled_us: int) -> str | None:
        """Start a claimed firing: None if it is ours, else the reason why not.

        Reasons: "removed", "edited", "taken-over". Asked again by the same owner it answers the
        same, so that it can be repeated when an answer was lost.
        """

    @abstractmethod
    async def tend(
        self, over: Collection[Identity], now_us: int
    ) -> list[tuple[ScheduledTask, int]]:
        """Show that this owner lives: keep its claims, and forget those that are `over`.

        Returns the firings, as schedule and nominal time, that another owner had started before
        it died, each to one caller: they are abandoned.
        """

    @abstractmethod
    async def leave(self) -> None:
        """Let others have at once what this process claimed and did not start."""

    @abstractmethod
    async def next_due_us(self) -> int | None:
        """When something is due next; None if nothing ever is."""

    @abstractmethod
    async def pull_back(self, now_us: int) -> None:
        """After the clock was put back: no schedule waits for a time beyond its natural next one,
        and nothing that was claimed in the last day is claimed again."""

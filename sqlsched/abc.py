"""The two seams: where schedules come from, and where their messages go.

A new source or broker subclasses one of these and is done; the engine knows nothing else of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sqlsched.clock import Clock
from sqlsched.planner import Firing, Moment, Stretch
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


Identity = tuple[str, int]
"""A firing: the id of its schedule, and its nominal time in microseconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Firings of one schedule that are this scheduler's now, and what else was decided with them.

    `stretches` are firings that never run, to be recorded; `next_us` is the next nominal firing,
    `dispatched` how many were started before, of those that `max_runs` counts.
    """

    schedule: ScheduledTask
    anchor_us: int
    firings: Sequence[Firing] = ()
    stretches: Sequence[Stretch] = ()
    next_us: int | None = None
    dispatched: int = 0


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
    async def claim(self, moment: Moment, until_us: int, limit: int) -> list[Claim]:
        """Claim up to `limit` firings that are due by `until_us`, planned for `moment`."""

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

"""Which run is this? Answered inside a task, in every local broker; None anywhere else.

A child process is told through its environment, so that shell lines and commands know it too.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from sqlsched.scheduled_task import TaskMessage

T = TypeVar("T")

_current: ContextVar["CurrentRun | TaskMessage | None"] = ContextVar(
    "sqlsched_current_run", default=None
)


class Bound(Generic[T]):
    """Inside the block a context variable has this value; a tenth of what a generator costs."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        self._variable.reset(self._token)


@dataclass(frozen=True)
class CurrentRun:
    """The identity of a run; without a schedule, when it was sent directly."""

    task_id: str
    schedule_id: str | None
    scheduled_for: datetime | None
    attempt: int

    @classmethod
    def from_message(cls, message: "TaskMessage") -> "CurrentRun":
        """The run that this message starts."""
        scheduled_for = message.labels.get("scheduled_for")
        return cls(
            task_id=message.task_id,
            schedule_id=message.labels.get("schedule_id"),
            scheduled_for=datetime.fromisoformat(scheduled_for) if scheduled_for else None,
            attempt=message.attempt,
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "CurrentRun | None":
        """The reverse of `environment`; None where no run is named."""
        task_id = environment.get("SQLSCHED_TASK_ID")
        if task_id is None:
            return None
        scheduled_for = environment.get("SQLSCHED_SCHEDULED_FOR")
        return cls(
            task_id=task_id,
            schedule_id=environment.get("SQLSCHED_SCHEDULE_ID"),
            scheduled_for=datetime.fromisoformat(scheduled_for) if scheduled_for else None,
            attempt=int(environment.get("SQLSCHED_ATTEMPT", "1")),
        )

    def environment(self) -> dict[str, str]:
        """The variables that a child process of this run gets."""
        values = {"SQLSCHED_TASK_ID": self.task_id, "SQLSCHED_ATTEMPT": str(self.attempt)}
        if self.schedule_id is not None:
            values["SQLSCHED_SCHEDULE_ID"] = self.schedule_id
        if self.scheduled_for is not None:
            values["SQLSCHED_SCHEDULED_FOR"] = self.scheduled_for.isoformat()
        return values


def current_run() -> CurrentRun | None:
    """The run this code belongs to, None outside a task."""
    run = _current.get()
    return run if run is None or isinstance(run, CurrentRun) else CurrentRun.from_message(run)


def running(run: "CurrentRun | TaskMessage | None") -> "Bound[CurrentRun | TaskMessage | None]":
    """Inside the block, and in what it starts with its context, `current_run()` is this run.

    A message is read when somebody asks: most tasks never do.
    """
    return Bound(_current, run)

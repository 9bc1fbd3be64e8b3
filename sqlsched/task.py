"""`Task`: a function that a broker knows, and that can be sent as well as called."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from sqlsched.exceptions import BrokerError
from sqlsched.kicker import Kicker, Sendable
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.serialization import shorten

if TYPE_CHECKING:
    from sqlsched.abc import Broker

P = ParamSpec("P")
R = TypeVar("R")

DeclaredSchedule = Mapping[str, Any]
"""Fields of a ScheduledTask: one of cron, interval and time, arguments, labels, policies."""


class Task(Sendable[P], Generic[P, R]):
    """What `@broker.task` makes of a function. Called, it is the function as before.

    `schedule` are its declared schedules, as they were given: `LabelScheduleSource` reads them,
    and says what is wrong with them.
    """

    __wrapped__: Callable[P, R]

    def __init__(
        self,
        function: Callable[P, R],
        broker: "Broker",
        *,
        task_name: str | None = None,
        schedule: Sequence[DeclaredSchedule] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        update_wrapper(self, function)
        # Checks the name and the labels, now that the decorator's line shows in the traceback.
        checked = ScheduledTask(
            task_name=task_path(function) if task_name is None else task_name,
            labels=dict(labels or {}),
            interval=1,
        )
        self.broker = broker
        self.task_name = checked.task_name
        self.labels: Mapping[str, Any] = MappingProxyType(checked.labels)
        self.schedule: Sequence[DeclaredSchedule] = _copied([] if schedule is None else schedule)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.task_name}>"

    def kicker(self) -> Kicker[P]:
        """To send or schedule it with other labels, ids or another broker."""
        return Kicker(broker=self.broker, task_name=self.task_name, labels=self.labels)

    def _as_kicker(self) -> Kicker[P]:
        return self.kicker()


def register(task: Task[..., Any], tasks: dict[str, Callable[..., Any]]) -> None:
    """Put a task among those of its broker; BrokerError if the name is another function's.

    One of the same place takes over: its module was imported again.
    """
    other = tasks.get(task.task_name)
    if other is not None and _place(other) != _place(task):
        owner, newcomer = (_place(function) or shorten(function) for function in (other, task))
        raise BrokerError(
            f"the task name {task.task_name!r} belongs to {owner}; give {newcomer} another one"
        )
    tasks[task.task_name] = task


def task_path(function: Callable[..., Any]) -> str:
    """Where a function is found, `module:qualname`; in a script, as if that was imported.

    BrokerError if it has no name, as a lambda.
    """
    place = _place(function)
    if place is None or place.endswith("<lambda>"):
        raise BrokerError(f"{shorten(function)} has no name of its own: give task_name")
    return place


def _place(function: Callable[..., Any]) -> str | None:
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if module is None or name is None:
        return None
    return f"{_main_module() if module == '__main__' else module}:{name}"


def _main_module() -> str:
    """What the main module is called when a worker, or a child, imports it."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m app
        return main.__spec__.name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


def _copied(value: Any) -> Any:
    # Not deepcopy: a wrong entry may hold what cannot be copied, and it is to be named later.
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value

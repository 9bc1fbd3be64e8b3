"""`Kicker`: a task about to be sent, now or by a schedule, with what this one sending changes."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload

from sqlsched.created_schedule import CreatedSchedule
from sqlsched.scheduled_task import ScheduledTask, TaskMessage
from sqlsched.serialization import as_json, checked

if TYPE_CHECKING:
    from sqlsched.abc import Broker, RunOutcome, ScheduleSource

P = ParamSpec("P")


class Sendable(ABC, Generic[P]):
    """What a task and a kicker have in common: `P` are the parameters of the task's function.

    Arguments are sent as JSON; a dataclass or a pydantic model arrives as a dict. Those that are
    not JSON raise InvalidScheduleError, which names the task.
    """

    @abstractmethod
    def _as_kicker(self) -> "Kicker[P]":
        """What sends it."""

    async def kiq(self, /, *args: P.args, **kwargs: P.kwargs) -> "RunOutcome | None":
        """Send it through the broker now, outside any ledger; returns what `Broker.kick` does.

        With a broker that runs tasks itself that is the run's outcome, at its end.
        """
        return await self._as_kicker().send(args, kwargs)

    @overload
    async def schedule_by_cron(
        self, source: "ScheduleSource", cron: str, /, *args: P.args, **kwargs: P.kwargs
    ) -> CreatedSchedule: ...

    @overload
    async def schedule_by_cron(
        self,
        source: "ScheduleSource",
        cron: str,
        /,
        *args: Any,
        cron_offset: str | timedelta | None,
        **kwargs: Any,
    ) -> CreatedSchedule: ...

    # PEP 612 has no place for a keyword between P.args and P.kwargs.
    async def schedule_by_cron(  # type: ignore[misc]
        self,
        source: "ScheduleSource",
        cron: str,
        /,
        *args: Any,
        cron_offset: str | timedelta | None = None,
        **kwargs: Any,
    ) -> CreatedSchedule:
        """Add a schedule to `source` that runs this task with these arguments.

        `cron_offset`, a zone name or a fixed offset east of UTC, is the cron expression's, never
        an argument of the task.
        """
        trigger = {"cron": cron, "cron_offset": cron_offset}
        return await self._as_kicker().schedule(source, trigger, args, kwargs)

    async def schedule_by_time(
        self, source: "ScheduleSource", time: datetime, /, *args: P.args, **kwargs: P.kwargs
    ) -> CreatedSchedule:
        """Add a schedule to `source` that runs this task once; a naive time is UTC."""
        return await self._as_kicker().schedule(source, {"time": time}, args, kwargs)

    async def schedule_by_interval(
        self,
        source: "ScheduleSource",
        interval: int | timedelta,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> CreatedSchedule:
        """Add a schedule to `source` that runs this task every so many seconds."""
        return await self._as_kicker().schedule(source, {"interval": interval}, args, kwargs)


@dataclass(frozen=True, kw_only=True)
class Kicker(Sendable[P]):
    """Sends one task, or schedules it. The `with_…` methods return a new kicker each.

    `task_id` and `schedule_id` are made up for each sending, and each schedule, that has none.
    """

    broker: "Broker"
    task_name: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    task_id: str | None = None
    schedule_id: str | None = None

    def with_labels(self, /, **labels: Any) -> "Kicker[P]":
        """With these labels, beside those that it has or in their place."""
        return replace(self, labels={**self.labels, **labels})

    def with_task_id(self, task_id: str) -> "Kicker[P]":
        """With this id for the run, and for every run of a schedule made from it."""
        return replace(self, task_id=task_id)

    def with_schedule_id(self, schedule_id: str) -> "Kicker[P]":
        """With this id for a schedule made from it."""
        return replace(self, schedule_id=schedule_id)

    def with_broker(self, broker: "Broker") -> "Kicker[P]":
        """Sent through another broker, which finds the task by its name."""
        return replace(self, broker=broker)

    async def send(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "RunOutcome | None":
        """`kiq`, with the arguments in two collections."""
        message = TaskMessage(
            task_id=self.task_id or os.urandom(16).hex(),
            task_name=self.task_name,
            labels=checked(dict(self.labels), f"labels of {self.task_name}"),
            **self._arguments(args, kwargs),
        )
        return await self.broker.kick(message)

    async def schedule(
        self,
        source: "ScheduleSource",
        trigger: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> CreatedSchedule:
        """Add a schedule with these arguments to `source`; `trigger` is its part that says when."""
        scheduled = ScheduledTask(
            task_name=self.task_name,
            labels=dict(self.labels),
            task_id=self.task_id,
            schedule_id=self.schedule_id,  # type: ignore[arg-type]  # None: it makes one
            **trigger,
            **self._arguments(args, kwargs),
        )
        await source.add_schedule(scheduled)
        return CreatedSchedule(scheduled, source, self)

    def _as_kicker(self) -> "Kicker[P]":
        return self

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {
            "args": as_json(args, f"args of {self.task_name}"),
            "kwargs": as_json(kwargs, f"kwargs of {self.task_name}"),
        }

"""`TaskiqScheduleSource`: the schedules of any taskiq source, served with our ledger."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlsched.abc import ScheduleSource
from sqlsched.exceptions import (
    DuplicateScheduleError,
    InvalidScheduleError,
    ScheduledTaskCancelledError,
    ScheduleNotFoundError,
)
from sqlsched.field_checks import check_schedule_id
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.serialization import as_json, dumps, shorten

try:
    import taskiq
    from taskiq.exceptions import ScheduledTaskCancelledError as TaskiqCancelledError
    from taskiq.schedule_sources import LabelScheduleSource
    from taskiq.utils import maybe_awaitable
except ImportError as error:
    raise ImportError(
        "sqlsched.sources.taskiq needs taskiq: pip install 'sqlsched[taskiq]'"
    ) from error

log = logging.getLogger("sqlsched")

Pairs = dict[str, tuple[ScheduledTask, taskiq.ScheduledTask]]
"""Our schedule and theirs, by our id."""

_THEIRS = (
    *("task_name", "labels", "args", "kwargs", "task_id", "schedule_id"),
    *("cron", "cron_offset", "time", "interval"),
)
_ID_DIGITS = 24
_NEVER_SENT = "types_of_exceptions"
"""A label that retry middlewares read where the task is; taskiq does not send it either."""


class TaskiqScheduleSource(ScheduleSource):
    """Wraps a taskiq ScheduleSource; its `pre_send` and `post_send` are called with its own tasks.

    A schedule keeps its id, unless the id has characters that ours have not, or is the random one
    that taskiq's LabelScheduleSource gives at each start: then one is derived, the same at every
    start. Cron expressions are read as everywhere here. A schedule that cannot be served (two
    triggers, a cron expression that is not one, arguments that are not JSON) is logged once and
    left out. `name` is what the ledger calls this source.
    """

    def __init__(self, source: taskiq.ScheduleSource, *, name: str = "") -> None:
        if not isinstance(source, taskiq.ScheduleSource):
            raise TypeError(
                f"TaskiqScheduleSource of {shorten(source)}: give a ScheduleSource of taskiq"
            )
        self.source = source
        self.name = name or type(source).__name__
        self._started = False
        self._told: set[str] = set()
        self._listed: Pairs = {}
        self._listed_before: Pairs = {}

    async def startup(self) -> None:
        """Start the wrapped source."""
        if not self._started:
            await self.source.startup()
            self._started = True

    async def shutdown(self) -> None:
        """Shut the wrapped source down if it was started here."""
        if self._started:
            self._started = False
            await self.source.shutdown()

    async def get_schedules(self) -> list[ScheduledTask]:
        """Every schedule that the wrapped source lists now and that can be served.

        Some list only what is due, as taskiq-redis does with those that have a time.
        """
        await self.startup()
        found = self._read(await self.source.get_schedules())
        self._listed_before, self._listed = self._listed, found
        return [ours for ours, _ in found.values()]

    async def add_schedule(self, schedule: ScheduledTask, replace: bool = False) -> None:
        """Hand a schedule to the wrapped source, as durable as that is.

        InvalidScheduleError if it has a policy that taskiq does not know. One that the wrapped
        source does not list is not compared with what is there.
        """
        _check_policies(schedule)
        await self.get_schedules()
        there = self._listed.get(schedule.schedule_id)
        if there is not None:
            if there[0].content() == schedule.content():
                return
            if not replace:
                raise DuplicateScheduleError(
                    f"a schedule with the id {schedule.schedule_id!r} and other content exists; "
                    "replace it, or take another id"
                )
            await self.source.delete_schedule(there[1].schedule_id)
        await self.source.add_schedule(to_theirs(schedule))

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule from the wrapped source; where that does not list it, blindly."""
        await self.get_schedules()
        there = self._listed.get(schedule_id)
        if there is None and isinstance(self.source, LabelScheduleSource):
            raise ScheduleNotFoundError(f"no schedule of {self.name} has the id {schedule_id!r}")
        await self.source.delete_schedule(schedule_id if there is None else there[1].schedule_id)

    async def pre_send(self, task: ScheduledTask) -> None:
        """Tell the wrapped source, which may cancel the firing."""
        try:
            await maybe_awaitable(self.source.pre_send(self._original(task)))
        except TaskiqCancelledError as error:
            raise ScheduledTaskCancelledError(
                f"{self.name} cancelled {task.schedule_id}: {error}"
            ) from error

    async def post_send(self, task: ScheduledTask) -> None:
        """Tell the wrapped source."""
        await maybe_awaitable(self.source.post_send(self._original(task)))

    def _original(self, task: ScheduledTask) -> taskiq.ScheduledTask:
        """Their schedule. What was claimed before a restart may not be listed any more."""
        for listed in (self._listed, self._listed_before):
            if task.schedule_id in listed:
                return listed[task.schedule_id][1]
        return to_theirs(task)

    def _read(self, listed: list[taskiq.ScheduledTask]) -> Pairs:
        found: Pairs = {}
        declared = _declared_ids(self.source)
        for theirs in listed:
            try:
                self._add(to_ours(theirs), theirs, declared, found)
            # Of any kind: what they hold may raise whatever it likes.
            except Exception as error:
                self._left_out(theirs, error)
        return found

    def _add(
        self,
        ours: ScheduledTask,
        theirs: taskiq.ScheduledTask,
        declared: set[str] | None,
        found: Pairs,
    ) -> None:
        if declared is not None and theirs.schedule_id not in declared:
            ours = _unique(ours, found)
        twin = found.setdefault(ours.schedule_id, (ours, theirs))
        # taskiq-redis lists one that was added twice two times.
        if twin[0] != ours:
            raise InvalidScheduleError(f"the id is taken by one of {twin[0].task_name}")

    def _left_out(self, theirs: taskiq.ScheduledTask, error: Exception) -> None:
        problem = (
            f"{self.name}: schedule {shorten(theirs.schedule_id)} of {shorten(theirs.task_name)} "
            f"is left out: {error or type(error).__name__}"
        )
        if problem not in self._told:
            self._told.add(problem)
            log.error("%s", problem)


def _declared_ids(source: taskiq.ScheduleSource) -> set[str] | None:
    """The ids that labels give; None where a source's ids are the same at every start."""
    if not isinstance(source, LabelScheduleSource):
        return None
    tasks = source.broker.get_all_tasks().values()
    entries = (entry for task in tasks for entry in task.labels.get("schedule", []))
    return {entry["schedule_id"] for entry in entries if "schedule_id" in entry}


def _unique(ours: ScheduledTask, found: Pairs) -> ScheduledTask:
    """The same with an id from its content; the second of two that are the same gets another."""
    content = dumps({name: value for name, value in ours.content().items() if value is not None})
    ids = (_hashed(f"{content}{number or ''}") for number in range(len(found) + 1))
    return replace(ours, schedule_id=next(one for one in ids if one not in found))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def our_id(schedule_id: str) -> str:
    """The id that one of theirs has here."""
    try:
        return check_schedule_id(schedule_id)
    except InvalidScheduleError:
        return _hashed(schedule_id)


def to_ours(theirs: taskiq.ScheduledTask) -> ScheduledTask:
    """Their schedule as ours; InvalidScheduleError says what cannot be served."""
    return ScheduledTask(
        task_name=theirs.task_name,
        args=as_json(theirs.args, "args"),
        kwargs=as_json(theirs.kwargs, "kwargs"),
        labels=dict(_labels(theirs.labels)),
        task_id=theirs.task_id,
        schedule_id=our_id(theirs.schedule_id),
        cron=theirs.cron,
        cron_offset=theirs.cron_offset or None,
        time=theirs.time,
        interval=theirs.interval,
    )


def _labels(theirs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A label that is not JSON becomes its text, as it does when taskiq sends it."""
    for name, value in theirs.items():
        if name != _NEVER_SENT:
            try:
                yield name, as_json(value, name)
            except InvalidScheduleError:
                yield name, str(value)


def _check_policies(schedule: ScheduledTask) -> None:
    """InvalidScheduleError if it has more than taskiq's schedules can hold."""
    plain = ScheduledTask(**{name: getattr(schedule, name) for name in _THEIRS})
    for name, value in vars(schedule).items():
        if value != getattr(plain, name):
            raise InvalidScheduleError(
                f"{name} {shorten(value)} of {schedule.schedule_id}: taskiq's sources cannot hold "
                "it; leave it out, or use a source of sqlsched"
            )


def to_theirs(schedule: ScheduledTask) -> taskiq.ScheduledTask:
    """What taskiq can hold of ours."""
    # Read again as JSON: theirs must not share lists with ours.
    fields = {name: getattr(schedule, name) for name in _THEIRS}
    copies = {name: as_json(fields[name], name) for name in ("args", "kwargs", "labels")}
    return taskiq.ScheduledTask(**fields | copies)

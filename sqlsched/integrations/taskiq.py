"""`SqliteScheduleSource`: a sqlsched database, served by `taskiq scheduler`."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlsched.clock import Clock
from sqlsched.cron import split_fields
from sqlsched.cron_fields import FIELDS, Field, values
from sqlsched.exceptions import InvalidScheduleError, ScheduleNotFoundError, StorageError
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, ScheduledTask
from sqlsched.sources import sqlite
from sqlsched.sources.taskiq import our_id, to_ours, to_theirs
from sqlsched.storage import handed_on

try:
    import taskiq
    from taskiq.exceptions import ScheduledTaskCancelledError
except ImportError as error:
    raise ImportError(
        "sqlsched.integrations.taskiq needs taskiq: pip install 'sqlsched[taskiq]'"
    ) from error

log = logging.getLogger("sqlsched")

_UNKNOWN_TO_TASKIQ = (
    *("start", "end", "max_runs", "jitter", "catchup_window", "coalesce"),
    *("retries", "retry_delay", "expires", "on_success", "on_failure", "on_missed", "ping"),
    "pause_on_failure",
)


class SqliteScheduleSource(taskiq.ScheduleSource):
    """A taskiq ScheduleSource over the schedules that a sqlsched database holds itself.

    `taskiq scheduler` serves it with the promises of taskiq, not of sqlsched: what falls due
    while it is down is lost (only one-shots wait), two of it send everything twice, and intervals
    begin anew at its start. Do not let `sqlsched run` serve the same database.

    Served is what is neither paused nor done, and means the same to taskiq; what has a policy or
    a cron expression that taskiq does not know is logged once and left out. A timeout becomes the
    label `timeout`. A one-shot is done once it was sent. Pausing or removing a schedule counts at
    its next firing, other changes once taskiq asks again (`--update-interval`).
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        self._own = _OwnSchedules(path, clock=clock)
        self._told: set[str] = set()
        self._listed: list[taskiq.ScheduledTask] = []

    async def startup(self) -> None:
        """Open the database; make it if it is missing."""
        await self._own.startup()

    async def shutdown(self) -> None:
        """Close the database."""
        await self._own.shutdown()

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        """Every schedule that taskiq can serve.

        If the database cannot be read, it is what was read last: taskiq would forget them all.
        """
        try:
            schedules = await self._own.get_schedules()
        except StorageError as error:
            log.error("schedules cannot be read, what is known of them stays: %s", error)
        else:
            self._listed = list(self._served(schedules))
        return self._listed

    async def add_schedule(self, schedule: taskiq.ScheduledTask) -> None:
        """Store a schedule durably.

        The same content under the same id is a no-op; DuplicateScheduleError for other content,
        InvalidScheduleError for a schedule that sqlsched cannot hold.
        """
        await self._own.add_schedule(to_ours(schedule))

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule; ScheduleNotFoundError if there is none with this id."""
        await self._own.delete_schedule(our_id(schedule_id))

    async def pre_send(self, task: taskiq.ScheduledTask) -> None:
        """Cancel the firing if its schedule was paused, removed or done since taskiq asked."""
        if not await self._own.still_wanted(task.schedule_id):
            raise ScheduledTaskCancelledError

    async def post_send(self, task: taskiq.ScheduledTask) -> None:
        """A one-shot that was sent is done, and its run is in the history."""
        await self._own.record_sent(task.schedule_id)

    def _served(self, schedules: list[ScheduledTask]) -> Iterator[taskiq.ScheduledTask]:
        for schedule in schedules:
            if not schedule.paused:
                try:
                    yield _to_taskiq(schedule)
                except InvalidScheduleError as error:
                    self._left_out(schedule.schedule_id, error)

    def _left_out(self, schedule_id: str, error: Exception) -> None:
        problem = f"taskiq cannot serve schedule {schedule_id}, it is left out: {error}"
        if problem not in self._told:
            self._told.add(problem)
            log.warning("%s", problem)


class _OwnSchedules(sqlite.SqliteScheduleSource):
    """The schedules in the database, and the marks that sending leaves there."""

    async def still_wanted(self, schedule_id: str) -> bool:
        try:
            return await (await self._open()).run(handed_on.still_wanted, schedule_id)
        except ScheduleNotFoundError:
            return False

    async def record_sent(self, schedule_id: str) -> None:
        try:
            await (await self._open()).run(handed_on.record_sent, schedule_id, self._now_us())
        except ScheduleNotFoundError:
            log.info("schedule %s was removed while it was sent", schedule_id)


def _to_taskiq(schedule: ScheduledTask) -> taskiq.ScheduledTask:
    """InvalidScheduleError says what taskiq cannot do."""
    if schedule.task_name in (SHELL_TASK, EXEC_TASK):
        raise InvalidScheduleError("a queue runs no commands")
    policies = {name: getattr(schedule, name) for name in _UNKNOWN_TO_TASKIQ}
    if schedule.overlap not in (None, "allow"):
        policies["overlap"] = schedule.overlap
    for name, value in policies.items():
        if value is not None:
            raise InvalidScheduleError(f"it knows no {name}, which is {value}")
    labels: dict[str, Any] = dict(schedule.labels)
    if schedule.timeout is not None:
        labels.setdefault("timeout", schedule.timeout)
    theirs = to_theirs(replace(schedule, labels=labels))
    if schedule.cron is not None:
        theirs.cron = plain_cron(schedule.cron)
    return theirs


def plain_cron(cron: str) -> str:
    """The same expression in the few words that taskiq's evaluator, pycron, knows.

    It reads numbers, `*` and lists. InvalidScheduleError for what these cannot say.
    """
    texts = split_fields(cron)
    plain = [_plain(field, text) for field, text in zip(FIELDS, texts, strict=True)]
    day, weekday = texts[2], texts[4]
    if "*" not in (plain[2], plain[4]) and (day[0] in "*?" or weekday[0] in "*?"):
        raise InvalidScheduleError(
            f"its cron has no {day} on {weekday}, where a day must match both; name the days"
        )
    return " ".join(plain)


def _plain(field: Field, text: str) -> str:
    if text in ("*", "?"):
        return "*"
    try:
        numbers = values(field, text)
    except InvalidScheduleError:
        raise InvalidScheduleError(f"its cron has no {field.name} {text}") from None
    return ",".join(map(str, numbers))

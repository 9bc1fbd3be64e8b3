"""`LabelScheduleSource`: the schedules that tasks declare, `@broker.task(schedule=[…])`."""

import hashlib
import logging
from dataclasses import replace
from typing import Any, ClassVar

from sqlsched.abc import Broker, ScheduleSource
from sqlsched.exceptions import BrokerError, InvalidScheduleError
from sqlsched.scheduled_task import FIELD_NAMES, ScheduledTask
from sqlsched.serialization import as_json, dumps, kind, shorten
from sqlsched.task import Task

log = logging.getLogger("sqlsched")

_FIELDS = [name for name in FIELD_NAMES if name != "task_name"]
_ACCEPTED = ", ".join(_FIELDS)
_JSON_FIELDS = ("args", "kwargs", "labels")
_ID_DIGITS = 24


class LabelScheduleSource(ScheduleSource):
    """Reads the schedules declared on a broker's tasks; it stores none.

    Each is a dict with fields of ScheduledTask; its labels are the task's, updated by its own. An
    id that is not given is derived from the content, so it is the same at every start. A wrong
    one is logged, by task and index, and left out.
    """

    asked_again: ClassVar[bool] = False

    def __init__(self, broker: Broker, *, name: str = "") -> None:
        if not isinstance(broker, Broker):
            raise BrokerError(
                f"LabelScheduleSource of {shorten(broker)}: give the Broker whose tasks declare "
                "schedules"
            )
        self.broker = broker
        self.name = name
        self._told: set[str] = set()

    async def get_schedules(self) -> list[ScheduledTask]:
        """Every declared schedule that is right."""
        found: dict[str, ScheduledTask] = {}
        for task in self._tasks():
            if not isinstance(task.schedule, list):
                self._left_out(f"schedule of {task.task_name}", _not_a_list(task.schedule))
                continue
            for index, entry in enumerate(task.schedule):
                try:
                    _add(_read(task, entry), found)
                # Of any kind: a value of its own may raise whatever it likes.
                except Exception as error:
                    self._left_out(f"schedule[{index}] of {task.task_name}", error)
        return list(found.values())

    def _tasks(self) -> list[Task[..., Any]]:
        # One task may be registered by several names.
        tasks = (task for task in self.broker.tasks.values() if isinstance(task, Task))
        return list(dict.fromkeys(tasks))

    def _left_out(self, what: str, error: Exception) -> None:
        """Log what is wrong, the first time that it is seen."""
        problem = f"{what} is left out: {error or type(error).__name__}"
        if problem not in self._told:
            self._told.add(problem)
            log.error("%s", problem)


def _not_a_list(value: object) -> InvalidScheduleError:
    return InvalidScheduleError(f'{_shown(value)}: give a list, like [{{"cron": "0 9 * * *"}}]')


def _shown(value: object) -> str:
    """A lone value as it is; of an array or an object, which may hold arguments, only that."""
    return shorten(value) if isinstance(value, str | int | None) else kind(value)


def _add(schedule: ScheduledTask, found: dict[str, ScheduledTask]) -> None:
    twin = found.get(schedule.schedule_id)
    if twin is not None:
        raise InvalidScheduleError(
            f"schedule_id {schedule.schedule_id}: it is taken by one of {twin.task_name}; "
            "give another schedule_id"
        )
    found[schedule.schedule_id] = schedule


def _read(task: Task[..., Any], entry: Any) -> ScheduledTask:
    """The schedule that an entry declares; InvalidScheduleError says what is wrong with it."""
    if not isinstance(entry, dict):
        raise InvalidScheduleError(f'{_shown(entry)}: give a dict, like {{"cron": "0 9 * * *"}}')
    for key in entry:
        if key not in _FIELDS:
            raise InvalidScheduleError(f"unknown key {shorten(key)}: give any of {_ACCEPTED}")
    fields = entry | {key: as_json(entry[key], key) for key in _JSON_FIELDS if key in entry}
    labels = fields.get("labels") or {}
    if isinstance(labels, dict):
        fields["labels"] = {**task.labels, **labels}
    schedule = ScheduledTask(task_name=task.task_name, **fields)
    if entry.get("schedule_id") is None:
        schedule = replace(schedule, schedule_id=_derived_id(schedule))
    return schedule


def _derived_id(schedule: ScheduledTask) -> str:
    # Without what is not set, so that a field that ScheduledTask gains one day changes no id.
    content = {name: value for name, value in schedule.content().items() if value is not None}
    return hashlib.sha256(dumps(content).encode()).hexdigest()[:_ID_DIGITS]

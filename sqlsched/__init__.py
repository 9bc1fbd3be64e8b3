"""sqlsched is to scheduling what SQLite is to databases."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlsched.abc import Broker as Broker
    from sqlsched.abc import RunOutcome as RunOutcome
    from sqlsched.abc import ScheduleSource as ScheduleSource
    from sqlsched.brokers.in_process import InProcessBroker as InProcessBroker
    from sqlsched.brokers.subprocess import SubprocessBroker as SubprocessBroker
    from sqlsched.created_schedule import CreatedSchedule as CreatedSchedule
    from sqlsched.engine.scheduler import Scheduler as Scheduler
    from sqlsched.exceptions import BrokerError as BrokerError
    from sqlsched.exceptions import DuplicateScheduleError as DuplicateScheduleError
    from sqlsched.exceptions import InvalidScheduleError as InvalidScheduleError
    from sqlsched.exceptions import ScheduledTaskCancelledError as ScheduledTaskCancelledError
    from sqlsched.exceptions import ScheduleNotFoundError as ScheduleNotFoundError
    from sqlsched.exceptions import SendTaskError as SendTaskError
    from sqlsched.exceptions import SqlschedError as SqlschedError
    from sqlsched.exceptions import StorageError as StorageError
    from sqlsched.kicker import Kicker as Kicker
    from sqlsched.run_context import CurrentRun as CurrentRun
    from sqlsched.run_context import current_run as current_run
    from sqlsched.scheduled_task import ScheduledTask as ScheduledTask
    from sqlsched.scheduled_task import TaskMessage as TaskMessage
    from sqlsched.sources.label import LabelScheduleSource as LabelScheduleSource
    from sqlsched.sources.sqlite import SqliteScheduleSource as SqliteScheduleSource
    from sqlsched.task import Task as Task

# Imported when first used (PEP 562): a command or a task pays only for what it needs.
_HOMES = {
    "Broker": "abc",
    "BrokerError": "exceptions",
    "CreatedSchedule": "created_schedule",
    "CurrentRun": "run_context",
    "DuplicateScheduleError": "exceptions",
    "InProcessBroker": "brokers.in_process",
    "InvalidScheduleError": "exceptions",
    "Kicker": "kicker",
    "LabelScheduleSource": "sources.label",
    "RunOutcome": "abc",
    "ScheduleNotFoundError": "exceptions",
    "ScheduleSource": "abc",
    "ScheduledTask": "scheduled_task",
    "ScheduledTaskCancelledError": "exceptions",
    "Scheduler": "engine.scheduler",
    "SendTaskError": "exceptions",
    "SqliteScheduleSource": "sources.sqlite",
    "SqlschedError": "exceptions",
    "StorageError": "exceptions",
    "SubprocessBroker": "brokers.subprocess",
    "Task": "task",
    "TaskMessage": "scheduled_task",
    "current_run": "run_context",
}

__all__ = [
    "Broker",
    "BrokerError",
    "CreatedSchedule",
    "CurrentRun",
    "DuplicateScheduleError",
    "InProcessBroker",
    "InvalidScheduleError",
    "Kicker",
    "LabelScheduleSource",
    "RunOutcome",
    "ScheduleNotFoundError",
    "ScheduleSource",
    "ScheduledTask",
    "ScheduledTaskCancelledError",
    "Scheduler",
    "SendTaskError",
    "SqliteScheduleSource",
    "SqlschedError",
    "StorageError",
    "SubprocessBroker",
    "Task",
    "TaskMessage",
    "current_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sqlsched' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sqlsched.{_HOMES[name]}"), name)

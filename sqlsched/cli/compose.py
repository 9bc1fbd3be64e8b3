"""What `sqlsched run` runs: the user's Scheduler, or one made of a database and a broker."""

import hashlib  # noqa: F401 - a run imports it late, when the application's directory comes first
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlsched.abc import Broker
from sqlsched.cli.environment import TaskEnvironment
from sqlsched.cli.invocation import Invocation, say
from sqlsched.engine.scheduler import Scheduler
from sqlsched.exceptions import BrokerError, InvalidScheduleError, SqlschedError
from sqlsched.importing import import_object
from sqlsched.serialization import shorten
from sqlsched.sources.sqlite import SqliteScheduleSource


def compose(
    invocation: Invocation,
    scheduler_path: str | None,
    broker_name: str | None,
    app_dir: Path,
    concurrency: int | None,
    environment: TaskEnvironment,
) -> Scheduler:
    """The scheduler to run, on a database that can be written to."""
    if scheduler_path or ":" in (broker_name or ""):
        environment.adopt()  # what is imported now may look at it
    if scheduler_path is None:
        broker = find_broker(
            "subprocess" if broker_name is None else broker_name, app_dir, concurrency
        )
        environment.give(broker)
        _make_ready(invocation)
        return Scheduler(broker, [SqliteScheduleSource(invocation.path)])
    _import_from(app_dir)
    scheduler = _find_scheduler(invocation, scheduler_path)
    if broker_name is not None:
        broker = find_broker(broker_name, app_dir, concurrency)
        broker.tasks.update(scheduler.broker.tasks | broker.tasks)
        scheduler.broker = broker
    environment.give(scheduler.broker)
    invocation.db = scheduler.database
    _make_ready(invocation)
    return scheduler


def _make_ready(invocation: Invocation) -> None:
    """Make the database; what is wrong with it is said before anything starts."""
    new = not invocation.path.exists()
    with invocation.writing(create=True):
        if new:
            say(f"made a new database, {invocation.path}; `sqlsched add` fills it")


def _find_scheduler(invocation: Invocation, path: str) -> Scheduler:
    if ":" not in path:
        raise InvalidScheduleError(f"{shorten(path)}: give MODULE:OBJECT, like shop.app:scheduler")
    with _default_database(invocation.db):
        found = import_object(path)
        if inspect.isfunction(found):
            found = _call(found, path)
    if not isinstance(found, Scheduler):
        raise SqlschedError(
            f"{path} is of type {type(found).__name__}; give a sqlsched Scheduler, or a function "
            "that returns one"
        )
    given = invocation.db
    if given is not None and given.resolve() != found.database.resolve():
        raise InvalidScheduleError(
            f"--db {shorten(str(given))}: {path} has the database {found.database}; leave --db out"
        )
    return found


@contextmanager
def _default_database(path: Path | None) -> Iterator[None]:
    """For a Scheduler that names no database itself, `path` is what it finds."""
    before = os.environ.get("SQLSCHED_DB")
    if path is not None:
        os.environ["SQLSCHED_DB"] = str(path)
    try:
        yield
    finally:
        os.environ.pop("SQLSCHED_DB", None)
        if before is not None:
            os.environ["SQLSCHED_DB"] = before


def _call(factory: Any, path: str) -> Any:
    try:
        made = factory()
    except SqlschedError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise SqlschedError(f"{path}() raised {type(error).__name__}: {text}") from error
    if inspect.iscoroutine(made):
        made.close()
        raise SqlschedError(f"{path} is an async function; give one that returns a Scheduler")
    return made


def find_broker(name: str, app_dir: Path, concurrency: int | None) -> Broker:
    """The broker that `--broker` names."""
    if name == "subprocess":
        from sqlsched.brokers.subprocess import SubprocessBroker

        return SubprocessBroker(app_dir)
    if name == "in-process":
        from sqlsched.brokers.in_process import InProcessBroker

        _import_from(app_dir)
        return InProcessBroker(concurrency=concurrency or 64, app_dir=app_dir)
    if ":" not in name:
        raise InvalidScheduleError(
            f"--broker {shorten(name)}: give subprocess, in-process or MODULE:OBJECT"
        )
    _import_from(app_dir)
    found = import_object(name)
    broker = found if isinstance(found, Broker) else _wrapped(found)
    if broker is None:
        raise BrokerError(
            f"--broker {name} is of type {type(found).__name__}; give a sqlsched Broker, a taskiq "
            "AsyncBroker or a Celery app"
        )
    return broker


def _import_from(app_dir: Path) -> None:
    """Let this process import the application, once all of ours is imported: a `logging.py` in its
    directory is for its own tasks. Tasks in processes of their own need nothing of it here."""
    path = str(app_dir.resolve())
    if path not in sys.path[:1]:
        sys.path.insert(0, path)


def _wrapped(found: Any) -> Broker | None:
    """The broker for a queue's own object. Nothing is imported that its owner has not imported."""
    if "taskiq" in sys.modules and isinstance(found, sys.modules["taskiq"].AsyncBroker):
        from sqlsched.brokers.taskiq import TaskiqBroker

        return TaskiqBroker(found)
    if "celery" in sys.modules and isinstance(found, sys.modules["celery"].Celery):
        from sqlsched.brokers.celery import CeleryBroker

        return CeleryBroker(found)
    return None

"""`exactly_once` for Celery tasks."""

from collections.abc import Callable
from typing import Any, NoReturn

from sqlsched.exactly_once import Function, Seen, guarded

try:
    from celery import current_task
    from celery.exceptions import Ignore
except ImportError as error:
    raise ImportError(
        "sqlsched.exactly_once.celery needs celery: pip install 'sqlsched[celery]'"
    ) from error


def exactly_once(seen: Seen) -> Callable[[Function], Function]:
    """Decorate what `@app.task` gets; see `sqlsched.exactly_once`.

    A repeat is ignored in Celery's sense, so that the result of the first stays. Called without a
    message, the function just runs.
    """
    return lambda function: guarded(function, seen, _task_id, _ignore)


def _task_id(_kwargs: dict[str, Any]) -> str | None:
    task_id: str | None = current_task.request.id if current_task else None
    return task_id


def _ignore() -> NoReturn:
    raise Ignore

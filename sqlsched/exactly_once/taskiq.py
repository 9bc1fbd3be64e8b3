"""`exactly_once` for taskiq tasks."""

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from sqlsched.exactly_once import Function, Seen, guarded

try:
    from taskiq import Context, TaskiqDepends
    from taskiq.exceptions import NoResultError
except ImportError as error:
    raise ImportError(
        "sqlsched.exactly_once.taskiq needs taskiq: pip install 'sqlsched[taskiq]'"
    ) from error

_PARAMETER = "sqlsched_context"


def exactly_once(seen: Seen) -> Callable[[Function], Function]:
    """Decorate what `@broker.task` gets; see `sqlsched.exactly_once`.

    A repeat ends without a result, so that the result of the first stays. Called without a
    message, the function just runs. Not for workers with `--use-process-pool`.
    """

    def decorate(function: Function) -> Function:
        wrapper: Any = guarded(function, seen, _task_id, _no_result)
        wrapper.__signature__ = _with_context(wrapper.__signature__)
        decorated: Function = wrapper
        return decorated

    return decorate


def _with_context(signature: inspect.Signature) -> inspect.Signature:
    """A parameter that taskiq fills in: the message is known to a dependency only."""
    parameters = list(signature.parameters.values())
    last = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        last -= 1
    context = inspect.Parameter(
        _PARAMETER, inspect.Parameter.KEYWORD_ONLY, default=TaskiqDepends(Context)
    )
    return signature.replace(parameters=[*parameters[:last], context, *parameters[last:]])


def _task_id(kwargs: dict[str, Any]) -> str | None:
    context = kwargs.pop(_PARAMETER, None)
    return context.message.task_id if isinstance(context, Context) else None


def _no_result() -> NoReturn:
    raise NoResultError

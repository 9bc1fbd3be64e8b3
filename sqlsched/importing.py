"""From `package.module:object.attribute` to the object; errors say which part is missing."""

import importlib
from collections.abc import Callable
from typing import Any

from sqlsched.exceptions import BrokerError


def import_object(path: str) -> Any:
    """Import the module before the colon and walk the attributes after it.

    The application's directory is on `sys.path` already. BrokerError names what is missing: the
    module, the object in it, or, as its cause, what the module raised while it was imported.
    """
    module_name, _, attributes = path.partition(":")
    if not module_name or not attributes:
        raise BrokerError(f"{path!r} is not package.module:object, like shop.jobs:send_mail")
    found = _import_module(module_name)
    walked = module_name
    for separator, name in zip(
        ":" + "." * attributes.count("."), attributes.split("."), strict=True
    ):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise BrokerError(f"there is no {name!r} in {walked}") from None
        walked += separator + name
    return found


def import_task(path: str) -> Callable[..., Any]:
    """Import something that can be called; BrokerError if it cannot."""
    found = import_object(path)
    if not callable(found):
        raise BrokerError(f"{path} is of type {type(found).__name__}, which cannot be called")
    function: Callable[..., Any] = found
    return function


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise BrokerError(f"there is no module {error.name!r}") from None
        raise BrokerError(_failed(name, error)) from error
    except (Exception, SystemExit) as error:
        raise BrokerError(_failed(name, error)) from error


def _failed(name: str, error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"the module {name!r} raised {type(error).__name__} on import: {text}"

"""How an exception that ended a task is told: a line for the ledger, a traceback for its output."""

import traceback
import unicodedata  # noqa: F401 - traceback imports it late, when an application may have its own
from types import TracebackType

from sqlsched.brokers.wire import MAX_ERROR
from sqlsched.exceptions import BrokerError

_NOT_THE_USERS = (
    *("sqlsched.brokers.", "sqlsched.importing", "sqlsched.task"),
    *("asyncio.", "importlib.", "contextlib"),
)


class Failure:
    """What a task's exception comes to. `line` is None where it was no failure: `sys.exit(0)`."""

    def __init__(self, error: BaseException) -> None:
        self.line: str | None
        if isinstance(error, SystemExit):
            self.line, self.text, self.exit_code = _exit(error.code)
        else:
            self.line, self.text, self.exit_code = one_line(error), _traceback(error), 1

    @classmethod
    def of_import(cls, error: BrokerError) -> "Failure":
        """A task that could not be found: its module's own traceback is what helps, ours is not."""
        failure = cls(error)
        failure.line = printable(str(error))
        shown = _traceback(error.__cause__) if error.__cause__ else ""
        failure.text = f"{shown}{failure.line}\n"
        return failure


def one_line(error: BaseException) -> str:
    """`ValueError: no such user`, on one line and printable, whatever the exception holds."""
    try:
        text = str(error)
    except Exception:  # an exception that cannot even be printed must still be recorded
        text = "(its text cannot be shown)"
    name = type(error).__name__
    return printable(f"{name}: {text}" if text else name)


def printable(text: str) -> str:
    """One line, without control characters, not longer than a report may be."""
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line[:MAX_ERROR]


def _exit(code: object) -> tuple[str | None, str, int]:
    # As the interpreter does at the end of a script: None is 0, an int is the status, and
    # anything else is printed and counts as 1.
    if code is None:
        return None, "", 0
    if isinstance(code, int):
        status = code & 0xFF
        return (f"exit status {status}" if status else None), "", status
    return printable(str(code)) or "exit status 1", f"{code}\n", 1


def _traceback(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and _is_plumbing(trace):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _is_plumbing(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_globals.get("__name__") or ""
    return f"{name}.".startswith(_NOT_THE_USERS)

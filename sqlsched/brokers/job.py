"""What a run's own process does, from the fork to its last breath. Standard library only."""

import asyncio  # 40 ms for each task that needs it; having it ready costs the others 0.7 ms
import atexit
import gc
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn, TextIO

from sqlsched.brokers.failure import Failure, one_line, printable
from sqlsched.exceptions import BrokerError
from sqlsched.importing import import_task
from sqlsched.run_context import CurrentRun, running

# `sqlsched.scheduled_task` names these for the scheduler's side; importing it here would bring
# cron and time zones into every run.
_SHELL_TASK = "sqlsched:shell"
_EXEC_TASK = "sqlsched:exec"

_REPORT_FD = 3
_MOST_FDS = 64
"""The warm process holds its socket, its wakeup pipe and a few requests' pipes: never this many."""
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
"""What a shell says: POSIX, Shell Command Language, 2.8.2."""

_End = tuple[str | None, int]
"""How a run ended: a line about what went wrong, and the exit status."""


class Job:
    """A request, in the process that was forked for it."""

    def __init__(self, payload: bytes, output_fd: int, report_fd: int) -> None:
        self._payload = payload
        _take_over(output_fd, report_fd)
        self._pid = os.getpid()
        self._pipe = _identity(_REPORT_FD)

    def run(self) -> int:
        """Do it; the exit status. A shell line or a command replaces this process instead."""
        line, status = self._do()
        if line and self._may_report():
            with suppress(OSError):  # the scheduler may be gone, and then nobody asks
                os.write(_REPORT_FD, line.encode(errors="backslashreplace"))
        return status

    def _may_report(self) -> bool:
        """Not who was forked by the task and comes out of it beside the run; nor to a file that
        the task has opened where our pipe was until it closed that."""
        return os.getpid() == self._pid and _identity(_REPORT_FD) == self._pipe

    def _do(self) -> _End:
        try:
            request = json.loads(self._payload)
            os.environ.update(request["environment"])
            os.chdir(request["app_dir"])
        except OSError as error:
            return _fail(f"cannot enter the application's directory: {printable(str(error))}", 1)
        name, args = request["task_name"], request["args"]
        if name == _SHELL_TASK:
            return _execute(["/bin/sh", "-c", *args])
        if name == _EXEC_TASK:
            return _execute(args)
        sys.argv[:] = [name]
        sys.path.insert(0, request["app_dir"])
        with running(CurrentRun.from_environment(os.environ)):
            return _run_task(name, args, request["kwargs"])


def leave(status: int, preloaded: set[str]) -> NoReturn:
    """End as the interpreter does: wait for threads, run atexit handlers, let go, flush.

    Not by a plain `sys.exit`: that takes the standard library apart too, most of it in pages
    shared with the warm process, which costs five times the fork. What the task imported is
    taken apart, so that a file it left open is written out.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing's children do
    atexit._run_exitfuncs()
    for module in [m for name, m in sys.modules.items() if name not in preloaded]:
        _take_apart(module)
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a task may have closed or replaced it
            stream.flush()
    os._exit(status)


def _take_apart(module: object) -> None:
    # The last name first: what was made of an import goes before the import. Not left to the
    # collector, which may close a file before the buffer that still has text for it.
    if isinstance(module, ModuleType):
        while module.__dict__:
            module.__dict__.popitem()


def _take_over(output_fd: int, report_fd: int) -> None:
    os.setsid()
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    if report_fd != _REPORT_FD:
        os.dup2(report_fd, _REPORT_FD)
    os.set_inheritable(_REPORT_FD, False)
    os.closerange(_REPORT_FD + 1, _MOST_FDS)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    for fd, name in (1, "stdout"), (2, "stderr"):
        stream = _open_stream(fd)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    gc.enable()


def _open_stream(fd: int) -> TextIO:
    # Each line goes out as it is printed, and no text is ever a reason to fail. Not a
    # `reconfigure` of what is there: that was made for another kind of file, and seeks.
    return open(fd, "w", 1, "utf-8", "backslashreplace", closefd=False)


def _run_task(name: str, args: list[Any], kwargs: dict[str, Any]) -> _End:
    try:
        function = import_task(name)
    except BrokerError as error:
        return _failed(Failure.of_import(error))
    try:
        _call(function, args, kwargs)
    except BaseException as error:
        return _failed(Failure(error))
    return None, 0


def _call(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    result = function(*args, **kwargs)
    if inspect.isawaitable(result):
        asyncio.run(_wait_for(result))


async def _wait_for(result: Any) -> None:
    await result


def _execute(command: list[Any]) -> _End:
    """Become another program; returns only if that failed."""
    argv = [str(part) for part in command]
    # Python ignores these two at its start, and an ignored signal stays ignored across exec.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # running what the user scheduled, without a shell
    except (FileNotFoundError, NotADirectoryError):
        return _fail(f"there is no program {argv[0]!r}", _NOT_FOUND)
    except OSError as error:
        return _fail(f"cannot run {argv[0]!r}: {error.strerror}", _NOT_EXECUTABLE)
    except (IndexError, ValueError) as error:
        return _fail(f"cannot run {argv[:1]!r}: {one_line(error)}", _NOT_EXECUTABLE)


def _fail(line: str, status: int) -> _End:
    print(line, file=sys.stderr)  # noqa: T201  # the run's own output
    return line, status


def _failed(failure: Failure) -> _End:
    with suppress(Exception):  # a task may have closed or replaced it
        sys.stderr.write(failure.text)
    return failure.line, failure.exit_code


def _identity(fd: int) -> tuple[int, int] | None:
    """Which file a descriptor is; None if it is none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino

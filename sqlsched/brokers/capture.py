"""Sends what a task prints to its own run's buffer, in a process where many things print.

`sys.stdout` and `sys.stderr` are replaced by routers that ask a context variable whose text this
is. What belongs to no run goes to the stream that was there before.
"""

import sys
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, ClassVar

from sqlsched.output import OutputBuffer
from sqlsched.run_context import Bound

_buffer: ContextVar[OutputBuffer | None] = ContextVar("sqlsched_output", default=None)
_writing = threading.Lock()  # a run's threads may print at once, and the buffer counts


def captured(buffer: OutputBuffer) -> Bound[OutputBuffer | None]:
    """Inside the block, and in what it starts with its context, prints go to `buffer`."""
    return Bound(_buffer, buffer)


def emit(buffer: OutputBuffer, data: bytes) -> None:
    """Write to a run's buffer from any thread."""
    with _writing:
        buffer.write(data)


class Routers:
    """The routers in place of `sys.stdout` and `sys.stderr`, while at least one broker is up."""

    _users: ClassVar[int] = 0

    @classmethod
    def install(cls) -> None:
        cls._users += 1
        cls.ensure()

    @staticmethod
    def ensure() -> None:
        """Stand in front again, should the host program have replaced a stream meanwhile."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if not isinstance(stream, _TextRouter):
                setattr(sys, name, _TextRouter(stream))

    @classmethod
    def remove(cls) -> None:
        cls._users -= 1
        if cls._users == 0:
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                # What somebody else put in front of ours stays, and goes on writing through it.
                if isinstance(stream, _TextRouter):
                    setattr(sys, name, stream.real)


class _Router:
    """Everything but writing is the real stream's."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def write(self, data: Any) -> int:
        buffer = _buffer.get()
        if buffer is None:
            written: int = self.real.write(data)
            return written
        emit(buffer, self.encode(data))
        return len(data)

    @staticmethod
    def encode(data: Any) -> bytes:
        return bytes(data)


class _TextRouter(_Router):
    @staticmethod
    def encode(data: str) -> bytes:
        return data.encode(errors="backslashreplace")

    @property
    def buffer(self) -> _Router:
        return _Router(self.real.buffer)

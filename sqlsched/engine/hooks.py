"""Telling people how a run ended: hooks, which are commands or tasks, and dead-man pings.

A hook gets the run as JSON on its stdin, is bounded in time, and cannot fail the run. Pings are
in the protocol of healthchecks.io: URL/start, URL, and URL/fail or URL/EXIT-STATUS, with the run
as `rid`.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from sqlsched.clock import pause
from sqlsched.field_checks import is_task_path
from sqlsched.output import OutputBuffer

log = logging.getLogger("sqlsched")

HOOK_SECONDS = 60
"""How long a hook may take."""
PING_SECONDS = 10
PING_ATTEMPTS = 3
PING_DELAY_S = 1.0
BODY_BYTES = 10_000
"""What healthchecks.io keeps of a ping's body, at least."""

_TAIL_CHARACTERS = 200
_CALL = """\
import sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
from sqlsched.hook_task import main
main(sys.argv[3])
"""
_PACKAGE_ROOT = str(Path(__file__).parents[2])


class HookError(Exception):
    """A hook or a ping did not do what it should; nothing else depends on it."""


async def run_hook(
    hook: str, document: dict[str, Any], app_dir: str, environment: Mapping[str, str]
) -> None:
    """Run a hook to its end, a minute at most; HookError if it failed."""
    with _Output() as printed, tempfile.TemporaryFile() as stdin:
        stdin.write(f"{json.dumps(document)}\n".encode())
        stdin.seek(0)
        process = await asyncio.create_subprocess_exec(
            *_command(hook, app_dir),
            cwd=app_dir,
            env={**environment, "SQLSCHED_EVENT": str(document["event"])},
            stdin=stdin,
            stdout=printed.write_fd,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(HOOK_SECONDS):
                await process.wait()
        except TimeoutError:
            raise HookError(f"it took more than {HOOK_SECONDS} s and was stopped") from None
        finally:
            with suppress(ProcessLookupError):  # what it left in its process group ends with it
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if process.returncode:
            raise HookError(f"exit status {process.returncode}: {printed.last_line()}")


class _Output:
    """What a hook prints, read as it comes: it may print for ever, and what it leaves
    running may hold the pipe."""

    def __enter__(self) -> "_Output":
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._printed = OutputBuffer()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_fd, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._read_fd)
        os.close(self._read_fd)
        os.close(self.write_fd)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._read_fd, 1 << 16)
        except BlockingIOError:
            return False
        self._printed.write(chunk)
        return bool(chunk)

    def last_line(self) -> str:
        """As far as it is kept."""
        for _ in range(16):  # a pipe holds no more
            if not self._read():
                break
        last = self._printed.text().strip().rpartition("\n")[2]
        return last[-_TAIL_CHARACTERS:]


def _command(hook: str, app_dir: str) -> list[str]:
    if is_task_path(hook):
        return [sys.executable, "-P", "-c", _CALL, app_dir, _PACKAGE_ROOT, hook]
    return ["/bin/sh", "-c", hook]


def ping_url(url: str, what: str, task_id: str) -> str:
    """The URL of a ping: `what` is "start", "fail", an exit status, or "" for success; HookError
    if somebody stored one that is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise HookError(f"a URL of {len(url)} characters is none") from None
    query = f"{parts.query}&" if parts.query else ""
    path = f"{parts.path.rstrip('/')}/{what}" if what else parts.path
    return urlunsplit(parts._replace(path=path, query=f"{query}rid={UUID(hex=task_id)}"))


async def ping(url: str, body: bytes = b"") -> None:
    """Send a ping, again if it does not arrive; HookError if it never did."""
    await asyncio.to_thread(_ping, url, body[-BODY_BYTES:])


def _ping(url: str, body: bytes) -> None:
    from http.client import HTTPException  # late: with ssl, it is half of what `run` would import

    for left in reversed(range(PING_ATTEMPTS)):
        try:
            _post(url, body)
            return
        except OSError as error:
            # Of the URL, the host only: whoever knows the rest can ping.
            problem = f"{urlsplit(url).hostname}: {getattr(error, 'reason', None) or error}"
        except (ValueError, HTTPException) as error:
            problem = f"{urlsplit(url).hostname}: {type(error).__name__}"
        if left:
            pause(PING_DELAY_S)  # in real time: a clock that jumps makes no network quicker
    raise HookError(problem)


def _post(url: str, body: bytes) -> None:
    from urllib.request import Request, urlopen

    request = Request(url, data=body, headers={"Content-Type": "text/plain; charset=utf-8"})  # noqa: S310 - http and https only, as ScheduledTask checks
    with urlopen(request, timeout=PING_SECONDS):  # noqa: S310
        pass

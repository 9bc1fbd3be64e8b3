"""What `run` gives tasks as their environment: its own, some of it, and what is in files.

It reaches them as any environment does. No value is ever in a command line, in the database or in
the log, nor in a message of ours: an error names a file and a line, and no more.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sqlsched.cli.invocation import say
from sqlsched.exceptions import InvalidScheduleError, SqlschedError
from sqlsched.serialization import shorten

if TYPE_CHECKING:
    from sqlsched.abc import Broker

F = TypeVar("F", bound=Callable[..., Any])

BASICS = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"}
PREFIXES = ("LC_", "SQLSCHED_")
"""What tasks have of the environment of `run` even where `--env` names all that they may."""

_NAME = re.compile(rb"[^\s=\0]+")
_LARGEST = 1024 * 1024
"""Bytes; execve takes no more than a few of these."""
_BOM = b"\xef\xbb\xbf"


def environment_options(command: F) -> F:
    """Give a command `--env` and `--env-file`; they arrive as `env_names` and `env_files`."""
    command = click.option(
        *("--env", "env_names"),
        metavar="NAME",
        multiple=True,
        help="Pass tasks only this variable, and PATH and such.",
    )(command)
    return click.option(
        *("--env-file", "env_files"),
        metavar="FILE",
        multiple=True,
        type=click.Path(path_type=Path),
        help="NAME=VALUE lines for the environment of tasks.",
    )(command)


@dataclass(frozen=True)
class TaskEnvironment:
    """What `run` was told of it; false if nothing."""

    names: tuple[str, ...] = ()
    """Those of `run` that tasks may have beside the basics; none: they have all."""
    given: dict[str, str] = field(default_factory=dict, repr=False)
    """What the files say."""

    def __bool__(self) -> bool:
        return bool(self.names or self.given)

    def of_children(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of tasks that are processes of their own, and of hooks."""
        allowed = BASICS.union(self.names)
        own = {
            name: value
            for name, value in inherited.items()
            if not self.names or name in allowed or name.startswith(PREFIXES)
        }
        return own | self.given

    def adopt(self) -> None:
        """Take what the files say into this process, for what it imports and runs itself."""
        os.environ.update(self.given)

    def give(self, broker: "Broker") -> None:
        """See to it that a broker's tasks have it; UsageError if that cannot be."""
        from sqlsched.brokers.subprocess import SubprocessBroker

        if not self:
            return
        if isinstance(broker, SubprocessBroker):
            inherited = os.environ if broker.environment is None else broker.environment
            broker.environment = self.of_children(inherited)
        elif not broker.reports_completion:
            raise click.UsageError(
                "--env and --env-file: a queue's workers have an environment of their own; set it "
                "where they are started"
            )
        elif self.names:
            raise click.UsageError(
                f"--env {self.names[0]}: tasks in this process have its whole environment; leave "
                "it out, or use --broker subprocess"
            )
        else:
            self.adopt()


def read_environment(files: tuple[Path, ...], names: tuple[str, ...]) -> TaskEnvironment:
    """Read the options; InvalidScheduleError names what is wrong, and never a value."""
    given: dict[str, str] = {}
    for name in names:
        _check_name(name)
    for path in files:
        given |= _read_file(path)
    return TaskEnvironment(names, given)


def _check_name(text: str) -> None:
    name, equals, _ = text.partition("=")
    if equals:
        raise InvalidScheduleError(
            f"--env {shorten(name)}=…: a value in a command line can be read by others on this "
            "machine; give the NAME alone, or --env-file FILE"
        )
    if not _NAME.fullmatch(os.fsencode(name)):
        raise InvalidScheduleError(f"--env {shorten(text)}: give the name of a variable")
    if name not in os.environ:
        say(f"Warning: --env {name}: there is no such variable here, so tasks will not have it")


def _read_file(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            _check_file(path, os.fstat(file.fileno()))
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise _wrong(path, f": {error.strerror}") from None
    if len(data) > _LARGEST:
        raise _wrong(path, f": more than {_LARGEST} bytes; give NAME=VALUE lines")
    return parse_lines(data, path)


def parse_lines(data: bytes, path: Path) -> dict[str, str]:
    """Read NAME=VALUE lines as Docker does: nothing is quoted or expanded, `#` begins a comment."""
    found: dict[str, str] = {}
    for number, line in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
        content = line.removesuffix(b"\r").lstrip()
        if content and not content.startswith(b"#"):
            name, equals, value = content.partition(b"=")
            if not equals or not _NAME.fullmatch(name) or b"\0" in value:
                raise _wrong(path, f" line {number}: give NAME=VALUE, without blanks in the name")
            found[os.fsdecode(name)] = os.fsdecode(value)
    return found


def _wrong(path: Path, problem: str) -> InvalidScheduleError:
    return InvalidScheduleError(f"--env-file {shorten(str(path))}{problem}")


def _check_file(path: Path, status: os.stat_result) -> None:
    """Refuse a file that others can change, and warn of one that they can read; not a pipe."""
    from sqlsched.storage import trust

    if not stat.S_ISREG(status.st_mode):
        return
    problem = trust.problem_of(status, (0,) if status.st_uid == 0 else ())
    if problem is None:
        directory = path.resolve().parent.stat()
        problem = trust.problem_of_directory(directory, status.st_uid)
        problem = problem and f"lies in a directory that {problem}"
    if problem:
        raise SqlschedError(f"--env-file {path} {problem}")
    # A group is how we are let into a file of root's; into one of our own, it lets others.
    group = stat.S_IRGRP if status.st_uid == os.geteuid() else 0
    if status.st_mode & (stat.S_IROTH | group):
        say(f"Warning: --env-file {path} can be read by others than you; chmod it to 600")

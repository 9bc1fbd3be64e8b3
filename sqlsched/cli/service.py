"""`sqlsched systemd`: the unit that makes a service of `sqlsched run`."""

import os
import pwd
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sqlsched.cli.run import read_durations, run
from sqlsched.exceptions import InvalidScheduleError, SqlschedError
from sqlsched.serialization import shorten

if TYPE_CHECKING:
    from sqlsched.cli.invocation import Invocation

_STOP_S = 30
"""What a stop may take beyond --drain: ending what still runs, and recording it."""
_SHARED = ("/tmp", "/var/tmp")  # noqa: S108 - tasks do use them
_SAFE = re.compile(r"[\w@+=:,./-]+", re.ASCII)


@click.command()
@click.option("--user", is_flag=True, help="For your own service manager, not the system's.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF run]")
@click.pass_context
def systemd(ctx: click.Context, user: bool, arguments: tuple[str, ...]) -> None:
    """Print a systemd unit that runs `sqlsched run`, with this database and this Python, as you.

    What stands behind -- are options of `run`.

    \b
    Example: sqlsched --db /srv/jobs.db systemd -- --app-dir /srv/shop --drain 5m
    """
    invocation: Invocation = ctx.obj
    serving = run.make_context("run", list(arguments), parent=ctx.parent)
    given = serving.params
    _check(given, invocation)
    drain_s = read_durations(given)["drain_seconds"]
    database, app_dir = invocation.path.resolve(), given["app_dir"].resolve()
    for directory, what in ((database.parent, "--db"), (app_dir, "--app-dir")):
        if not directory.is_dir():
            raise InvalidScheduleError(f"{what}: there is no directory {shorten(str(directory))}")
    words = [*_program(), "--db", str(database), *_words(serving, app_dir)]
    me = _me()
    sandbox = "" if user else _sandbox(me, database.parent, app_dir)
    unit = (_USER_UNIT if user else _SYSTEM_UNIT).format(
        database=str(database).replace("%", "%%"),
        command=" ".join(_quoted(word, "$") for word in words),
        user=me.pw_name,
        drain=given["drain"],
        stop_s=drain_s + _STOP_S,
        sandbox=sandbox,
    )
    click.echo(unit, nl=False)


def _check(given: dict[str, Any], invocation: "Invocation") -> None:
    """Refuse what makes no service."""
    for flag in ("once", "until_idle"):
        if given[flag]:
            raise click.UsageError(
                f"--{flag.replace('_', '-')}: a service runs until it is stopped"
            )
    if given["scheduler_path"] and invocation.db is None:
        raise click.UsageError(
            f"give --db PATH, the database of {shorten(given['scheduler_path'])}: "
            "the unit says where it may write"
        )


_SERVICE = """\
[Service]
Type=notify
ExecStart={command}
Restart=on-failure
RestartSec=5s
# A mistake in the command line does not go away.
RestartPreventExitStatus=2
# A loop that has not turned for so long is stuck.
WatchdogSec=2min
# At a stop only sqlsched itself is told, so that tasks may end (--drain {drain}).
KillMode=mixed
TimeoutStopSec={stop_s}s
# A task that the kernel kills for want of memory is a failed run, and not the end of the service.
OOMPolicy=continue
"""

_SYSTEM_UNIT = f"""\
# Save it as /etc/systemd/system/sqlsched.service, then:
#   systemctl daemon-reload && systemctl enable --now sqlsched

[Unit]
Description=sqlsched run, {{database}}
Wants=time-sync.target
After=time-sync.target

{_SERVICE}User={{user}}
{{sandbox}}
[Install]
WantedBy=multi-user.target
"""

_USER_UNIT = f"""\
# Save it as ~/.config/systemd/user/sqlsched.service, then:
#   systemctl --user daemon-reload && systemctl --user enable --now sqlsched
# To run while you are logged out, too: loginctl enable-linger {{user}}

[Unit]
Description=sqlsched run, {{database}}

{_SERVICE}# Tasks cannot gain rights: remove this if they use sudo.
NoNewPrivileges=yes
{{sandbox}}
[Install]
WantedBy=default.target
"""

_SANDBOX = """
# What tasks may do: they run in here, too. They cannot gain rights; remove this if they use sudo.
NoNewPrivileges=yes
# They can write to these places and no others; add those of yours.
ProtectSystem=strict
ReadWritePaths={places}
# Where no task shares files in /tmp with others: PrivateTmp=yes
"""

_ROOT = """
# As root, tasks may do what root may, and nothing here keeps them from it. Another User= is better.
"""


def _sandbox(me: pwd.struct_passwd, *directories: Path) -> str:
    """What real tasks can live with: root's exist to change the system, others' write at home."""
    if me.pw_uid == 0:
        return _ROOT
    places = [*dict.fromkeys(map(str, directories)), f"-{me.pw_dir}", *_SHARED]
    return _SANDBOX.format(places=" ".join(map(_quoted, places)))


def _me() -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:
        raise SqlschedError(f"user {os.geteuid()} has no name, and a unit wants one") from None


def _program() -> list[str]:
    """This program, by absolute paths. With -P no module of the app-dir takes the place of ours."""
    from zipfile import is_zipfile

    started = Path(sys.argv[0]).resolve()
    if is_zipfile(started):
        return [sys.executable, str(started)]
    return [sys.executable, "-P", "-m", "sqlsched"]


def _words(serving: click.Context, app_dir: Path) -> Iterator[str]:
    """The call of `run`, with what was given to it, each option in its long form."""
    yield "run"
    for parameter in serving.command.params:
        name = str(parameter.name)
        if name == "app_dir":
            yield from ("--app-dir", str(app_dir))
        elif serving.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = serving.params[name]
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(parameter, click.Option):
                    yield parameter.opts[0]
                if not isinstance(one, bool):
                    yield str(one.resolve() if isinstance(one, Path) else one)


def _quoted(word: str, doubled: str = "") -> str:
    """A word as unit files have it: `%` is doubled everywhere, `$` in commands."""
    if not word.isprintable():
        raise SqlschedError(f"{shorten(word)}: a unit has no place for such a name")
    for character in f"%{doubled}":
        word = word.replace(character, character * 2)
    if _SAFE.fullmatch(word.replace("%%", "")):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""The command line: parse, call, print. `main` is the program."""

import io
import os
import sys
from collections.abc import Sequence

import click

from sqlsched.cli.commands import Commands
from sqlsched.cli.invocation import Invocation, say
from sqlsched.exceptions import InvalidScheduleError, SqlschedError

_EPILOG = """\b
Examples:
  sqlsched add --cron "*/5 * * * *" shop.jobs:send_mail
  sqlsched run"""


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--db",
    metavar="PATH",
    type=click.Path(),
    help="The database; else $SQLSCHED_DB, else ./sqlsched.db.",
)
@click.version_option(package_name="sqlsched", message="%(prog)s %(version)s")
@click.pass_obj
def cli(invocation: Invocation, db: str | None) -> None:
    """Run jobs when they should: one SQLite file, no server, no run lost or doubled."""
    from pathlib import Path  # late: half of what --help would import beside click

    invocation.db = None if db is None else Path(db)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 it could not be done, 2 wrong usage or invalid value."""
    has_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What is stored is Unicode, and JSON is in UTF-8 (RFC 8259, 8.1) whatever the locale says.
        sys.stdout.reconfigure(encoding="utf-8")
    invocation = Invocation(has_unicode=has_unicode)
    sys.exit(_main(list(sys.argv[1:] if argv is None else argv), invocation))


def _main(argv: list[str], invocation: Invocation) -> int:
    try:
        _check_encoding(argv)
        code = cli.main(argv, "sqlsched", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # who types just the name wants to see it
        return error.exit_code
    except click.ClickException as error:
        message = error.format_message().removesuffix(".")
        return _fail(message + _where_to_look(error), error.exit_code)
    except SqlschedError as error:
        return _fail(str(error), 2 if isinstance(error, InvalidScheduleError) else 1)
    except BrokenPipeError:
        # Whoever read us has seen enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    except OSError as error:
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    return int(code or 0)  # what `Exit` was raised with; None from a command that just returned


def _fail(message: str, code: int) -> int:
    say(f"Error: {message}")
    return code


def _where_to_look(error: click.ClickException) -> str:
    """Our own errors say what is accepted; those of click leave it to the help."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"; see `{context.command_path} --help`" if context else ""


def _check_encoding(argv: list[str]) -> None:
    """Refuse bytes that are no text: neither JSON nor the database could hold them."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InvalidScheduleError(f"{argument!a}: arguments are in UTF-8") from None

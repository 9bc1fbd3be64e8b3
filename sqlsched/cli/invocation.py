"""What the commands share: which database, opened how, and how results are printed."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pathlib import Path

    from sqlsched.storage.connection import Database  # imported by the commands that need it

F = TypeVar("F", bound=Callable[..., Any])
_CHUNK_ROWS = 500
_LONGEST_LINE = 1000
"""Characters; whoever mistook a file for an option would not see the error otherwise."""


class Invocation:
    """One call of the program: `db` is `--db`, `command` what stood behind `--` of add or edit,
    `has_unicode` whether whoever reads stdout expects more than ASCII."""

    def __init__(self, *, has_unicode: bool = True) -> None:
        self.db: Path | None = None
        self.command: list[str] | None = None
        self.has_unicode = has_unicode

    @property
    def path(self) -> "Path":
        """The database: `--db`, else `$SQLSCHED_DB`, else `./sqlsched.db`."""
        from sqlsched.storage.connection import default_path

        return self.db or default_path()

    @contextmanager
    def reading(self) -> Iterator["Database"]:
        """The database, to look at."""
        from sqlsched.exceptions import StorageError
        from sqlsched.storage.connection import open_for_reading
        from sqlsched.storage.errors import blaming

        with closing(open_for_reading(self.path)) as database, blaming(database):
            try:
                yield database
            except OverflowError as error:
                raise StorageError(
                    f"{self.path} was changed by other means and has a time beyond all calendars: "
                    f"{error}"
                ) from error

    @contextmanager
    def writing(self, *, create: bool = False) -> Iterator["Database"]:
        """The database, to change."""
        from sqlsched.storage.connection import open_for_writing
        from sqlsched.storage.errors import blaming

        with closing(open_for_writing(self.path, create=create)) as database:
            _warn_if_shared(self.path)
            with blaming(database):
                yield database


def _warn_if_shared(path: "Path") -> None:
    """Warn of a database that others may write to, should they come into its owner's group."""
    from sqlsched.storage import files

    if files.group_writable(path):
        say(f"Warning: {path} is writable by its group: whoever joins it can run commands as you")


def say(text: str) -> None:
    """Tell the person at the terminal; scripts read stdout and are not bothered."""
    click.echo(clipped(text, _LONGEST_LINE), err=True)


def printable(text: str) -> str:
    """One line, without what would steer a terminal."""
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line


def clipped(text: str, width: int = 40) -> str:
    """The same, of bounded length."""
    line = printable(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def json_option(command: F) -> F:
    """The option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    import json

    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_json_array(items: Iterable[Any]) -> None:
    """Print an array item by item, however many there are."""
    import json

    opening = "["
    for item in items:
        sys.stdout.write(f"{opening}\n  {json.dumps(item, ensure_ascii=False)}")
        opening = ","
    sys.stdout.write("[]\n" if opening == "[" else "\n]\n")


def print_paragraph(text: str) -> None:
    """Print sentences, as wide as the terminal; in one line to what is none."""
    line = printable(text)
    if sys.stdout.isatty():
        import shutil
        import textwrap

        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    click.echo(line)


def has_colour() -> bool:
    """Whether stdout is a terminal whose user wants colour (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not is_dumb()


def is_dumb() -> bool:
    """Whether the terminal has no cursor to move."""
    return os.environ.get("TERM", "dumb") == "dumb"


def write_whole(path: "Path", pieces: Iterable[str]) -> None:
    """Write a file, whole or not at all, whatever happens meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def print_table(rows: Iterable[Sequence[Any]], headers: Sequence[str]) -> bool:
    """Print a table, in pieces if it is long; False if there is nothing in it."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return False
    from tabulate import tabulate  # late: it takes longer than all of an empty list

    rows = chain([first], rows)
    shown_headers: Sequence[str] = headers
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        click.echo(tabulate(chunk, shown_headers, tablefmt="plain", disable_numparse=True))
        shown_headers = ()
    return True

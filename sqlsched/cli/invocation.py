"""What the commands share: which database, opened how, and how results are printed."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import click

from sqlsched.cli.formats import clipped
from sqlsched.storage import files
from sqlsched.storage.connection import (
    Database,
    default_path,
    open_for_reading,
    open_for_writing,
    storage_errors,
)

F = TypeVar("F", bound=Callable[..., Any])
_CHUNK_ROWS = 500
_LONGEST_LINE = 1000
"""Characters; whoever mistook a file for an option would not see the error otherwise."""


@dataclass
class Invocation:
    """One call of the program."""

    path: Path = field(default_factory=default_path)
    command: list[str] | None = None
    """What stood behind `--` of `add` or `edit`."""

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """The database, to look at."""
        with closing(open_for_reading(self.path)) as database, storage_errors(self.path):
            yield database

    @contextmanager
    def writing(self, *, create: bool = False) -> Iterator[Database]:
        """The database, to change."""
        with closing(open_for_writing(self.path, create=create)) as database:
            _warn_if_shared(self.path)
            with storage_errors(self.path):
                yield database


def _warn_if_shared(path: Path) -> None:
    """Warn of a database that others than its owner may write to."""
    if files.group_writable(path):
        say(f"Warning: {path} is writable by its group, which can run commands as you")


def say(text: str) -> None:
    """Tell the person at the terminal; scripts read stdout and are not bothered."""
    click.echo(clipped(text, _LONGEST_LINE), err=True)


def json_option(command: F) -> F:
    """The option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_json_array(items: Iterable[Any]) -> None:
    """Print an array item by item, however many there are."""
    opening = "["
    for item in items:
        sys.stdout.write(f"{opening}\n  {json.dumps(item, ensure_ascii=False)}")
        opening = ","
    sys.stdout.write("[]\n" if opening == "[" else "\n]\n")


def print_table(rows: Iterable[Sequence[Any]], headers: Sequence[str]) -> bool:
    """Print a table, in pieces if it is long; False if there is nothing in it."""
    from tabulate import tabulate

    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return False
    rows = chain([first], rows)
    shown_headers: Sequence[str] = headers
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        click.echo(tabulate(chunk, shown_headers, tablefmt="plain", disable_numparse=True))
        shown_headers = ()
    return True

"""Completion by the shell: its script, and the ids and words that it offers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sqlsched.cli.invocation import clipped
from sqlsched.exceptions import SqlschedError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem  # imported when a shell asks

    from sqlsched.storage.connection import Database

LIMIT = 1000
"""How many ids are offered at most."""

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete commands, options and ids.

    \b
    Example: echo 'eval "$(sqlsched completion bash)"' >> ~/.bashrc
             echo 'eval "$(sqlsched completion zsh)"' >> ~/.zshrc
             sqlsched completion fish > ~/.config/fish/completions/sqlsched.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    # This is where `click.Command.main` looks when the program is called as `sqlsched`.
    click.echo(found(ctx.find_root().command, {}, "sqlsched", "_SQLSCHED_COMPLETE").source())


def schedule_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """The ids of schedules, but for those that were given already."""

    def ask(database: "Database") -> list[tuple[str, str]]:
        from sqlsched.storage.schedules import ids_beginning

        return ids_beginning(database, incomplete, LIMIT)

    given = ctx.params.get("ids") or ()
    return [item for item in _ask(ctx, ask) if item.value not in given]


def run_ids(*, live: bool = False) -> Complete:
    """The ids of the newest runs; only of those that have not ended, if `live`."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        def ask(database: "Database") -> list[tuple[str, str]]:
            from sqlsched.storage.runs import newest_ids

            return newest_ids(database, LIMIT, live=live)

        return [item for item in _ask(ctx, ask) if item.value.startswith(incomplete)]

    return complete


def words(accepted: tuple[str, ...]) -> Complete:
    """These words."""

    def complete(
        _ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in accepted if word.startswith(incomplete)]

    return complete


def _ask(
    ctx: click.Context, ask: Callable[["Database"], list[tuple[str, str]]]
) -> "list[CompletionItem]":
    """What the database says; nothing if it cannot be asked, as nobody wants to read why here."""
    from pathlib import Path

    from click.shell_completion import CompletionItem

    invocation: Any = ctx.obj
    if path := ctx.find_root().params.get("db"):  # no command runs, which would have set it
        invocation.db = Path(path)
    try:
        with invocation.reading() as database:
            return [CompletionItem(name, help=clipped(text)) for name, text in ask(database)]
    except (SqlschedError, OSError):
        return []

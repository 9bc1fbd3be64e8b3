"""Which commands there are. A command's module is imported when it is called, and not before:
`sqlsched --help` shows this table and imports nothing else."""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Entry(NamedTuple):
    """Where a command is, and the line that `sqlsched --help` shows for it."""

    module: str
    function: str
    summary: str


GROUPS = {
    "Manage schedules": {
        "add": Entry("manage", "add", "Add a schedule: a TASK, --shell LINE, or -- COMMAND ARG…."),
        "list": Entry("look", "list_", "List the schedules."),
        "show": Entry("look", "show", "Show everything about a schedule."),
        "edit": Entry("manage", "edit", "Change a schedule."),
        "pause": Entry("manage", "pause", "Stop schedules from firing until `resume`."),
        "resume": Entry("manage", "resume", "Let paused schedules go on, from now."),
        "rm": Entry("manage", "rm", "Remove schedules, done ones too."),
    },
    "Run them": {
        "run": Entry("run", "run", "Run the schedules, until SIGTERM or Ctrl-C."),
        "trigger": Entry("past", "trigger", "Run a schedule's task once, now."),
        "backfill": Entry(
            "backfill", "backfill", "Run the firings of a past time that have no run."
        ),
        "cancel": Entry("past", "cancel", "Stop a run that is claimed, waiting or running."),
    },
    "Look back and ahead": {
        "history": Entry("past", "history", "Show what ran, and what did not and why."),
        "logs": Entry("past", "logs", "Print what a run printed."),
        "next": Entry("look", "next_", "Print the next fire times of a schedule, or of a cron."),
        "why": Entry("understand", "why", "Tell why a schedule ran at a time, or did not."),
        "stats": Entry("understand", "stats", "Print figures of each schedule's runs."),
        "timeline": Entry("timeline", "timeline", "Draw what ran and what is to come."),
        "watch": Entry(
            "watch", "watch", "Show who is running, what runs, what ended and what is next."
        ),
        "simulate": Entry(
            "simulate", "simulate", "Show what would run and what would not, and why."
        ),
    },
    "Move schedules": {
        "import": Entry("transfer", "import_", "Import schedules from JSON lines or a crontab."),
        "export": Entry(
            "transfer", "export", "Print the schedules as JSON lines, which `import` takes."
        ),
        "sync": Entry("sync", "sync", "Make the schedules what a TOML file says."),
        "plan": Entry("plan", "plan", "Say what `sync` would do to the firings."),
    },
    "Operate": {
        "hooks": Entry("hooks", "hooks", "Show or set who is told how runs end."),
        "doctor": Entry("care", "doctor", "Say whether the database is healthy; exit 0 or 1."),
        "backup": Entry("care", "backup", "Copy the database to a FILE, while it is in use."),
        "restore": Entry("care", "restore", "Put a backup in the place of the database."),
        "prune": Entry("prune", "prune", "Forget old runs, and what they printed."),
        "systemd": Entry("service", "systemd", "Print a systemd unit that runs `sqlsched run`."),
        "completion": Entry(
            "completion", "completion", "Print the script that lets a shell complete."
        ),
    },
}
"""What `sqlsched --help` lists."""

_ALIASES = {"remove": "rm"}
"""Other names of commands, which the help keeps to itself."""

TABLE = {name: entry for group in GROUPS.values() for name, entry in group.items()}


class Commands(click.Group):
    """The program's commands, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(TABLE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = TABLE.get(_ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        command: click.Command = getattr(
            import_module(f"sqlsched.cli.{entry.module}"), entry.function
        )
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """What may come next, without importing every command that begins so."""
        from click.shell_completion import CompletionItem

        return [
            *(
                CompletionItem(n, help=e.summary)
                for n, e in TABLE.items()
                if n.startswith(incomplete)
            ),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, TABLE))
        for title, group in GROUPS.items():
            with formatter.section(title):
                # Each column as wide as in every other group.
                rows = [(name.ljust(width), entry.summary) for name, entry in group.items()]
                formatter.write_dl(rows)

"""Who is told how runs end, where a schedule does not say: hooks."""

import click

from sqlsched.cli.invocation import Invocation, json_option, print_json, print_table, say
from sqlsched.cli.schedule_options import RESET
from sqlsched.storage.hooks import NAMES


@click.command()
@click.option("--on-failure", metavar="HOOK", help="Run this when a run has failed for good.")
@click.option("--on-success", metavar="HOOK", help="Run this when a run has succeeded.")
@click.option("--on-missed", metavar="HOOK", help="Run this when firings were missed.")
@click.option("--ping", metavar="URL", help="Tell healthchecks.io of every start and end.")
@json_option
@click.pass_obj
def hooks(invocation: Invocation, /, as_json: bool, **given: str | None) -> None:
    """Show or set who is told how runs end.

    They are the hooks of schedules that have none of their own. A HOOK is a line for /bin/sh, which
    gets the run as JSON on its stdin, or a task (package.module:object), which gets it as its
    argument. "default" removes one.

    \b
    Example: sqlsched hooks --on-failure 'mail -s "a run failed" ops@example.org'
    """
    changes = {name: hook for name, hook in given.items() if hook is not None}
    from sqlsched.storage import hooks as stored

    if changes:
        wanted = {name: None if hook == RESET else hook for name, hook in changes.items()}
        with invocation.writing() as database:
            found = stored.set_common(database, wanted)
    else:
        with invocation.reading() as database:
            found = stored.common(database)
    if as_json:
        print_json({name: found.get(name) for name in NAMES})
    elif not print_table([(name.replace("_", "-"), hook) for name, hook in found.items()], ()):
        say("no hooks; --on-failure HOOK sets one")

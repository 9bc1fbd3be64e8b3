"""Managing schedules: add, edit, rm, pause, resume."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click

from sqlsched.cli.completion import schedule_ids
from sqlsched.cli.formats import in_words, iso
from sqlsched.cli.invocation import Invocation, say
from sqlsched.cli.schedule_options import (
    TRIGGERS,
    ScheduleCommand,
    read_labels,
    read_options,
    read_task,
    schedule_options,
)
from sqlsched.clock import now_us
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, ScheduledTask
from sqlsched.storage import additions, changes, owners, schedules
from sqlsched.storage.connection import Database


@click.command(cls=ScheduleCommand)
@schedule_options
@click.option("--replace", "replace_other", is_flag=True, help="Change the schedule of that id.")
@click.argument("task", required=False)
@click.pass_obj
def add(
    invocation: Invocation,
    /,
    task: str | None,
    shell: str | None,
    labels: tuple[str, ...],
    paused: bool,
    replace_other: bool,
    **texts: Any,
) -> None:
    """Add a schedule: a TASK (package.module:object), --shell LINE, or -- COMMAND ARG….

    Prints the new id.

    \b
    Example: sqlsched add --cron "0 9 * * MON-FRI" --tz Europe/Berlin shop.jobs:open
    """
    fields = read_options(texts, labels)
    fields |= read_task(task, shell, invocation.command, fields)
    if "task_name" not in fields:
        raise click.UsageError("nothing to run: give a TASK, --shell LINE or -- COMMAND ARG…")
    if not any(name in fields for name in TRIGGERS):
        raise click.UsageError("no trigger: give one of --cron, --at, --in, --every")
    schedule = ScheduledTask(**fields, paused=paused)
    additions.first_us(schedule, now_us())  # before a database is made for it
    with invocation.writing(create=True) as database:
        added = additions.add(database, schedule, now_us(), replace_other=replace_other)
    click.echo(schedule.schedule_id)
    say(_added(schedule, added))


def _added(schedule: ScheduledTask, added: changes.Added) -> str:
    start = "added" if added.changed else "there already, unchanged"
    if schedule.paused and added.changed:
        return f"{start}: {schedule.task_name}, paused"
    if added.next_us is None:
        return f"{start}: {schedule.task_name}, done"
    return f"{start}: {schedule.task_name}, next {iso(added.next_us)} ({in_words(added.next_us)})"


@click.command(cls=ScheduleCommand)
@schedule_options
@click.argument("schedule_id", metavar="ID", shell_complete=schedule_ids)
@click.argument("task", required=False)
@click.pass_obj
def edit(
    invocation: Invocation,
    /,
    schedule_id: str,
    task: str | None,
    shell: str | None,
    labels: tuple[str, ...],
    paused: bool,
    **texts: Any,
) -> None:
    """Change a schedule; its firings are computed anew from now on.

    Options are those of `add`; the value "default" puts one back. --label replaces all labels.

    \b
    Example: sqlsched edit 3f2a --every 10m --note "was 5m"
    """
    fields = read_options(texts, labels, resettable=True)
    fields |= read_task(task, shell, invocation.command, fields)
    if "schedule_id" in fields:
        raise click.UsageError("--id: a schedule keeps its id; add another one instead")
    if paused:
        fields["paused"] = True
    if not fields:
        raise click.UsageError("nothing to change: give an option of `sqlsched add`")
    with invocation.writing() as database:
        found = schedules.find(database, schedule_id)
        edited = changes.edit(database, found, _changer(fields), now_us())
    when = "done" if edited.next_us is None else f"next {iso(edited.next_us)}"
    say(f"changed {found}: {when}")


def _changer(fields: dict[str, Any]) -> Callable[[ScheduledTask], ScheduledTask]:
    """What an edit does to a schedule: a new trigger takes the place of the old one."""
    fields = {k: _EMPTY.get(k) if v is None else v for k, v in fields.items()}
    if any(fields.get(name) is not None for name in TRIGGERS):
        fields = dict.fromkeys(TRIGGERS) | fields

    def change(schedule: ScheduledTask) -> ScheduledTask:
        # The words of a command are no arguments of the task that takes its place.
        is_command = schedule.task_name in {SHELL_TASK, EXEC_TASK}
        fresh = _EMPTY if is_command and "task_name" in fields else {}
        return replace(schedule, **fresh | fields)

    return change


_EMPTY: dict[str, Any] = {"args": [], "kwargs": {}}


def _selection(command: Callable[..., None]) -> Callable[..., None]:
    """Take ids, or --label, or --all."""
    command = click.argument("ids", nargs=-1, metavar="[ID]…", shell_complete=schedule_ids)(command)
    command = click.option(
        "--label", "labels", metavar="K=V", multiple=True, help="All with this label."
    )(command)
    return click.option("--all", "everything", is_flag=True, help="All of them.")(command)


@contextmanager
def _selected(
    invocation: Invocation,
    ids: tuple[str, ...],
    labels: tuple[str, ...],
    everything: bool,
    *,
    include_done: bool = False,
) -> Iterator[tuple[Database, list[str]]]:
    """The database to change, and the whole ids in it that are meant."""
    if sum(map(bool, (ids, labels, everything))) != 1:
        raise click.UsageError("give either ids, or --label K=V, or --all")
    selection = schedules.Selection(labels=read_labels(labels), include_done=include_done)
    with invocation.writing() as database:
        found = schedules.find_all(database, ids) or schedules.matching_ids(database, selection)
        yield database, list(dict.fromkeys(found))


@click.command()
@_selection
@click.pass_obj
def rm(
    invocation: Invocation, ids: tuple[str, ...], labels: tuple[str, ...], everything: bool
) -> None:
    """Remove schedules, done ones too. Their history stays, and so do their running runs.

    \b
    Example: sqlsched rm 3f2a nightly
    """
    selection = _selected(invocation, ids, labels, everything, include_done=True)
    with selection as (database, selected):
        # With nobody serving, nobody knows whether its source still lists it: then it may go.
        alone = not owners.anyone_serving(database)
        changes.remove(database, selected, now_us(), copies_too=alone)
    _confirm("removed", selected)


@click.command()
@_selection
@click.option("--note", metavar="TEXT", help="Why. `sqlsched why` tells it.")
@click.pass_obj
def pause(
    invocation: Invocation,
    ids: tuple[str, ...],
    labels: tuple[str, ...],
    everything: bool,
    note: str | None,
) -> None:
    """Stop schedules from firing until `resume`.

    \b
    Example: sqlsched pause --label team=shop --note "until the stocktaking is over"
    """
    with _selected(invocation, ids, labels, everything) as (database, selected):
        changes.pause(database, selected, now_us(), note=note)
    _confirm("paused", selected)


@click.command()
@_selection
@click.pass_obj
def resume(
    invocation: Invocation, ids: tuple[str, ...], labels: tuple[str, ...], everything: bool
) -> None:
    """Let paused schedules go on, from now. What the pause swallowed is not made up for.

    \b
    Example: sqlsched resume --all
    """
    with _selected(invocation, ids, labels, everything) as (database, selected):
        changes.resume_all(database, selected, now_us())
    _confirm("resumed", selected)


def _confirm(done: str, ids: list[str]) -> None:
    if len(ids) == 1:
        say(f"{done} {ids[0]}")
    else:
        say(f"{done} {len(ids)} schedules")

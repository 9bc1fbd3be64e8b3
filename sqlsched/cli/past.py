"""Looking back and steering runs: history, logs, trigger, cancel."""

from collections.abc import Iterator
from typing import Any

import click

from sqlsched.cli.completion import run_ids, schedule_ids, words
from sqlsched.cli.formats import short, took
from sqlsched.cli.invocation import (
    Invocation,
    clipped,
    json_option,
    print_json_array,
    print_table,
    say,
)
from sqlsched.clock import now_us, pause
from sqlsched.exceptions import InvalidScheduleError, ScheduleNotFoundError
from sqlsched.instants import parse_time, to_us
from sqlsched.output import render
from sqlsched.serialization import shorten
from sqlsched.storage import owners, runs, schedules
from sqlsched.storage.connection import Database, check_files
from sqlsched.storage.runs import RunRow
from sqlsched.timezones import zone_info

_POLL_S = 0.1
_STOP_S = 15
"""How long `cancel` waits for a run to stop, seconds."""


@click.command()
@click.argument("schedule_id", metavar="[ID]", required=False, shell_complete=schedule_ids)
@click.option(
    *("-n", "number"),
    type=click.IntRange(1, 2**31 - 1),
    default=50,
    metavar="N",
    help="How many. Default 50.",
)
@click.option(
    "--status",
    metavar="STATUS",
    shell_complete=words(runs.STATUSES),
    help=f"Only one of {', '.join(runs.STATUSES)}.",
)
@click.option("--since", metavar="TIME", help="Only firings from this time on.")
@json_option
@click.pass_obj
def history(
    invocation: Invocation,
    schedule_id: str | None,
    number: int,
    status: str | None,
    since: str | None,
    as_json: bool,
) -> None:
    """Show what ran, and what did not and why; newest first.

    \b
    Example: sqlsched history 3f2a --status failed -n 5
    """
    if status is not None and status not in runs.STATUSES:
        accepted = ", ".join(runs.STATUSES)
        raise InvalidScheduleError(f"--status {shorten(status)}: give one of {accepted}")
    since_us = None if since is None else to_us(parse_time(since, zone_info(None), "--since"))
    with invocation.reading() as database:
        found = None if schedule_id is None else _find_past(database, schedule_id)
        rows = runs.history(
            database, schedule_id=found, status=status, since_us=since_us, limit=number
        )
        if as_json:
            print_json_array(run.to_json() for run in rows)
        elif not print_table(map(_history_row, rows), _HISTORY_HEADERS):
            say("nothing has run yet" if found is None else f"{found} has not run yet")


def _find_past(database: Database, text: str) -> str:
    """A schedule that is there, or one that is gone and left its history."""
    if runs.has_history(database, text):
        return text
    return schedules.find(database, text)


_HISTORY_HEADERS = (
    *("RUN", "SCHEDULE", "TASK", "SCHEDULED FOR", "STARTED", "TOOK", "STATUS", "WHY"),
)


def _history_row(run: RunRow) -> tuple[Any, ...]:
    why = ": ".join(filter(None, (run.reason, run.error)))
    if run.count > 1:
        why += f", {run.count} firings until {short(run.last_us)}"
    status = run.status if run.attempt < 2 else f"{run.status} (attempt {run.attempt})"
    return (
        *(run.run_id, run.schedule_id, run.task_name),
        *(short(run.scheduled_us), short(run.started_us)),
        *(took(run), status, clipped(why, 60)),
    )


@click.command()
@click.argument("run_id", metavar="[RUN_ID]", required=False, shell_complete=run_ids())
@click.option(
    "--last", metavar="ID", shell_complete=schedule_ids, help="The latest run of a schedule."
)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.pass_obj
def logs(invocation: Invocation, run_id: str | None, last: str | None, follow: bool) -> None:
    """Print what a run printed, its stdout and stderr.

    \b
    Example: sqlsched logs --last nightly
    """
    if (run_id is None) == (last is None):
        raise click.UsageError("give either a RUN_ID or --last ID")
    with invocation.reading() as database:
        if last is not None:
            found = runs.last_run(database, _find_past(database, last))
        else:
            found = runs.find_run(database, run_id or "")
        if not follow:
            click.echo(render(*runs.output(database, found)), nl=False)
            return
        for piece in _pieces(database, found):
            click.echo(piece, nl=False)


def _pieces(database: Database, run_id: int) -> Iterator[str]:
    """The output of a run as it comes, until the run has ended."""
    shown = 0
    while True:
        check_files(database)
        ended = runs.get_run(database, run_id).status not in runs.LIVE_STATUSES
        head, tail, total = runs.output(database, run_id)
        if total > shown:
            yield _unseen(head, tail, total, shown)
            shown = total
        if ended:
            return
        pause(_POLL_S)


def _unseen(head: bytes, tail: bytes, total: int, shown: int) -> str:
    if shown < len(head):
        return render(head[shown:], tail, total - shown)
    return render(b"", tail[max(0, len(tail) - (total - shown)) :], total - shown)


@click.command()
@click.argument("schedule_id", metavar="ID", shell_complete=schedule_ids)
@click.option("--wait", is_flag=True, help="Follow the run to its end; exit with 0 or 1 by it.")
@click.pass_obj
def trigger(invocation: Invocation, schedule_id: str, wait: bool) -> None:
    """Run a schedule's task once, now, besides its firings. Prints the run's id.

    \b
    Example: sqlsched trigger nightly --wait
    """
    with invocation.writing() as database:
        found = schedules.find(database, schedule_id)
        run_id = runs.trigger(database, found, now_us())
        click.echo(run_id)
        if not owners.anyone_serving(database):
            say("nobody is running: the next `sqlsched run` starts it")
        if not wait:
            return
        run = _await_end(database, run_id)
    say(f"run {run.run_id} {run.status}" + (f": {run.error}" if run.error else ""))
    if run.status not in runs.GOOD:
        raise click.exceptions.Exit(1)


def _await_end(database: Database, run_id: int) -> RunRow:
    """The end of a run, or of the last of its retries."""
    while True:
        check_files(database)
        run = runs.get_run(database, run_id)
        if run.status not in runs.LIVE_STATUSES:
            retry = runs.retry_of(database, run_id)
            if retry is None:
                return run
            run_id = retry
        pause(_POLL_S)


@click.command()
@click.argument("run_id", metavar="RUN_ID", shell_complete=run_ids(live=True))
@click.pass_obj
def cancel(invocation: Invocation, run_id: str) -> None:
    """Stop a run that is claimed, waiting or running.

    \b
    Example: sqlsched cancel 42
    """
    with invocation.writing() as database:
        found = runs.find_run(database, run_id)
        status = runs.cancel(database, found, now_us())
        deadline_us = now_us() + _STOP_S * 1_000_000
        while status in runs.LIVE_STATUSES:
            if not owners.anyone_serving(database):
                raise ScheduleNotFoundError(
                    f"run {found} is {status}, but nobody is running it any more: "
                    "the next `sqlsched run` records it as abandoned"
                )
            if now_us() > deadline_us:
                raise ScheduleNotFoundError(
                    f"run {found} was asked to stop and has not yet: it is {status}"
                )
            pause(_POLL_S)
            check_files(database)
            status = runs.get_run(database, found).status
    say(f"run {found} {status}")

"""Looking at schedules: list, show, next."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

from sqlsched.cli.completion import schedule_ids
from sqlsched.cli.formats import (
    in_words,
    iso,
    schedule_details_json,
    schedule_json,
    short,
    what,
    when,
)
from sqlsched.cli.invocation import (
    Invocation,
    clipped,
    json_option,
    print_json,
    print_json_array,
    print_table,
    say,
)
from sqlsched.cli.schedule_options import read_labels
from sqlsched.clock import now_us
from sqlsched.instants import parse_time, to_us
from sqlsched.storage import schedules
from sqlsched.storage.schedules import Selection, StoredSchedule
from sqlsched.timezones import checked_cron_offset, zone_info


@click.command(name="list")
@click.option("--all", "include_done", is_flag=True, help="Also those that are done.")
@click.option("--paused/--active", default=None, help="Only paused ones, or only active ones.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Only with this label.")
@click.option("--task", "task_glob", metavar="GLOB", help="Only tasks whose name matches.")
@json_option
@click.pass_obj
def list_(
    invocation: Invocation,
    include_done: bool,
    paused: bool | None,
    labels: tuple[str, ...],
    task_glob: str | None,
    as_json: bool,
) -> None:
    """List the schedules.

    \b
    Example: sqlsched list --label team=shop --task 'shop.*'
    """
    selection = Selection(
        include_done=include_done,
        paused=paused,
        labels=read_labels(labels),
        task_glob=task_glob,
    )
    with invocation.reading() as database:
        found = schedules.stored(database, selection, on_bad=_warn_of_bad)
        if as_json:
            print_json_array(map(schedule_json, found))
        elif not print_table(map(_list_row, found), _LIST_HEADERS):
            say("no schedules" if include_done else "no schedules; --all shows those that are done")


_LIST_HEADERS = ("ID", "TASK", "WHEN", "NEXT", "LAST", "STATUS", "NOTE")


def _list_row(stored: StoredSchedule) -> tuple[Any, ...]:
    state = "paused" if stored.paused_us is not None else "done" if stored.done else None
    return (
        stored.schedule.schedule_id,
        what(stored.schedule),
        when(stored.schedule),
        state or short(stored.next_us),
        short(stored.last_us),
        stored.last_status,
        clipped(stored.schedule.note or ""),
    )


def _warn_of_bad(schedule_id: str, error: Exception) -> None:
    say(f"Warning: schedule {schedule_id} cannot be read: {error}")


@click.command()
@click.argument("schedule_id", metavar="ID", shell_complete=schedule_ids)
@json_option
@click.pass_obj
def show(invocation: Invocation, schedule_id: str, as_json: bool) -> None:
    """Show everything about a schedule, with its next 5 fire times.

    \b
    Example: sqlsched show 3f2a
    """
    with invocation.reading() as database:
        stored = schedules.get(database, schedules.find(database, schedule_id))
    times = [iso(us) or "" for us in islice(_firings(stored, now_us()), 5)]
    details = schedule_details_json(stored, times)
    if as_json:
        print_json(details)
    else:
        print_table(_details(details), ())


_LONGEST_VALUE = 2000
"""Characters; `--json` has all of them."""


def _details(details: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in details.items():
        if isinstance(value, list) and name == "next_fire_times":
            yield from (
                ("next fire times" if index == 0 else "", text) for index, text in enumerate(value)
            )
        elif value not in (None, [], {}, False):
            plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name.replace("_", " "), clipped(plain, _LONGEST_VALUE)


@click.command(name="next")
@click.argument("schedule_id", metavar="[ID]", required=False, shell_complete=schedule_ids)
@click.option("--cron", metavar="EXPR", help="Of an expression, instead of a schedule.")
@click.option(
    "--tz", "--cron-offset", "zone", metavar="ZONE", help="The clock of --cron and --after."
)
@click.option(
    "-n",
    "number",
    type=click.IntRange(1, 100_000),
    default=5,
    metavar="N",
    help="How many. Default 5.",
)
@click.option("--after", metavar="TIME", help="Strictly after this. Default now.")
@json_option
@click.pass_obj
def next_(
    invocation: Invocation,
    schedule_id: str | None,
    cron: str | None,
    zone: str | None,
    number: int,
    after: str | None,
    as_json: bool,
) -> None:
    """Print the next fire times of a schedule, or of a cron.

    \b
    Example: sqlsched next --cron "30 2 * * *" --tz Europe/Berlin -n 3
    """
    if (schedule_id is None) == (cron is None):
        raise click.UsageError("give either an ID or --cron EXPR")
    offset = None if zone is None else checked_cron_offset(zone, "--tz")
    if cron is None and zone is not None and after is None:
        raise click.UsageError("--tz goes with --cron, or with --after")
    after_us = now_us() if after is None else to_us(parse_time(after, zone_info(offset), "--after"))
    if cron is not None:
        from sqlsched.scheduled_task import ScheduledTask

        schedule = ScheduledTask(task_name="next:next", cron=cron, cron_offset=offset)
        firings = _following(schedule.trigger(0), after_us)
    else:
        with invocation.reading() as database:
            stored = schedules.get(database, schedules.find(database, schedule_id or ""))
        firings = _firings(stored, after_us)
    times = list(islice(firings, number))
    if as_json:
        print_json([iso(us) for us in times])
    elif not print_table(((iso(us), in_words(us)) for us in times), ()):
        say("no more firings")


def _firings(stored: StoredSchedule, after_us: int) -> Iterator[int]:
    """The firings to come, as far as `max_runs` allows."""
    if stored.next_us is None:
        return iter(())
    left = stored.schedule.max_runs and stored.schedule.max_runs - stored.dispatched
    return islice(_following(stored.trigger, after_us), left)


def _following(trigger: Any, after_us: int) -> Iterator[int]:
    cursor = trigger.next_us(after_us)
    while cursor is not None:
        yield cursor
        cursor = trigger.next_us(cursor)

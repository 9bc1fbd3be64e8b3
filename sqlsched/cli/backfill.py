"""Running what has been missed: backfill."""

from typing import Any

import click

from sqlsched.cli.formats import iso
from sqlsched.cli.invocation import Invocation, json_option, print_json, say
from sqlsched.clock import now_us
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import parse_time, to_us
from sqlsched.storage import backfill as storage
from sqlsched.storage import owners, schedules
from sqlsched.storage.backfill import Missing
from sqlsched.timezones import zone_info


@click.command()
@click.argument("schedule_id", metavar="ID")
@click.option("--from", "from_", metavar="TIME", required=True, help="From this firing on.")
@click.option("--to", metavar="TIME", required=True, help="Up to this one, included.")
@click.option("--dry-run", is_flag=True, help="Say which would run, and run none.")
@json_option
@click.pass_obj
def backfill(
    invocation: Invocation, schedule_id: str, from_: str, to: str, dry_run: bool, as_json: bool
) -> None:
    """Run the firings of a past time that have no run: missed, skipped, or never due.

    They run one after another, oldest first, each with its own time, and do not count towards
    --max-runs. Those that were dispatched, now or by an earlier backfill, are left alone.

    \b
    Example: sqlsched backfill nightly --from 2026-11-01 --to 2026-11-20 --dry-run
    """
    first_us, last_us = _instant(from_, "--from"), _instant(to, "--to")
    if last_us < first_us:
        raise InvalidScheduleError(f"--to {iso(last_us)}: give a time after {iso(first_us)}")
    if last_us > now_us():
        raise InvalidScheduleError(f"--to {iso(last_us)}: give a time in the past")
    if dry_run:
        with invocation.reading() as database:
            found_id = schedules.find(database, schedule_id)
            found = storage.missing(database, found_id, first_us, last_us)
            alone = False
    else:
        with invocation.writing() as database:
            found_id = schedules.find(database, schedule_id)
            found = storage.backfill(database, found_id, first_us, last_us, now_us())
            alone = not owners.anyone_serving(database)
    if as_json:
        print_json(_as_json(found_id, first_us, last_us, found))
    elif dry_run:
        for us in found.without_run:
            click.echo(iso(us))
    say(_summary(found, dry_run))
    if alone and found.without_run:
        say("nobody is running: the next `sqlsched run` starts them")


def _instant(text: str, what: str) -> int:
    return to_us(parse_time(text, zone_info(None), what))


def _as_json(schedule_id: str, first_us: int, last_us: int, found: Missing) -> dict[str, Any]:
    return {
        "schedule_id": schedule_id,
        "from": iso(first_us),
        "to": iso(last_us),
        "dispatched": found.total - len(found.without_run),
        "firings": [iso(us) for us in found.without_run],
    }


def _summary(found: Missing, dry_run: bool) -> str:
    number, there = len(found.without_run), found.total - len(found.without_run)
    done = "would run" if dry_run else "will run"
    return f"{number:,} of {found.total:,} firings {done}; {there:,} have a run already"

"""What a change not yet made would make of the firings: plan."""

from collections.abc import Iterator
from dataclasses import asdict, astuple
from functools import partial
from typing import Any, BinaryIO

import click

from sqlsched.cli.invocation import Invocation, json_option, print_json, print_table
from sqlsched.cli.schedule_file import read_file
from sqlsched.cli.simulate import progress, tidy_end, warn_of_bad
from sqlsched.cli.sync import DONE, SHOWN, check, check_stored, lists, say_counts
from sqlsched.clock import now_us
from sqlsched.difference import Difference, differences
from sqlsched.instants import DAY_US
from sqlsched.simulation import Scenario
from sqlsched.storage.sync import Synced, preview

_HEADERS = ("SCHEDULE", "CHANGE", "MORE", "FEWER", "NEW OVERLAPS")


@click.command()
@click.argument("file", type=click.File("rb"), metavar="FILE|-")
@click.option(
    "--days",
    type=click.IntRange(1, 3660),
    default=30,
    metavar="N",
    help="How far ahead to look. Default 30.",
)
@click.option("--prune", is_flag=True, help="As `sync --prune` would.")
@json_option
@click.pass_obj
def plan(invocation: Invocation, file: BinaryIO, days: int, prune: bool, as_json: bool) -> None:
    """Say what `sync` would make of the schedules, and of the firings to come.

    The schedules that differ are simulated as they are and as they would be, as `simulate` does
    it. Nothing is changed, and no task is run.

    \b
    Example: sqlsched plan schedules.toml --prune
    """
    wanted = read_file(file)
    check(file, wanted)
    begin_us = now_us()
    with invocation.writing() as database:
        tried = preview(database, wanted.schedules, begin_us, group=wanted.group, prune=prune)
    check_stored(file, wanted, tried.synced)
    scenario = Scenario(from_us=begin_us, to_us=begin_us + days * DAY_US)
    with tidy_end():
        found = differences(
            tried.before,
            tried.after,
            scenario,
            progress=partial(progress, scenario.from_us, scenario.to_us),
            on_bad=warn_of_bad,
        )
    total = sum(found.values(), Difference())
    if as_json:
        print_json(lists(tried.synced) | asdict(total))
        return
    click.echo(
        f"next {days} days: {total.firings_removed:,} fewer, {total.firings_added:,} more, "
        f"{total.new_overlaps:,} new overlaps"
    )
    print_table(_rows(tried.synced, found), _HEADERS)
    say_counts(tried.synced, "would be: ")


def _rows(synced: Synced, found: dict[str, Difference]) -> Iterator[tuple[Any, ...]]:
    for name in DONE:
        ids = getattr(synced, name)
        for schedule_id in ids[:SHOWN]:
            numbers = astuple(found.get(schedule_id, Difference()))
            yield schedule_id, name, *(f"{number:,}" for number in numbers)
        if len(ids) > SHOWN:
            yield f"… and {len(ids) - SHOWN} more", name, "", "", ""

"""Understanding what happened: why, stats."""

import re
from datetime import tzinfo

import click

from sqlsched.cli.formats import iso
from sqlsched.cli.invocation import Invocation, json_option, print_json, print_paragraph
from sqlsched.clock import now_us
from sqlsched.evidence import Asked
from sqlsched.instants import MINUTE_US, SECOND_US, parse_time, to_us
from sqlsched.storage import evidence
from sqlsched.timezones import zone_info

_FRACTION = re.compile(r"\d\d[.,]\d")
_SECONDS = re.compile(r"[T ]\d\d:?\d\d:?\d\d")


@click.command()
@click.argument("schedule_id", metavar="ID")
@click.option(
    "--at",
    metavar="TIME",
    help="When. Without seconds, whatever was due within that minute. Default: the latest time.",
)
@click.option("--tz", "zone", metavar="ZONE", help="The clock of --at and of the answer.")
@json_option
@click.pass_obj
def why(
    invocation: Invocation, schedule_id: str, at: str | None, zone: str | None, as_json: bool
) -> None:
    """Tell why a schedule ran at a time, or did not: from the record, not from guesses.

    \b
    Example: sqlsched why nightly --at 2026-11-23T03:00 --tz Europe/Berlin
    """
    from sqlsched.why import decide

    clock = zone_info(zone)
    asked = None if at is None else _asked(at, clock)
    with invocation.reading() as database:
        found = evidence.find(database, schedule_id)
        decision = decide(evidence.gather(database, found, asked, now_us()), clock)
    if as_json:
        print_json(
            {
                "schedule_id": decision.schedule_id,
                "at": iso(decision.at_us),
                "decision": decision.decision,
                "reason": decision.reason,
                "run_id": None if decision.run_id is None else str(decision.run_id),
                "scheduled_for": iso(decision.scheduled_us),
                "text": decision.text,
            }
        )
    else:
        print_paragraph(decision.text)


def _asked(text: str, zone: tzinfo) -> Asked:
    """A moment as exact as it was written: to the minute, the second, or less."""
    at_us = to_us(parse_time(text, zone, "--at"))
    if _FRACTION.search(text):
        return Asked(at_us, 1)
    return Asked(at_us, SECOND_US if _SECONDS.search(text) else MINUTE_US)

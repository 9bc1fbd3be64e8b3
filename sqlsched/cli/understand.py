"""Understanding what happened: why, stats."""

import re
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Any

import click

from sqlsched.cli.completion import schedule_ids
from sqlsched.cli.formats import iso
from sqlsched.cli.invocation import (
    Invocation,
    json_option,
    print_json,
    print_json_array,
    print_paragraph,
    print_table,
    say,
)
from sqlsched.clock import now_us
from sqlsched.durations import parse_duration
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.explain.evidence import Asked
from sqlsched.explain.words import span
from sqlsched.instants import MINUTE_US, SECOND_US, parse_time, to_us
from sqlsched.serialization import shorten
from sqlsched.storage import evidence
from sqlsched.timezones import zone_info

if TYPE_CHECKING:
    from sqlsched.storage.stats import Stats

_FRACTION = re.compile(r"\d\d[.,]\d")
_SECONDS = re.compile(r"[T ]\d\d:?\d\d:?\d\d")


@click.command()
@click.argument("schedule_id", metavar="ID", shell_complete=schedule_ids)
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
    from sqlsched.explain.why import decide

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


@click.command()
@click.argument("schedule_id", metavar="[ID]", required=False, shell_complete=schedule_ids)
@click.option(
    "--since",
    metavar="TIME|DURATION",
    help="Only firings from this time on; 7d is from seven days ago on.",
)
@json_option
@click.pass_obj
def stats(
    invocation: Invocation, schedule_id: str | None, since: str | None, as_json: bool
) -> None:
    """Print figures of each schedule's runs: how many fail, how long and how late they are.

    Each attempt is a run. What was cancelled neither succeeded nor failed.

    \b
    Example: sqlsched stats --since 7d
    """
    from sqlsched.storage.stats import stats as read_stats

    since_us = 0 if since is None else _since(since)
    with invocation.reading() as database:
        found = None if schedule_id is None else evidence.find(database, schedule_id)
        rows = read_stats(database, schedule_id=found, since_us=since_us)
        if as_json:
            print_json_array(map(_stats_json, rows))
        elif not print_table(map(_stats_row, rows), _STATS_HEADERS):
            say("nothing has run yet, and there are no schedules")


def _since(text: str) -> int:
    """An instant, given as a time or as how long ago it was."""
    try:
        return max(0, now_us() - parse_duration(text) * SECOND_US)
    except InvalidScheduleError:
        pass
    try:
        return to_us(parse_time(text, UTC))
    except InvalidScheduleError:
        raise InvalidScheduleError(
            f"--since {shorten(text)}: give a duration like 90s, 12h or 7d, or a time like "
            "2026-11-23T18:05"
        ) from None


_STATS_HEADERS = (
    *("SCHEDULE", "RUNS", "OK", "FAILED", "SUCCESS", "TOOK p50", "p95", "LATE p50", "p99"),
)


def _stats_row(row: "Stats") -> tuple[Any, ...]:
    rate = row.success_rate
    return (
        *(row.schedule_id, row.runs, row.succeeded, row.failed),
        None if rate is None else f"{int(rate * 1000) / 10:g} %",  # never rounded up to 100
        *(None if us is None else span(us) for us in row[4:]),
    )


def _stats_json(row: "Stats") -> dict[str, Any]:
    seconds = [None if us is None else us / SECOND_US for us in row[4:]]
    return {
        "schedule_id": row.schedule_id,
        "runs": row.runs,
        "succeeded": row.succeeded,
        "failed": row.failed,
        "success_rate": row.success_rate,
        **dict(zip(_STATS_SECONDS, seconds, strict=True)),
    }


_STATS_SECONDS = ("duration_p50", "duration_p95", "lateness_p50", "lateness_p99")

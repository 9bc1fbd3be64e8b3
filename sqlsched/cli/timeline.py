"""`sqlsched timeline`: what ran and what is to come, as a chart."""

import shutil
import sys
from datetime import tzinfo
from pathlib import Path

import click

from sqlsched.cli.completion import schedule_ids
from sqlsched.cli.invocation import Invocation, has_colour, say, write_whole
from sqlsched.clock import now_us
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.explain.timeline import Style, Window, columns, lines
from sqlsched.instants import MINUTE_US, format_us, parse_time, to_us
from sqlsched.storage import chart, evidence
from sqlsched.timezones import zone_info

_HOUR_US = 60 * MINUTE_US
_WIDTH = 100
"""Characters, where there is no terminal."""


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]…", shell_complete=schedule_ids)
@click.option("--from", "since", metavar="TIME", help="Its start. Default an hour ago.")
@click.option("--to", "until", metavar="TIME", help="Its end. Default in an hour.")
@click.option("--tz", "zone", metavar="ZONE", help="The clock of the axis, --from and --to.")
@click.option(
    "--width",
    type=click.IntRange(40, 10_000),
    metavar="N",
    help="In characters. Default the terminal's.",
)
@click.option("--svg", metavar="FILE", help="Write it as a picture; - is stdout.")
@click.pass_obj
def timeline(
    invocation: Invocation,
    ids: tuple[str, ...],
    since: str | None,
    until: str | None,
    zone: str | None,
    width: int | None,
    svg: str | None,
) -> None:
    """Draw what ran and what is to come, a row for each schedule.

    \b
    Example: sqlsched timeline --from 2026-11-23T00:00 --to 2026-11-24T00:00
    """
    clock = zone_info(zone)
    window = _window(since, until, clock)
    with invocation.reading() as database:
        found = [evidence.find(database, given) for given in ids] or None
        longest = chart.longest_id(database, window, found)
        gaps = chart.gaps(database, window)
        if svg is not None:
            from sqlsched.explain.timeline_svg import WIDTH, Picture

            count = chart.count(database, window, found)
            rows = chart.rows(database, window, WIDTH, found)
            picture = Picture(window, longest, clock).draw(rows, gaps, count)
            if svg == "-":
                sys.stdout.writelines(picture)
            else:
                write_whole(Path(svg), picture)
                say(f"wrote {svg}: {count} schedules")
            return
        width = width or shutil.get_terminal_size((_WIDTH, 24)).columns
        style = Style(width, clock, invocation.has_unicode, has_colour())
        rows = chart.rows(database, window, columns(longest, width), found)
        for line in lines(rows, gaps, window, longest, style):
            click.echo(line, color=True)


def _window(since: str | None, until: str | None, clock: tzinfo) -> Window:
    now = now_us()
    from_us = None if since is None else to_us(parse_time(since, clock, "--from"))
    end_us = None if until is None else to_us(parse_time(until, clock, "--to"))
    if end_us is None:
        end_us = max(now, from_us or 0) + _HOUR_US
    if from_us is None:
        from_us = max(min(now, end_us) - _HOUR_US, 0)
    if from_us >= end_us:
        raise InvalidScheduleError(
            f"--from {format_us(from_us)} is not before --to {format_us(end_us)}; give one that is"
        )
    return Window(from_us, end_us, now)

"""Looking at what would happen: simulate."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from sqlsched.cli.formats import iso, short
from sqlsched.cli.invocation import Invocation, json_option, print_table, say
from sqlsched.clock import now_us
from sqlsched.durations import parse_duration
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import DAY_US, SECOND_US, parse_time, to_us
from sqlsched.serialization import shorten
from sqlsched.storage import schedules
from sqlsched.storage.connection import Database
from sqlsched.storage.copies import snapshot
from sqlsched.storage.outcomes import Decided
from sqlsched.timezones import zone_info

if TYPE_CHECKING:
    from sqlsched.simulation import Outcome, Scenario

_STEPS_OF_BAR = 200


@click.command()
@click.option("--from", "from_", metavar="TIME", help="Begin then, all having gone well before.")
@click.option("--to", metavar="TIME", help="End then. Default a day later.")
@click.option("--down", "downs", metavar="A..B", multiple=True, help="Nobody runs from A to B.")
@click.option(
    *("--clock-step", "steps"),
    metavar="T=±D",
    multiple=True,
    help="At T the clock is put forward, or back.",
)
@click.option(
    *("--duration", "durations"),
    metavar="ID=D",
    multiple=True,
    help="How long its runs take. Default as before (median), or 1s.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Runs at once. Default without limit.",
)
@click.option(
    *("-n", "number"),
    type=click.IntRange(0, 100_000),
    default=20,
    metavar="N",
    help="How many that would not run are listed. Default 20.",
)
@json_option
@click.pass_obj
def simulate(
    invocation: Invocation,
    from_: str | None,
    to: str | None,
    downs: tuple[str, ...],
    steps: tuple[str, ...],
    durations: tuple[str, ...],
    concurrency: int | None,
    number: int,
    as_json: bool,
) -> None:
    """Show what would run and what would not, and why.

    The real scheduler runs on a clock that jumps, over a copy: nothing is changed, no task is run,
    and every run succeeds. Without --from it goes on from now, with what is running and overdue.

    \b
    Example: sqlsched simulate --duration nightly=3h --json
             sqlsched simulate --to 2027-01-01 --down 2026-12-24T18:00..2026-12-27
    """
    from sqlsched.simulation import Scenario, simulated  # the engine is heavy to import

    real_us = now_us()
    begin_us = _instant(from_, "--from") if from_ else real_us // SECOND_US * SECOND_US
    end_us = _instant(to, "--to") if to else begin_us + DAY_US
    if end_us <= begin_us:
        raise InvalidScheduleError(f"--to {iso(end_us)}: give a time after {iso(begin_us)}")
    with invocation.reading() as database:
        scenario = Scenario(
            from_us=begin_us,
            to_us=end_us,
            now_us=real_us if from_ else None,
            downs=[_down(text) for text in downs],
            steps=[_step(text, begin_us) for text in steps],
            durations_us=dict(_duration(text, database) for text in durations),
            concurrency=concurrency,
        )
        taken = snapshot(database, since_us=begin_us)
    with (
        tidy_end(),
        progress(begin_us, end_us, "simulating") as advance,
        simulated(taken, scenario, progress=advance, on_bad=warn_of_bad) as outcome,
    ):
        if as_json:
            _print_json(_summary(outcome, scenario), map(_firing, outcome.firings()))
        else:
            _show(outcome, scenario, number)


def _summary(outcome: "Outcome", scenario: "Scenario") -> dict[str, Any]:
    counts, busiest = outcome.counts(), outcome.busiest_minute()
    return {
        "from": iso(scenario.from_us),
        "to": iso(scenario.to_us),
        **{name: counts.get(name, 0) for name in ("dispatched", "skipped", "missed")},
        "overlaps": sum(1 for _ in outcome.overlaps()),
        "busiest_minute": None if busiest is None else iso(busiest[0]),
    }


def _show(outcome: "Outcome", scenario: "Scenario", number: int) -> None:
    summary, busiest = _summary(outcome, scenario), outcome.busiest_minute()
    rest = {name: n for name, n in outcome.counts().items() if name not in summary}
    if busiest is not None:
        summary["busiest_minute"] += f", {busiest[1]:,} started"
    rows = ((name.replace("_", " "), _number(value)) for name, value in (summary | rest).items())
    print_table(rows, ())
    undone = list(islice(outcome.undone(), number + 1))
    if number and undone:
        click.echo()
        print_table(map(_undone_row, undone[:number]), _UNDONE_HEADERS)
    if len(undone) > number:
        say(f"there are more that would not run; -n lists more than {number}, --json all")


_UNDONE_HEADERS = ("SCHEDULED FOR", "SCHEDULE", "WHAT", "WHY")


def _undone_row(found: Decided) -> tuple[Any, ...]:
    why = found.reason or ""
    if found.number > 1:
        why += f", {found.number:,} firings until {short(found.last_us)}"
    return short(found.scheduled_us), found.schedule_id, found.decision, why


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else value or "none"


def _instant(text: str, what: str) -> int:
    return to_us(parse_time(text, zone_info(None), what))


def _down(text: str) -> tuple[int, int]:
    first, dots, last = text.partition("..")
    if not dots:
        raise InvalidScheduleError(f"--down {shorten(text)}: give two times, A..B")
    span = _instant(first, "--down"), _instant(last, "--down")
    if span[0] >= span[1]:
        raise InvalidScheduleError(f"--down {shorten(text)}: give the earlier time first")
    return span


def _step(text: str, begin_us: int) -> tuple[int, int]:
    at, equals, by = text.partition("=")
    if not equals or by[:1] not in {"+", "-"}:
        raise InvalidScheduleError(
            f"--clock-step {shorten(text)}: give a time, and how far the clock is put forward or "
            "back then, like 2026-11-23T18:05=-1h"
        )
    at_us, seconds = _instant(at, "--clock-step"), parse_duration(by[1:], "--clock-step")
    if at_us < begin_us:
        raise InvalidScheduleError(f"--clock-step {shorten(text)}: that is before {iso(begin_us)}")
    return at_us, (seconds if by[0] == "+" else -seconds) * SECOND_US


def _duration(text: str, database: Database) -> tuple[str, int]:
    given, equals, duration = text.rpartition("=")
    if not equals:
        raise InvalidScheduleError(f"--duration {shorten(text)}: give ID=DURATION, like mail=90s")
    seconds = parse_duration(duration, f"--duration {given}")
    return schedules.find(database, given), seconds * SECOND_US


def _firing(found: Decided) -> dict[str, Any]:
    return {
        "schedule_id": found.schedule_id,
        "scheduled_for": iso(found.scheduled_us),
        "decision": found.decision,
        "reason": found.reason,
    }


def _print_json(summary: dict[str, Any], firings: Iterator[dict[str, Any]]) -> None:
    """One object, written as it comes, since there may be millions of firings."""
    sys.stdout.write(json.dumps(summary, indent=2).removesuffix("\n}") + ',\n  "firings": [')
    comma = ""
    for firing in firings:
        sys.stdout.write(f"{comma}\n    {json.dumps(firing, ensure_ascii=False)}")
        comma = ","
    sys.stdout.write("\n  ]\n}\n" if comma else "]\n}\n")


@contextmanager
def progress(begin_us: int, end_us: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, to be told of the simulated time."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=_STEPS_OF_BAR, label=label, file=sys.stderr) as bar:

        def advance(at_us: int) -> None:
            done = min(at_us - begin_us, end_us - begin_us) * _STEPS_OF_BAR // (end_us - begin_us)
            if done > bar.pos:
                bar.update(done - bar.pos)

        yield advance
        bar.update(_STEPS_OF_BAR - bar.pos)


@contextmanager
def tidy_end() -> Iterator[None]:
    """Let SIGTERM end the program as an interrupt does, so that no copy is left behind."""
    terminated = False

    def interrupt(*_: object) -> None:
        nonlocal terminated
        terminated = True
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if terminated:
            sys.exit(128 + signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def warn_of_bad(schedule_id: str, error: Exception) -> None:
    """Tell of a schedule that is left out."""
    say(f"Warning: schedule {schedule_id} cannot be read, and is left out: {error}")

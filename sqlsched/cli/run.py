"""`sqlsched run`: the scheduler itself."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sqlsched.cli.invocation import Invocation, say
from sqlsched.cli.schedule_options import read_window
from sqlsched.durations import parse_duration
from sqlsched.exceptions import BrokerError, InvalidScheduleError
from sqlsched.serialization import shorten

if TYPE_CHECKING:
    from sqlsched.abc import Broker


@click.command()
@click.option(
    "--skip-first-run",
    is_flag=True,
    help="Start with the next minute.",
)
@click.option(
    "--broker",
    "broker_name",
    metavar="NAME|MODULE:OBJECT",
    default="subprocess",
    help="subprocess (default), in-process, or yours.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Runs at once. Default 2 for each core; in-process 64.",
)
@click.option(
    "--app-dir",
    type=click.Path(path_type=Path),
    default=".",
    help="Where tasks are imported and run. Default .",
)
@click.option("--until-idle", is_flag=True, help="Exit when nothing is left to do.")
@click.option("--once", is_flag=True, help="Run what is due now, and exit.")
@click.option(
    "--catchup-window", metavar="DURATION|none|unlimited", help="For schedules that have none."
)
@click.option(
    "--delivery",
    type=click.Choice(["at-least-once", "at-most-once"]),
    default="at-least-once",
    help="A queue's message that may have been sent when a run died: again, or never.",
)
@click.option(
    "--keep", metavar="DURATION", default="90d", help="Keep history so long. Default 90d."
)
@click.option(
    "--accept-clock",
    is_flag=True,
    help="Believe a clock behind the record.",
)
@click.option(
    "--drain", metavar="DURATION", default="30s", help="Let tasks finish so long. Default 30s."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="Log this and what is worse. Default info.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="One line for each event. Default text.",
)
@click.pass_obj
def run(
    invocation: Invocation,
    skip_first_run: bool,
    broker_name: str,
    concurrency: int | None,
    app_dir: Path,
    until_idle: bool,
    once: bool,
    catchup_window: str | None,
    delivery: str,
    keep: str,
    accept_clock: bool,
    drain: str,
    log_level: str,
    log_format: str,
) -> None:
    """Run the schedules, until SIGTERM or Ctrl-C. Any number of `run` may share a database.

    \b
    Example: sqlsched run --broker in-process --app-dir /srv/shop
    """
    if once and until_idle:
        raise click.UsageError("--once and --until-idle exclude each other: give one")
    window = None if catchup_window is None else read_window(catchup_window, "--catchup-window")
    keep_seconds, drain_seconds = parse_duration(keep, "--keep"), parse_duration(drain, "--drain")
    if not app_dir.is_dir():
        raise InvalidScheduleError(f"--app-dir {shorten(str(app_dir))}: there is no such directory")
    sys.path.insert(0, str(app_dir.resolve()))
    broker = _broker(broker_name, app_dir, concurrency)

    # The engine is heavy to import; no other command needs it.
    from sqlsched.cli.logs import configure_logging
    from sqlsched.cli.serve import serve
    from sqlsched.scheduler import Options, Scheduler
    from sqlsched.sources.sqlite import SqliteScheduleSource

    configure_logging(log_level, log_format)
    options = Options(
        concurrency=concurrency,
        catchup_window=window,
        drain_seconds=drain_seconds,
        keep_seconds=keep_seconds,
        accept_clock=accept_clock,
        delivery=delivery,
    )
    new = not invocation.path.exists()
    with invocation.writing(create=True):  # what is wrong with it is said before anything starts
        if new:
            say(f"made a new database, {invocation.path}; `sqlsched add` fills it")
    scheduler = Scheduler(broker, [SqliteScheduleSource(invocation.path)])
    code = serve(scheduler, scheduler.run(skip_first_run, once, until_idle, options=options))
    raise click.exceptions.Exit(code)


def _broker(name: str, app_dir: Path, concurrency: int | None) -> "Broker":
    from sqlsched.abc import Broker

    if name == "subprocess":
        from sqlsched.brokers.subprocess import SubprocessBroker

        return SubprocessBroker(app_dir)
    if name == "in-process":
        from sqlsched.brokers.in_process import InProcessBroker

        return InProcessBroker(concurrency=concurrency or 64, app_dir=app_dir)
    if ":" not in name:
        raise InvalidScheduleError(
            f"--broker {shorten(name)}: give subprocess, in-process or MODULE:OBJECT"
        )
    from sqlsched.importing import import_object

    found = import_object(name)
    if not isinstance(found, Broker):
        raise BrokerError(f"--broker {name} is a {type(found).__name__}; give a sqlsched Broker")
    return found

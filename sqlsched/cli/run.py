"""`sqlsched run`: the scheduler itself."""

import os
from pathlib import Path
from typing import Any

import click

from sqlsched.cli.environment import environment_options, read_environment
from sqlsched.cli.invocation import Invocation
from sqlsched.cli.schedule_options import read_window
from sqlsched.durations import parse_duration
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten


@click.command()
@click.argument("scheduler_path", metavar="[MODULE:OBJECT]", required=False)
@click.option(
    "--skip-first-run",
    is_flag=True,
    help="Start with the next minute.",
)
@click.option(
    "--broker",
    "broker_name",
    metavar="NAME|MODULE:OBJECT",
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
@environment_options
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
@click.option("--keep-failed", metavar="DURATION", help="And of what failed. Default as --keep.")
@click.option(
    "--accept-clock",
    is_flag=True,
    help="Believe a clock behind the record.",
)
@click.option(
    "--drain", metavar="DURATION", default="30s", help="Let tasks finish so long. Default 30s."
)
@click.option(
    "--metrics", "metrics_at", metavar="[HOST:]PORT", help="Serve Prometheus metrics. Loopback."
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
    /,
    scheduler_path: str | None,
    skip_first_run: bool,
    broker_name: str | None,
    concurrency: int | None,
    app_dir: Path,
    env_files: tuple[Path, ...],
    env_names: tuple[str, ...],
    until_idle: bool,
    once: bool,
    delivery: str,
    accept_clock: bool,
    metrics_at: str | None,
    log_level: str,
    log_format: str,
    **texts: Any,
) -> None:
    """Run the schedules, until SIGTERM or Ctrl-C. Any number of `run` may share a database.

    With MODULE:OBJECT it runs that Scheduler, or the one that this function returns.

    \b
    Example: sqlsched run --broker in-process --app-dir /srv/shop
             sqlsched run shop.app:scheduler --skip-first-run
    """
    if once and until_idle:
        raise click.UsageError("--once and --until-idle exclude each other: give one")
    durations = read_durations(texts)
    if not app_dir.is_dir():
        raise InvalidScheduleError(f"--app-dir {shorten(str(app_dir))}: there is no such directory")

    # The engine is heavy to import; no other command needs it.
    from sqlsched.cli.compose import compose
    from sqlsched.cli.logs import configure_logging
    from sqlsched.cli.observing import observing
    from sqlsched.cli.serve import serve
    from sqlsched.engine.scheduler import Options
    from sqlsched.sd_notify import from_environment

    configure_logging(log_level, log_format)
    supervisor = from_environment(os.environ)  # takes out what is not for tasks
    environment = read_environment(env_files, env_names)
    scheduler = compose(invocation, scheduler_path, broker_name, app_dir, concurrency, environment)
    with observing(metrics_at, scheduler.database) as observer:
        options = Options(
            concurrency=concurrency,
            accept_clock=accept_clock,
            delivery=delivery,
            app_dir=app_dir,
            hook_environment=environment.of_children(os.environ),
            observer=observer,
            supervisor=supervisor,
            **durations,
        )
        code = serve(scheduler, scheduler.run(skip_first_run, once, until_idle, options=options))
    raise click.exceptions.Exit(code)


def read_durations(texts: dict[str, Any]) -> dict[str, Any]:
    """What the options that are durations say, under the names of scheduler.Options."""
    window, failed = texts["catchup_window"], texts["keep_failed"]
    return {
        "catchup_window": None if window is None else read_window(window, "--catchup-window"),
        "drain_seconds": parse_duration(texts["drain"], "--drain"),
        "keep_seconds": parse_duration(texts["keep"], "--keep"),
        "keep_failed_seconds": None if failed is None else parse_duration(failed, "--keep-failed"),
    }

"""`sqlsched prune`: forgetting old runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from sqlsched.cli.invocation import Invocation, json_option, print_json, say
from sqlsched.clock import now_us
from sqlsched.durations import parse_duration
from sqlsched.instants import SECOND_US
from sqlsched.storage import pruning
from sqlsched.storage.connection import Database
from sqlsched.storage.pruning import Cut

_DEFAULT = "90d"


@click.command()
@click.option(
    "--older-than", metavar="DURATION", help=f"What ended so long ago. Default {_DEFAULT}."
)
@click.option(
    "--keep-failed", metavar="DURATION", help="What failed is kept so long. Default as others."
)
@click.option(
    "--keep",
    type=click.IntRange(1, 2**31 - 1),
    metavar="N",
    help="Keep the newest N runs of each schedule, of any age.",
)
@json_option
@click.pass_obj
def prune(
    invocation: Invocation,
    older_than: str | None,
    keep_failed: str | None,
    keep: int | None,
    as_json: bool,
) -> None:
    """Forget old runs, and what they printed; a little at a time, while others go on.

    The record of changes to schedules goes with them, by age. With --keep alone, all runs but the
    newest go, of any age. `sqlsched run` forgets by itself what is older than its own --keep. The
    file does not shrink: new runs take the room.

    \b
    Example: sqlsched prune --older-than 30d --keep-failed 90d
             sqlsched prune --keep 100
    """
    now = now_us()
    if older_than is None and keep is None:
        older_than = _DEFAULT
    before_us = now - _age_us(older_than, "--older-than", 0)
    bad_before_us = now - _age_us(keep_failed, "--keep-failed", now - before_us)
    changes_before_us = now - _age_us(older_than or _DEFAULT, "--older-than", 0)
    with invocation.writing() as database:
        if keep is not None:
            pruning.set_newest_aside(database, keep)
        pruned = _prune_all(database, Cut(before_us, bad_before_us, newest_stay=keep is not None))
        while pruning.forget_changes(database, changes_before_us) == pruning.ROWS:
            pass
    if as_json:
        print_json({"pruned": pruned})
    say(f"forgot {pruned} run{'' if pruned == 1 else 's'}")


def _age_us(text: str | None, flag: str, default_us: int) -> int:
    return default_us if text is None else parse_duration(text, flag) * SECOND_US


def _prune_all(database: Database, cut: Cut) -> int:
    """Go through the ledger as it is now, from the oldest run to the newest."""
    first, last = pruning.extent(database)
    after, pruned = first - 1, 0
    with _progress(last - after) as advance:
        while after < last and (swept := pruning.prune(database, cut, after)).last is not None:
            pruned += swept.pruned
            advance(swept.last - after)
            after = swept.last
    return pruned


@contextmanager
def _progress(length: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label="pruning", file=sys.stderr) as bar:
        yield bar.update

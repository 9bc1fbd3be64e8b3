"""What a copy of a database says of the time that has passed since it was taken.

Others went on with the original: what came due meanwhile may have run, and nobody knows any more.
"""

from contextlib import suppress
from dataclasses import dataclass

from sqlsched.planner import Timing, jittered_us, settle
from sqlsched.storage import owners
from sqlsched.storage.connection import Database
from sqlsched.storage.peers import others
from sqlsched.storage.schedules import DAMAGED
from sqlsched.storage.timing import TIMING, timing_of_row
from sqlsched.storage.unrun import record

RESTORED = "restored"
"""Why a firing did not run, or a run was given up."""


@dataclass(frozen=True, slots=True)
class LostTime:
    """What is not known of the time between a backup and its restoring."""

    since_us: int | None
    """The latest moment that the backup knows of."""
    missed: int
    """Firings since then that are put on record as missed."""
    abandoned: int
    """Runs that were going or waiting then, put on record as abandoned."""


def mark(copy: Database, now_us: int) -> None:
    """Mark a copy with when it was taken, within a transaction. Nobody serves it."""
    _end_owners(copy, now_us)
    _remember(copy, "backed_up_us", now_us)


def settle_since(copy: Database, now_us: int, *, catch_up: bool) -> LostTime:
    """Account for the time since a copy was taken, within a transaction.

    Firings that have come due are missed, and runs that were going or waiting abandoned. With
    `catch_up` what has not started is left to the rules for missed firings.
    """
    since_us = _taken_us(copy)
    _end_owners(copy, now_us)
    copy.execute("DELETE FROM meta WHERE key = 'backed_up_us'")
    missed = 0
    if not catch_up:
        copy.execute(
            """UPDATE runs SET status = 'abandoned', reason = ?, held = 0, finished_us = ?,
                   error = 'what came of it after the backup is not known'
               WHERE finished_us IS NULL""",
            (RESTORED, now_us),
        )
        missed = _miss(copy, now_us)
        # What other sources list anew may have run, too.
        _remember(copy, "pruned_us", now_us)
    abandoned = _count_abandoned(copy, now_us if since_us is None else since_us)
    return LostTime(since_us, missed, abandoned)


def _taken_us(copy: Database) -> int | None:
    found: int | None = copy.execute(
        """SELECT max(us) FROM (SELECT value AS us FROM meta WHERE key = 'backed_up_us'
           UNION ALL SELECT max(seen_us) FROM owners)"""
    ).fetchone()[0]
    return found


def _end_owners(copy: Database, now_us: int) -> None:
    """What those who served had claimed is given back, what they ran is given up."""
    owners.end(copy, [owner.owner for owner in others(copy, None)], now_us, RESTORED)


def _remember(copy: Database, key: str, us: int) -> None:
    copy.execute(
        """INSERT INTO meta VALUES (?, ?)
           ON CONFLICT DO UPDATE SET value = max(value, excluded.value)""",
        (key, us),
    )


def _miss(copy: Database, now_us: int) -> int:
    """Record every firing that has come due as missed; how many there are.

    What is paused is left to who resumes it, and what machines share to who decides about it.
    """
    missed, moves = 0, []
    for schedule_id, task_name, next_us, *columns in copy.execute(
        f"""SELECT schedule_id, task_name, next_us, {TIMING} FROM schedules
            WHERE wake_us <= ? AND shared = 0""",
        (now_us,),
    ).fetchall():
        with suppress(*DAMAGED):  # the next claim says so
            timing = timing_of_row(*columns)
            until_us = _due_until_us(schedule_id, timing, now_us)
            for stretch in settle(timing.trigger, next_us, until_us, "missed", RESTORED):
                record(copy, schedule_id, task_name, stretch, timing.trigger, now_us)
                missed += stretch.count
            next_us = timing.trigger.next_us(until_us)
            wake_us = None if next_us is None else jittered_us(schedule_id, timing, next_us)
            moves.append((next_us, wake_us, schedule_id))
    copy.executemany("UPDATE schedules SET next_us = ?, wake_us = ? WHERE schedule_id = ?", moves)
    return missed


def _due_until_us(schedule_id: str, timing: Timing, now_us: int) -> int:
    """Up to when nominal firings are due: jitter may still hold the last one back."""
    last = timing.trigger.previous_us(now_us + 1)
    if last is None or jittered_us(schedule_id, timing, last) <= now_us:
        return now_us
    return last - 1


def _count_abandoned(copy: Database, since_us: int) -> int:
    """How many runs were given up, as the copy was taken and as it was restored."""
    found: int = copy.execute(
        """SELECT count(*) FROM runs WHERE status = 'abandoned' AND reason = ?
           AND finished_us >= ?""",
        (RESTORED, since_us),
    ).fetchone()[0]
    return found

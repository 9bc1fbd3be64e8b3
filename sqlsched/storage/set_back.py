"""Mending the ledger after the clock was put back: nothing waits for longer than if the clock had
shown this time all along. What ran stays in the ledger, and is not repeated.
"""

from contextlib import suppress
from dataclasses import replace

from sqlsched.instants import SECOND_US
from sqlsched.planner import DEFAULT_RETRY_DELAY_S, jittered_us
from sqlsched.storage.claims import DAMAGED, TIMING, timing_of_row
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.runs import pruned_us
from sqlsched.storage.starts import is_going


def pull_back(database: Database, now_us: int) -> int:
    """No schedule waits for a time beyond its natural next one, and no retry beyond its delay.

    Returns how many schedules were moved.
    """
    with transaction(database):
        moved = _pull_back_schedules(database, max(now_us, pruned_us(database)))
        _pull_back_retries(database, now_us)
    return moved


def _pull_back_schedules(database: Database, after_us: int) -> int:
    rows = database.execute(
        f"""SELECT schedule_id, next_us, anchor_us, {TIMING} FROM schedules
            WHERE next_us > ? AND time_us IS NULL AND shared = 0""",
        (after_us,),
    ).fetchall()
    moves = []
    for schedule_id, next_us, anchor_us, *columns in rows:
        with suppress(*DAMAGED):  # the next claim says so
            timing = timing_of_row(*columns)
            trigger = timing.trigger.counted_from(after_us)
            natural = trigger.next_us(after_us)
            if natural is not None and natural < next_us:
                wake_us = jittered_us(schedule_id, replace(timing, trigger=trigger), natural)
                if trigger != timing.trigger:
                    anchor_us = trigger.anchor_us
                moves.append((natural, wake_us, anchor_us, schedule_id))
    database.executemany(
        """UPDATE schedules SET next_us = ?1, wake_us = iif(paused_us IS NULL, ?2, NULL),
               anchor_us = ?3 WHERE schedule_id = ?4""",
        moves,
    )
    return len(moves)


def _pull_back_retries(database: Database, now_us: int) -> None:
    """No retry is further off than its delay."""
    database.execute(
        f"""UPDATE runs SET due_us = min(due_us, ? + (
                SELECT coalesce(retry_delay_s, {DEFAULT_RETRY_DELAY_S}) FROM schedules
                WHERE schedules.schedule_id = runs.schedule_id
            ) * {SECOND_US} * (1 << min(attempt - 2, 20)))
            WHERE {is_going("runs")} AND status = 'waiting' AND attempt > 1
            AND schedule_id IN (SELECT schedule_id FROM schedules)""",
        (now_us,),
    )

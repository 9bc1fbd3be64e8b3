"""Mending the ledger after the clock was put back: nothing waits for longer than if the clock had
shown this time all along.

What ran stays in the ledger, and is not repeated. Of the time that comes again it says nothing
else: the stretches of it that were given up, as missed or skipped, can run after all.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from sqlsched.instants import SECOND_US
from sqlsched.planner import DEFAULT_RETRY_DELAY_S, jittered_us
from sqlsched.storage import highest_time
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.runs import pruned_us
from sqlsched.storage.schedules import DAMAGED
from sqlsched.storage.timing import TIMING, timing_of_row
from sqlsched.storage.turn import Armed
from sqlsched.storage.unrun import count_ran
from sqlsched.trigger import Trigger

_SERVED = "owner IN (SELECT owner FROM owners WHERE stopped_us IS NULL)"
"""SQL: a run of somebody who has not ended in order, so that an index finds it."""


def pull_back(database: Database, now_us: int) -> int:
    """No schedule waits for a time beyond its natural next one, and no run beyond its delay.

    Returns how many schedules were moved.
    """
    with transaction(database):
        reopened = _reopen(database, now_us) + _give_back_claims(database, now_us)
        moved = _pull_back_schedules(database, max(now_us, pruned_us(database)), reopened)
        _pull_back_runs(database, now_us)
        highest_time.lower(database, now_us)
    return moved


def claimed(database: Database, owner: int) -> list[Armed]:
    """What a scheduler has claimed and not started, and when that is due now."""
    rows = database.execute(
        "SELECT run_id, due_us FROM runs WHERE owner = ? AND status = 'claimed'", (owner,)
    )
    return [Armed(*row) for row in rows]


def _reopen(database: Database, now_us: int) -> list[str]:
    """Take back what is on record as not run and lies ahead; the ids of its schedules."""
    rows = database.execute(
        f"""SELECT run_id, schedule_id, scheduled_us, last_us, count, {TIMING}
            FROM runs JOIN schedules USING (schedule_id)
            WHERE attempt = 0 AND last_us > ? AND shared = 0""",
        (now_us,),
    ).fetchall()
    reopened = []
    for run_id, schedule_id, first_us, last_us, count, *columns in rows:
        with suppress(*DAMAGED):
            trigger = timing_of_row(*columns).trigger
            # If not, it is about firings that the schedule had before an edit.
            if count == _unrun(database, schedule_id, trigger, first_us, last_us):
                last_us = trigger.previous_us(now_us + 1)
                left = _unrun(database, schedule_id, trigger, first_us, last_us)
                _shorten(database, run_id, last_us, left)
                reopened.append(schedule_id)
    return reopened


def _unrun(
    database: Database, schedule_id: str, trigger: Trigger, first_us: int, last_us: int | None
) -> int:
    if last_us is None or last_us < first_us:
        return 0
    return trigger.count(first_us, last_us) - count_ran(database, schedule_id, first_us, last_us)[0]


def _shorten(database: Database, run_id: int, last_us: int | None, count: int) -> None:
    if count:
        database.execute(
            "UPDATE runs SET last_us = ?, count = ? WHERE run_id = ?", (last_us, count, run_id)
        )
    else:
        database.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))


def _give_back_claims(database: Database, now_us: int) -> list[str]:
    """Firings that are claimed, and lie ahead, go back into their schedules; the ids of those."""
    ahead = """due_us > ?1 AND scheduled_us > ?1 AND attempt = 1 AND manual_key = 0
        AND schedule_id IN (SELECT schedule_id FROM schedules WHERE shared = 0)"""
    rows = database.execute(
        f"""DELETE FROM runs WHERE run_id IN (
                SELECT run_id FROM runs WHERE status = 'waiting' AND held = 0 AND {ahead}
                UNION ALL
                SELECT run_id FROM runs WHERE status = 'claimed' AND {_SERVED} AND {ahead})
            RETURNING schedule_id""",
        (now_us,),
    )
    return [row[0] for row in rows.fetchall()]


def _pull_back_schedules(database: Database, after_us: int, reopened: Sequence[str]) -> int:
    # One that was over has firings to come again if some were given up.
    rows = database.execute(
        f"""SELECT schedule_id, next_us, anchor_us, {TIMING} FROM schedules
            WHERE shared = 0 AND (next_us > ? AND time_us IS NULL
                OR schedule_id IN (SELECT value FROM json_each(?))
                AND (max_runs IS NULL OR dispatched < max_runs))""",
        (after_us, json.dumps(reopened)),
    ).fetchall()
    moves = []
    for schedule_id, next_us, anchor_us, *columns in rows:
        with suppress(*DAMAGED):  # the next claim says so
            timing = timing_of_row(*columns)
            trigger = timing.trigger.counted_from(after_us)
            # Of a one-shot that is here, the claim or the record was taken back just now.
            natural = trigger.next_us(after_us) if trigger.recurring else trigger.time_us
            if natural is not None and (next_us is None or natural < next_us):
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


def _pull_back_runs(database: Database, now_us: int) -> None:
    """No retry is further off than its delay, and what a broker refused, or somebody triggered,
    goes at once."""
    database.execute(
        f"""UPDATE runs SET due_us = min(due_us, CASE
                WHEN attempt > 1 THEN ?1 + {SECOND_US} * (1 << min(attempt - 2, 20)) * (
                    SELECT coalesce(max(retry_delay_s), {DEFAULT_RETRY_DELAY_S}) FROM schedules
                    WHERE schedules.schedule_id = runs.schedule_id)
                WHEN manual_key != 0 THEN ?1
                ELSE max(?1, scheduled_us + {SECOND_US} * (
                    SELECT coalesce(max(jitter_s), 0) FROM schedules
                    WHERE schedules.schedule_id = runs.schedule_id)) END)
            WHERE run_id IN (
                SELECT run_id FROM runs WHERE status = 'waiting' AND held = 0 AND due_us > ?1
                UNION ALL
                SELECT run_id FROM runs WHERE status = 'claimed' AND {_SERVED} AND due_us > ?1)""",
        (now_us,),
    )

"""Taking over from processes that died, and mending the ledger after the clock was put back."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlsched.instants import SECOND_US
from sqlsched.planner import DEFAULT_RETRY_DELAY_S, jittered_us
from sqlsched.storage import files
from sqlsched.storage.claims import DAMAGED, TIMING, abandon, release, timing_of_row
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.pruning import pruned_us
from sqlsched.storage.starts import is_going
from sqlsched.storage.turn import Owner


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process that a dead scheduler may have left behind."""

    run_id: int
    pid: int
    pid_started: int
    boot_id: str


def orphans(database: Database, dead: Sequence[Owner]) -> list[Orphan]:
    """The processes of runs that dead schedulers had started and not seen end."""
    rows = database.execute(
        f"""SELECT run_id, runs.pid, pid_started, boot_id FROM runs JOIN owners USING (owner)
           WHERE {is_going("runs")} AND status = 'running' AND runs.pid IS NOT NULL
           AND owner IN (SELECT value FROM json_each(?))""",
        (_ids(dead),),
    )
    return [Orphan(*row) for row in rows]


def take_over(
    database: Database, dead: Sequence[Owner], now_us: int, *, resend: bool = True
) -> list[int]:
    """Give back what the dead had claimed; abandon what they ran. Returns the abandoned runs.

    What a dead process had started is never started again: nobody knows how far it got. What it
    was sending to a queue is sent again, under the same task id, if `resend`.
    """
    with transaction(database):
        if resend:
            database.execute(
                f"""UPDATE runs SET status = 'claimed', started_us = NULL
                   WHERE {is_going("runs")} AND status = 'sending'
                   AND owner IN (SELECT value FROM json_each(?))""",
                (_ids(dead),),
            )
        abandoned = abandon(database, [owner.owner for owner in dead], now_us, "owner-died")
        release(database, [owner.owner for owner in dead])
        database.execute(
            """UPDATE owners SET stopped_us = seen_us
               WHERE owner IN (SELECT value FROM json_each(?))""",
            (_ids(dead),),
        )
    for owner in dead:
        files.remove_owner(database.path.resolve(), owner.token)
    return abandoned


def pull_back(database: Database, now_us: int) -> int:
    """After the clock was put back: no schedule waits for a time beyond its natural next one.

    What ran already stays in the ledger and is not repeated. Returns how many were moved.
    """
    with transaction(database):
        after_us = max(now_us, pruned_us(database))
        rows = database.execute(
            f"""SELECT schedule_id, next_us, {TIMING} FROM schedules
                WHERE next_us > ? AND time_us IS NULL AND shared = 0""",
            (after_us,),
        ).fetchall()
        moves = []
        for schedule_id, next_us, *columns in rows:
            with suppress(*DAMAGED):  # the next claim says so
                timing = timing_of_row(*columns)
                natural = timing.trigger.next_us(after_us)
                if natural is not None and natural < next_us:
                    wake_us = jittered_us(schedule_id, timing, natural)
                    moves.append((natural, wake_us, schedule_id))
        database.executemany(
            """UPDATE schedules SET next_us = ?1, wake_us = iif(paused_us IS NULL, ?2, NULL)
               WHERE schedule_id = ?3""",
            moves,
        )
        _pull_back_retries(database, now_us)
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


def idle(database: Database, sources: Sequence[str] = ("",)) -> bool:
    """Whether nothing is left to do: no firing to come, nothing claimed, waiting or running.

    What a paused schedule still has to do does not count: only a person can let it go on.
    """
    row = database.execute(
        f"""SELECT EXISTS (
               SELECT 1 FROM schedules JOIN json_each(?1) AS name ON source = name.value
               WHERE wake_us IS NOT NULL
           ) OR EXISTS (
               SELECT 1 FROM (
                   SELECT * FROM runs WHERE status = 'claimed'
                   UNION ALL SELECT * FROM runs WHERE status = 'waiting' AND held = 0
                   UNION ALL SELECT * FROM runs WHERE {is_going("runs")})
               LEFT JOIN schedules USING (schedule_id)
               WHERE coalesce(source, '') IN (SELECT value FROM json_each(?1))
               AND NOT (status = 'waiting' AND paused_us IS NOT NULL AND manual_key = 0))""",
        (json.dumps(sources),),
    ).fetchone()
    return not row[0]


def _ids(dead: Sequence[Owner]) -> str:
    return json.dumps([owner.owner for owner in dead])

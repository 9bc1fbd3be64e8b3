"""Recording how runs ended, and planning what is tried again."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlsched.instants import SECOND_US
from sqlsched.planner import MAX_REFUSAL_DELAY_S, retry_due_us
from sqlsched.storage.changes import next_columns, pause_within
from sqlsched.storage.connection import Database
from sqlsched.storage.schedules import get
from sqlsched.storage.starts import REMOVED, SENT_AGAIN
from sqlsched.storage.turn import Armed, Finished, Request, Turn


def finish(database: Database, request: Request, result: Turn) -> None:
    """Write down what this process learned of its runs. A run it has lost is left alone."""
    if request.processes:
        database.executemany(
            "UPDATE runs SET pid = ?, pid_started = ? WHERE run_id = ? AND owner = ?",
            [(pid, started, run_id, request.owner) for run_id, pid, started in request.processes],
        )
    for run_id, due_us in request.refused:
        # The clock may have been put back since.
        now_us = request.moment.now_us
        due_us = min(due_us, now_us + MAX_REFUSAL_DELAY_S * SECOND_US)
        _take_back(database, request.owner, run_id, due_us, now_us, result)
    if request.finished:
        _record_ends(database, request, result)
    if request.printed:
        database.executemany(
            """INSERT OR REPLACE INTO outputs SELECT ?1, ?2, ?3, ?4
               WHERE EXISTS (SELECT 1 FROM runs WHERE run_id = ?1 AND owner = ?5)""",
            [(p.run_id, p.head, p.tail, p.total_bytes, request.owner) for p in request.printed],
        )


def _record_ends(database: Database, request: Request, result: Turn) -> None:
    finished, now_us = request.finished, request.moment.now_us
    rows = database.execute(
        f"""SELECT run_id, reason IS '{REMOVED}' FROM runs
           WHERE run_id IN (SELECT value FROM json_each(?))
           AND owner = ? AND status IN ('running', 'sending')""",
        (json.dumps([end.run_id for end in finished]), request.owner),
    ).fetchall()
    ours = {run_id for run_id, _ in rows}
    of_none = {run_id for run_id, is_removed in rows if is_removed}
    alike: dict[tuple[Any, ...], list[tuple[int, int]]] = defaultdict(list)
    for end in finished:
        if end.run_id in ours:
            how = (end.status, end.exit_code, end.error, end.reason)
            alike[how].append((end.run_id, end.finished_us))
    for how, ends in alike.items():
        database.execute(
            """UPDATE runs SET status = ?, exit_code = ?, error = ?, reason = ?,
                   finished_us = max(coalesce(started_us, 0), json_extract(ended.value, '$[1]'))
               FROM json_each(?) AS ended WHERE run_id = json_extract(ended.value, '$[0]')""",
            (*how, json.dumps(ends)),
        )
    for end in finished:
        if end.run_id not in ours:
            result.lost.append(end.run_id)
        elif end.status in {"failed", "timed_out"} and end.run_id not in of_none:
            # The clock may have been put back since.
            _plan_retry(database, end, min(end.finished_us, now_us), result)
    succeeded = [e.run_id for e in finished if e.status == "succeeded"]
    _forget_failures(database, [run_id for run_id in succeeded if run_id in ours - of_none])


def _take_back(
    database: Database, owner: int, run_id: int, due_us: int, now_us: int, result: Turn
) -> None:
    """A refused send is no attempt: the run is claimed again, to be started later."""
    hit = database.execute(
        """UPDATE runs SET status = 'claimed', started_us = NULL, due_us = ?
           WHERE run_id = ? AND owner = ? AND status IN ('running', 'sending')
           RETURNING schedule_id, scheduled_us, attempt = 1 AND manual_key = 0, reason""",
        (due_us, run_id, owner),
    ).fetchone()
    if hit is None:
        result.lost.append(run_id)
        return
    schedule_id, scheduled_us, is_firing, reason = hit
    if reason == REMOVED:
        database.execute(
            "UPDATE runs SET status = 'cancelled', finished_us = ? WHERE run_id = ?",
            (now_us, run_id),
        )
        return
    result.armed.append(Armed(run_id, due_us))
    if is_firing and reason != SENT_AGAIN:
        _count_back(database, schedule_id, scheduled_us)


def _count_back(database: Database, schedule_id: str, scheduled_us: int) -> None:
    """A firing was no dispatch after all; one that was the last that `max_runs` allows is not, and
    the schedule goes on after it."""
    is_over = database.execute(
        """UPDATE schedules SET dispatched = dispatched - 1
           WHERE max_runs IS NOT NULL AND schedule_id = ?
           RETURNING next_us IS NULL AND time_us IS NULL AND dispatched < max_runs""",
        (schedule_id,),
    ).fetchone()
    if is_over is None or not is_over[0]:
        return
    there = get(database, schedule_id)
    next_us = there.trigger.next_us(scheduled_us)
    paused = there.paused_us is not None
    values = next_columns(schedule_id, there.schedule, there.anchor_us, next_us, paused=paused)
    database.execute(
        "UPDATE schedules SET next_us = :next_us, wake_us = :wake_us WHERE schedule_id = :id",
        values | {"id": schedule_id},
    )


def _plan_retry(database: Database, end: Finished, ended_us: int, result: Turn) -> None:
    row = database.execute(
        """SELECT schedule_id, retries, retry_delay_s, attempt FROM runs
           JOIN schedules USING (schedule_id) WHERE run_id = ?""",
        (end.run_id,),
    ).fetchone()
    if row is None:
        return
    schedule_id, retries, retry_delay_s, attempt = row
    due_us = retry_due_us(retries, retry_delay_s, attempt, ended_us)
    if due_us is None:
        _count_failure(database, schedule_id, ended_us, result)
        return
    database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, manual_key, trigger,
               status, due_us, untold)
           SELECT schedule_id, task_name, scheduled_us, attempt + 1, manual_key, 'retry',
               'waiting', ?, untold FROM runs WHERE run_id = ? ON CONFLICT DO NOTHING""",
        (due_us, end.run_id),
    )
    # It has not failed for good: what is to be told is how the last attempt ends.
    database.execute("UPDATE runs SET untold = 0 WHERE run_id = ?", (end.run_id,))
    result.retries.append((end.run_id, due_us))


def _count_failure(database: Database, schedule_id: str, now_us: int, result: Turn) -> None:
    """A run has failed for good; after so many in a row its schedule is paused."""
    row = database.execute(
        """UPDATE schedules SET failures = failures + 1
           WHERE schedule_id = ? AND pause_on_failure IS NOT NULL
           RETURNING failures, failures >= pause_on_failure AND paused_us IS NULL""",
        (schedule_id,),
    ).fetchone()
    if row is not None and row[1]:
        note = f"{row[0]} failures in a row"
        pause_within(database, [schedule_id], now_us, note=note, who="sqlsched")
        result.paused.append((schedule_id, row[0]))


def _forget_failures(database: Database, succeeded: Sequence[int]) -> None:
    failing = "SELECT 1 FROM schedules WHERE failures > 0 LIMIT 1"
    if succeeded and database.execute(failing).fetchone():
        database.execute(
            """UPDATE schedules SET failures = 0 WHERE failures > 0 AND schedule_id IN (
                   SELECT schedule_id FROM runs
                   WHERE run_id IN (SELECT value FROM json_each(?)))""",
            (json.dumps(list(succeeded)),),
        )

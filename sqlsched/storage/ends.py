"""Recording how runs ended, and planning what is tried again."""

from sqlsched.planner import retry_due_us
from sqlsched.storage.connection import Database
from sqlsched.storage.turn import Finished, Request, Turn


def finish(database: Database, request: Request, result: Turn) -> None:
    """Write down what this process learned of its runs. A run it has lost is left alone."""
    database.executemany(
        "UPDATE runs SET pid = ?2, pid_started = ?3 WHERE run_id = ?1", request.processes
    )
    for end in request.finished:
        hit = database.execute(
            """UPDATE runs SET status = ?, finished_us = ?, exit_code = ?, error = ?, reason = ?
               WHERE run_id = ? AND owner = ? AND status IN ('running', 'sending')""",
            (
                *(end.status, end.finished_us, end.exit_code, end.error, end.reason),
                *(end.run_id, request.owner),
            ),
        )
        if not hit.rowcount:
            result.lost.append(end.run_id)
        elif end.status in {"failed", "timed_out"}:
            _plan_retry(database, end, result)
    database.executemany(
        """INSERT OR REPLACE INTO outputs SELECT ?1, ?2, ?3, ?4
           WHERE EXISTS (SELECT 1 FROM runs WHERE run_id = ?1)""",
        [(p.run_id, p.head, p.tail, p.total_bytes) for p in request.printed],
    )


def _plan_retry(database: Database, end: Finished, result: Turn) -> None:
    row = database.execute(
        """SELECT retries, retry_delay_s, attempt FROM runs JOIN schedules USING (schedule_id)
           WHERE run_id = ?""",
        (end.run_id,),
    ).fetchone()
    if row is None:
        return
    retries, retry_delay_s, attempt = row
    due_us = retry_due_us(retries, retry_delay_s, attempt, end.finished_us)
    if due_us is None:
        return
    database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, manual_key, trigger,
               status, due_us)
           SELECT schedule_id, task_name, scheduled_us, attempt + 1, manual_key, 'retry',
               'waiting', ? FROM runs WHERE run_id = ? ON CONFLICT DO NOTHING""",
        (due_us, end.run_id),
    )
    result.retries.append((end.run_id, due_us))

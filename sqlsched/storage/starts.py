"""Starting claimed runs: the guarded write after which a run counts as started."""

import json
from typing import Any

from sqlsched.overlap import Candidate, Going, Verdict, may_start
from sqlsched.storage.connection import Database
from sqlsched.storage.schedules import LIVE
from sqlsched.storage.turn import Request, Started, Turn, Unrun

# A refused send moves due_us on; `expires` counts from when the run was to start at first.
_FIRST_DUE = """iif(r.attempt = 1,
    min(r.due_us, r.scheduled_us + 1000000 * coalesce(s.jitter_s, 0)), r.due_us)"""
_STARTED = f"""r.run_id, r.schedule_id, r.scheduled_us, {_FIRST_DUE}, r.attempt, r.manual_key,
    r.trigger, coalesce(s.task_name, r.task_name), s.args, s.kwargs, s.labels, s.task_id,
    s.timeout_s, s.expires_s, coalesce(s.source, '')"""


def start(database: Database, request: Request, due: list[int], result: Turn) -> None:
    """Start the claimed runs that are due, where their schedule still wants them to run."""
    rows = database.execute(
        f"""SELECT {_STARTED}, s.paused_us, s.overlap, s.coalesce, s.max_runs, s.dispatched,
                s.schedule_id IS NOT NULL
            FROM runs AS r LEFT JOIN schedules AS s USING (schedule_id)
            WHERE r.run_id IN (SELECT value FROM json_each(?)) AND r.owner = ?
            AND r.status = 'claimed' ORDER BY r.due_us, r.scheduled_us, r.run_id""",
        (json.dumps(due), request.owner),
    ).fetchall()
    result.lost += set(due) - {row[0] for row in rows}
    going = _going(database, {row[1] for row in rows if row[4] == 1 and row[5] == 0})
    left: dict[str, int] = {}
    for row in rows:
        if row[0] in result.revoked:
            continue
        run = Started(*row[:15])
        verdict = may_start(
            _candidate(run, row[15:], left),
            going.get(run.schedule_id, Going()),
            request.moment.now_us,
            reports_completion=request.reports_completion,
        )
        if verdict.action == "start" and len(result.started) >= request.room:
            result.roomless.append(run.run_id)
            continue
        if verdict.action == "start":
            result.started.append(run)
            _count(database, run, row[18], left, result)
        else:
            _put_off(database, run, verdict, request.moment.now_us, result)
        _follow(going, run, verdict)
    status = "running" if request.reports_completion else "sending"
    database.executemany(
        "UPDATE runs SET status = ?, started_us = ? WHERE run_id = ?",
        [(status, request.moment.now_us, run.run_id) for run in result.started],
    )


def _going(database: Database, schedule_ids: set[str]) -> dict[str, Going]:
    """By schedule, what is on its way already."""
    rows = database.execute(
        f"""SELECT r.schedule_id, r.run_id, r.held FROM json_each(?) AS wanted
            JOIN runs AS r ON r.schedule_id = wanted.value
            WHERE r.status IN {LIVE} AND (r.held = 1 OR {is_going("r")})
            ORDER BY r.run_id""",
        (json.dumps(list(schedule_ids)),),
    )
    result: dict[str, Going] = {}
    for schedule_id, run_id, held in rows:
        there = result.get(schedule_id, Going())
        result[schedule_id] = (
            Going(there.started, (*there.held, run_id))
            if held
            else Going((*there.started, run_id), there.held)
        )
    return result


def _candidate(run: Started, state: tuple[Any, ...], left: dict[str, int]) -> Candidate:
    paused_us, overlap, coalesce, max_runs, dispatched, present = state
    if max_runs is not None:
        left.setdefault(run.schedule_id, max_runs - dispatched)
    return Candidate(
        run_id=run.run_id,
        schedule_id=run.schedule_id,
        due_us=run.due_us,
        attempt=run.attempt,
        manual=run.manual_key != 0,
        serial=coalesce == "all" and run.trigger == "catchup",
        present=bool(present),
        paused=paused_us is not None,
        overlap=overlap,
        expires_s=run.expires_s,
        runs_left=left.get(run.schedule_id),
    )


def _count(
    database: Database, run: Started, max_runs: int | None, left: dict[str, int], result: Turn
) -> None:
    """Count a dispatch towards `max_runs`; the last one ends the schedule."""
    if max_runs is None or run.manual_key or run.attempt > 1:
        return
    left[run.schedule_id] -= 1
    database.execute(
        """UPDATE schedules SET dispatched = dispatched + 1,
               next_us = iif(dispatched + 1 < max_runs, next_us, NULL),
               wake_us = iif(dispatched + 1 < max_runs, wake_us, NULL)
           WHERE schedule_id = ?""",
        (run.schedule_id,),
    )
    if left[run.schedule_id] == 0:
        started = json.dumps([other.run_id for other in result.started])
        revoked = database.execute(
            """DELETE FROM runs WHERE schedule_id = ? AND status = 'claimed' AND attempt = 1
               AND manual_key = 0 AND run_id NOT IN (SELECT value FROM json_each(?))
               RETURNING run_id""",
            (run.schedule_id, started),
        )
        result.revoked += [row[0] for row in revoked.fetchall()]


def _put_off(database: Database, run: Started, verdict: Verdict, now_us: int, result: Turn) -> None:
    if verdict.action == "hold":
        database.execute(
            """UPDATE runs SET status = 'waiting', held = 1, owner = NULL, reason = ?
               WHERE run_id = ?""",
            (verdict.reason, run.run_id),
        )
    else:
        database.execute(
            """UPDATE runs SET status = ?, reason = ?, finished_us = ?, because_of = ?
               WHERE run_id = ?""",
            (verdict.status, verdict.reason, now_us, verdict.because_of, run.run_id),
        )
        assert verdict.status is not None
        assert verdict.reason is not None
        result.unrun.append(
            Unrun(run.schedule_id, run.scheduled_us, 1, verdict.status, verdict.reason)
        )
    stopped = json.dumps(verdict.cancels)
    database.execute(
        """UPDATE runs SET status = 'cancelled', reason = 'overlap', held = 0, finished_us = ?,
               because_of = ?
           WHERE status IN ('waiting', 'claimed') AND run_id IN (SELECT value FROM json_each(?))""",
        (now_us, run.run_id, stopped),
    )
    database.execute(
        """UPDATE runs SET cancel_us = ?, because_of = ? WHERE status IN ('running', 'sending')
           AND run_id IN (SELECT value FROM json_each(?))""",
        (now_us, run.run_id, stopped),
    )


def _follow(going: dict[str, Going], run: Started, verdict: Verdict) -> None:
    """Let the next decision of this turn know of this one."""
    there = going.get(run.schedule_id, Going())
    if verdict.action == "start":
        going[run.schedule_id] = Going((*there.started, run.run_id), there.held)
    elif verdict.action == "hold":
        held = tuple(i for i in there.held if i not in verdict.cancels)
        going[run.schedule_id] = Going(there.started, (*held, run.run_id))


def is_going(name: str) -> str:
    """SQL: a run that stands in the way of the schedule's next. A retry to come is one, too."""
    return f"""({name}.status IN ('running', 'sending')
        OR ({name}.attempt > 1 AND {name}.status IN ('waiting', 'claimed')))"""

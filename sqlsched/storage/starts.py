"""Starting claimed runs: the guarded write after which a run counts as started."""

import json
from collections.abc import Sequence

from sqlsched.overlap import Candidate, Going, Verdict, may_start
from sqlsched.storage.connection import Database
from sqlsched.storage.hooks import in_force
from sqlsched.storage.turn import BACKFILL_KEY, Request, Started, Turn, Unrun

REMOVED = "removed"
"""The reason of a run that goes on though its schedule is gone: of another of the same id that may
be made, it is no run."""
SENT_AGAIN = "owner-died"
"""The reason of a run that a dead process may have sent. It has been dispatched: it is sent again,
counts once towards `max_runs`, and nothing that is done to its schedule takes it back."""

# A refused send moves due_us on; `expires` counts from when the run was to start at first. What is
# backfilled is late, and meant to be.
_EXPIRES = f"""iif(r.manual_key = {BACKFILL_KEY}, NULL, iif(r.attempt = 1,
    min(r.due_us, r.scheduled_us + 1000000 * coalesce(s.jitter_s, 0)), r.due_us)
    + 1000000 * s.expires_s)"""
_STARTED = f"""r.run_id, r.schedule_id, r.scheduled_us, r.due_us, r.attempt, r.manual_key,
    r.trigger, coalesce(s.task_name, r.task_name), s.args, s.kwargs, s.labels, s.task_id,
    s.timeout_s, {_EXPIRES}, coalesce(s.source, ''),
    {in_force("s", "ping")}"""
_CANDIDATE = f"""r.attempt, r.manual_key > 0, r.manual_key = {BACKFILL_KEY},
    s.coalesce IS 'all' AND r.trigger = 'catchup', s.schedule_id IS NOT NULL,
    s.paused_us IS NOT NULL AND r.reason IS NOT '{SENT_AGAIN}',
    s.overlap, {_EXPIRES}, iif(r.reason IS '{SENT_AGAIN}', NULL, s.max_runs - s.dispatched)"""
_OURS = """r.run_id IN (SELECT value FROM json_each(?)) AND +r.owner = ? AND r.status = 'claimed'"""
"""SQL: runs by their ids. The plus keeps SQLite from going through all that the owner claimed."""
UNSTARTED = f"""attempt = 1 AND manual_key = 0 AND status IN ('claimed', 'waiting') AND held = 0
    AND reason IS NOT '{SENT_AGAIN}'"""
"""SQL: a firing that was claimed, and perhaps given back, and has not been started."""
_PARTS = len(Started._fields)
_NOTHING = Going()


def start(database: Database, request: Request, due: Sequence[int], result: Turn) -> bool:
    """Start the claimed runs that are due, where their schedule still wants them to run.

    Returns whether they were just started: none was put off, and none was its schedule's last.
    """
    if not due:
        return True
    all_plain = True
    room = max(0, request.room)
    due = [*due[:room], *_contested(database, request.owner, due[room:], result)]
    rows = database.execute(
        f"""SELECT {_STARTED}, {_CANDIDATE}
            FROM runs AS r LEFT JOIN schedules AS s USING (schedule_id)
            WHERE {_OURS} ORDER BY r.due_us, r.scheduled_us, r.run_id""",
        (json.dumps(due), request.owner),
    ).fetchall()
    if len(rows) < len(due):
        result.lost += set(due) - {row[0] for row in rows}
    now_us = request.moment.now_us
    going = _going(database, {row[1] for row in rows})
    left: dict[str, int] = {}
    cancelled: set[int] = set()
    for row in rows:
        run, candidate = Started._make(row[:_PARTS]), Candidate._make(row[_PARTS:])
        if run.run_id in cancelled:  # a retry of this very turn, by a firing before it
            continue
        if candidate.runs_left is not None:
            if run.run_id in result.revoked:
                continue
            runs_left = left.setdefault(run.schedule_id, candidate.runs_left)
            candidate = candidate._replace(runs_left=runs_left)
        others = going.get(run.schedule_id, _NOTHING)
        verdict = may_start(
            candidate, others, now_us, reports_completion=request.reports_completion
        )
        if verdict.action != "start":
            all_plain = False
            _put_off(database, run, verdict, now_us, result)
            _overtake(database, verdict, left, result)
            cancelled.update(verdict.cancels)
        elif len(result.started) >= request.room:
            result.roomless.append(run.run_id)
            continue
        else:
            result.started.append(run)
            if candidate.runs_left is not None:
                all_plain = False
                _count(database, run, now_us, left, result)
        going[run.schedule_id] = _after(others, run.run_id, verdict)
    _mark_started(database, request, result.started)
    return all_plain


def _mark_started(database: Database, request: Request, started: Sequence[Started]) -> None:
    database.execute(
        """UPDATE runs SET status = ?, started_us = max(?, due_us)
           WHERE run_id IN (SELECT value FROM json_each(?))""",
        (
            "running" if request.reports_completion else "sending",
            request.moment.now_us,
            json.dumps([run.run_id for run in started]),
        ),
    )


def _contested(database: Database, owner: int, due: Sequence[int], result: Turn) -> list[int]:
    """Of runs that there is no room for, those that may be refused now; the others wait for room.

    What stands in the way of a run counts at its time, not when there is room for it.
    """
    if not due:
        return []
    rows = database.execute(
        f"""SELECT r.run_id, s.schedule_id IS NULL OR s.paused_us IS NOT NULL
                OR s.expires_s IS NOT NULL OR s.max_runs IS NOT NULL
                OR EXISTS (SELECT 1 FROM runs AS o WHERE o.schedule_id = r.schedule_id
                    AND {is_going("o")})
            FROM runs AS r LEFT JOIN schedules AS s USING (schedule_id)
            WHERE {_OURS} ORDER BY r.due_us, r.scheduled_us, r.run_id""",
        (json.dumps(due), owner),
    ).fetchall()
    if len(rows) < len(due):
        result.lost += set(due) - {row[0] for row in rows}
    result.roomless += [run_id for run_id, contested in rows if not contested]
    return [run_id for run_id, contested in rows if contested]


def _going(database: Database, schedule_ids: set[str]) -> dict[str, Going]:
    """By schedule, what is on its way already."""
    rows = database.execute(
        f"""SELECT r.schedule_id, r.run_id, r.held FROM json_each(?) AS wanted
            JOIN runs AS r ON r.schedule_id = wanted.value
            WHERE {is_going("r")} AND r.reason IS NOT '{REMOVED}'
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


def _count(
    database: Database, run: Started, now_us: int, left: dict[str, int], result: Turn
) -> None:
    """Count a dispatch towards `max_runs`; the last one ends the schedule."""
    if run.manual_key or run.attempt > 1:
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
        _revoke_rest(database, run.schedule_id, now_us, result)


def _revoke_rest(database: Database, schedule_id: str, now_us: int, result: Turn) -> None:
    """Take back what is claimed beyond the runs of a schedule, or given back, by anyone.

    A firing among them, which another process has not started in time, was skipped.
    """
    started = [run for run in result.started if run.schedule_id == schedule_id]
    ids = json.dumps([run.run_id for run in started])
    latest_us = max(run.scheduled_us for run in started)
    rest = (
        f"""schedule_id = ?1 AND {UNSTARTED} AND run_id NOT IN (SELECT value FROM json_each(?2))"""
    )
    skipped = database.execute(
        f"""UPDATE runs SET status = 'skipped', reason = 'bounds', finished_us = ?3
            WHERE {rest} AND scheduled_us < max(?4, (SELECT coalesce(max(scheduled_us), 0)
                FROM runs WHERE schedule_id = ?1 AND attempt = 1 AND manual_key = 0
                AND (started_us IS NOT NULL OR reason IS '{SENT_AGAIN}')))
            RETURNING run_id, scheduled_us""",
        (schedule_id, ids, now_us, latest_us),
    ).fetchall()
    for run_id, scheduled_us in skipped:
        result.revoked.append(run_id)
        result.unrun.append(Unrun(schedule_id, scheduled_us, 1, "skipped", "bounds"))
    gone = database.execute(f"DELETE FROM runs WHERE {rest} RETURNING run_id", (schedule_id, ids))
    result.revoked += [row[0] for row in gone.fetchall()]


def _put_off(database: Database, run: Started, verdict: Verdict, now_us: int, result: Turn) -> None:
    if verdict.action == "hold":
        database.execute(
            f"""UPDATE runs SET status = 'waiting', held = iif(manual_key = {BACKFILL_KEY}, 2, 1),
                    owner = NULL, reason = ?
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


def _overtake(database: Database, verdict: Verdict, left: dict[str, int], result: Turn) -> None:
    """What was about to start in this very turn, and is cancelled, does not start."""
    overtaken = [run for run in result.started if run.run_id in verdict.cancels]
    for run in overtaken:
        result.started.remove(run)
        if run.schedule_id in left and not run.manual_key and run.attempt == 1:
            left[run.schedule_id] += 1
            database.execute(
                "UPDATE schedules SET dispatched = dispatched - 1 WHERE schedule_id = ?",
                (run.schedule_id,),
            )


def _after(there: Going, run_id: int, verdict: Verdict) -> Going:
    """What the next decision of this turn has to know of this one."""
    if verdict.action == "start":
        return Going((*there.started, run_id), there.held)
    if verdict.action == "hold":
        held = tuple(other for other in there.held if other not in verdict.cancels)
        return Going(there.started, (*held, run_id))
    return there


def is_going(name: str) -> str:
    """SQL: a run that stands in the way of the schedule's next: one that has started, a retry to
    come, or one that waits for those (`held`).

    In these words, as the index of such runs has them. It is small and has no mere claims in it:
    so a burst writes to few pages of it.
    """
    return f"""{name}.finished_us IS NULL AND ({name}.status IN ('running', 'sending')
        OR {name}.held = 1 OR {name}.attempt > 1)"""

"""What a running scheduler does to the ledger: claim, start, finish, take over.

`turn` is the one transaction of the loop: it records what ended, claims what is due or about to
be, and starts what is due. Doing all that is pending at once makes each commit worth its price.
Every change after the claim is guarded by owner and status: where it hits no row, this process
has lost the run to another and lets it go.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import SECOND_US
from sqlsched.planner import (
    Decisions,
    Moment,
    Plan,
    Timing,
    jittered_us,
    still_runs,
    without_firings,
)
from sqlsched.storage import peers
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.ends import finish
from sqlsched.storage.errors import damaged
from sqlsched.storage.held import FREE, NEXT_IN_LINE, NOT_PAUSED, SERVED, release_held
from sqlsched.storage.hooks import hooked
from sqlsched.storage.schedules import DAMAGED
from sqlsched.storage.soundness import damage, has_due
from sqlsched.storage.starts import SENT_AGAIN, is_going, start
from sqlsched.storage.telling import any_untold
from sqlsched.storage.timing import TIMING, timing_of_row
from sqlsched.storage.turn import BACKFILL_KEY, Armed, Request, Turn, Unrun
from sqlsched.storage.unrun import record

AHEAD_US = SECOND_US
"""Firings of the next second are claimed ahead, so that they start on the instant."""
FOREVER_US = 2**62
"""Later than any firing."""
OVERDUE_US = 5 * SECOND_US
"""A claim this late belongs to a process that is stopped or overloaded: anyone may take it."""

_WAITING = f"status = 'waiting' AND held = 0 AND {NOT_PAUSED}"
_OF_OTHERS = """status = 'claimed' AND runs.owner IN (SELECT o.owner FROM owners AS o
    WHERE o.stopped_us IS NULL AND o.owner != ?)"""


def turn(database: Database, request: Request) -> Turn:
    """Record, claim and start, in one transaction."""
    result = Turn()
    with transaction(database):
        finish(database, request, result)
        if request.heartbeat:
            alive = (request.moment.now_us, request.owner)
            database.execute("UPDATE owners SET seen_us = ? WHERE owner = ?", alive)
        due, next_us, in_vain = list(request.due), request.known_us, False
        soon_us = request.moment.now_us + AHEAD_US
        if next_us is None or request.finished or request.refused or next_us <= soon_us:
            outlook = _look_ahead(database, request)
            next_us = outlook.next_us
            if request.ahead >= 0 and next_us <= soon_us:
                before = database.total_changes
                due += _claim(database, request, outlook, result)
                in_vain = database.total_changes == before
                next_us = None  # it is what comes after those
        all_plain = start(database, request, due, result)
        if request.known_us is None or not all_plain:
            result.cancels = _cancels(database, request.owner)
            result.others = peers.others_beside(database, request.owner, request.token)
        if next_us is None or not all_plain:
            outlook = _look_ahead(database, request)
            if next_us is None and len(due) < request.room:
                _check_outlook(database, request, outlook, in_vain=in_vain)
            next_us = outlook.next_us
        result.untold = any_untold(database)
        result.next_us = None if next_us == FOREVER_US else next_us
    return result


class _Outlook(NamedTuple):
    """When there is something to claim, by its kind."""

    firing_us: int
    pending_us: int
    """A run that waits, or another's overdue claim."""
    free_us: int
    """A held run that may go now."""

    @property
    def next_us(self) -> int:
        return min(self)


def _check_outlook(
    database: Database, request: Request, outlook: _Outlook, *, in_vain: bool
) -> None:
    """All that was due has been claimed: what still seems to be would be looked for for ever."""
    last_us = request.last_us(0)
    if outlook.next_us > last_us:
        return
    if not has_due(database, last_us, firing=outlook.firing_us <= last_us):
        raise damaged(database.path, "an index has what its table has not")
    if in_vain and (problem := damage(database)):
        raise damaged(database.path, problem)


def _claim(database: Database, request: Request, outlook: _Outlook, result: Turn) -> list[int]:
    """Claim what there is room for; returns the runs that are due now."""
    now = request.moment.now_us
    room = max(0, request.room - len(request.due))
    spare = request.ahead if request.alone else 0
    before = database.execute("SELECT max(run_id) FROM runs").fetchone()[0] or 0
    due, soon = (-FOREVER_US, request.last_us(0)), (now + 1, request.last_us(AHEAD_US))
    # Each is asked for only if there is any: most turns have one firing to claim and nothing else.
    taken = [] if outlook.free_us == FOREVER_US else release_held(database, request, room)
    if outlook.pending_us <= soon[1]:
        taken += _take_pending(database, request, due, room - len(taken), result)
        if len(taken) >= room:  # the rest get in line with the firings that nobody has room for
            patient = due if request.alone else (due[0], now - AHEAD_US)
            taken += _take_pending(database, request, patient, request.ahead, result, others=False)
        taken += _take_pending(database, request, soon, request.ahead, result)
    if outlook.firing_us <= now:
        _claim_firings(database, request, due, room - len(taken) + spare, result)
    if outlook.firing_us <= soon[1]:
        _claim_firings(database, request, soon, request.ahead, result)
    mine = database.execute(
        "SELECT run_id, due_us FROM runs WHERE run_id > ? AND +owner = ? AND status = 'claimed'",
        (before, request.owner),
    )
    taken += mine.fetchall()
    result.armed += [Armed(*row) for row in taken if row[1] > now + request.lead_us]
    return [run_id for run_id, due_us in taken if due_us <= now + request.lead_us]


def _take_pending(
    database: Database,
    request: Request,
    within_us: tuple[int, int],
    limit: int,
    result: Turn,
    *,
    others: bool = True,
) -> list[tuple[int, int]]:
    """Claim retries, manual triggers, what others gave back, and what the `others` do not start.

    A firing among them has grown older: outside its catch-up window it is missed instead.
    """
    if limit <= 0:
        return []
    taken = []
    now_us = request.moment.now_us
    for run_id, due_us, schedule_id, scheduled_us, is_firing, *columns in database.execute(
        f"""SELECT run_id, due_us, schedule_id, scheduled_us, attempt = 1 AND manual_key = 0
                AND s.seq IS NOT NULL AND reason IS NOT '{SENT_AGAIN}', {TIMING}
            FROM (SELECT * FROM runs WHERE {_WAITING} AND due_us BETWEEN ?1 AND ?2
                  UNION ALL SELECT * FROM runs WHERE ?7 AND {_OF_OTHERS.replace("?", "?3")}
                  AND due_us BETWEEN ?1 AND min(?2, ?4)) AS runs
            LEFT JOIN schedules AS s USING (schedule_id)
            WHERE {SERVED.replace("?", "?5")} ORDER BY due_us LIMIT ?6""",
        (
            *(*within_us, request.owner, now_us - OVERDUE_US),
            *(json.dumps(request.sources), limit, others),
        ),
    ).fetchall():
        fate = _fate(request.moment, scheduled_us, due_us, columns) if is_firing else None
        if fate is None:
            taken.append((run_id, due_us))
        else:
            database.execute(
                "UPDATE runs SET status = ?, reason = ?, finished_us = ? WHERE run_id = ?",
                (*fate, now_us, run_id),
            )
            result.unrun.append(Unrun(schedule_id, scheduled_us, 1, *fate))
    database.executemany(
        "UPDATE runs SET status = 'claimed', owner = ? WHERE run_id = ?",
        [(request.owner, run_id) for run_id, _ in taken],
    )
    return taken


def _fate(
    moment: Moment, scheduled_us: int, due_us: int, columns: list[Any]
) -> tuple[str, str] | None:
    """Status and reason of a firing that has grown too old to run; None if it still runs."""
    try:
        timing = timing_of_row(*columns)
        if not still_runs(timing, due_us, moment.now_us, moment.catchup_window):
            return "missed", "outside-catchup-window"
    except DAMAGED:  # somebody changed the row by other means
        return "missed", "damaged"
    if timing.trigger.recurring and scheduled_us < (moment.not_before_us or 0):
        return "skipped", "first-run"
    return None


def abandon(database: Database, owners: Sequence[int], now_us: int, reason: str) -> list[int]:
    """End what these schedulers had started, as nobody knows how far it got; the runs' ids.

    Some may have started while the caller, who has its `now_us` from before, waited to write.
    """
    rows = database.execute(
        f"""UPDATE runs SET status = 'abandoned', reason = ?,
               finished_us = max(coalesce(started_us, 0), ?),
               error = 'the sqlsched process that ran it is gone'
           WHERE {is_going("runs")} AND status IN ('running', 'sending')
           AND owner IN (SELECT value FROM json_each(?)) RETURNING run_id""",
        (reason, now_us, json.dumps(list(owners))),
    )
    return [row[0] for row in rows.fetchall()]


def release(database: Database, owners: Sequence[int]) -> None:
    """Give back what these schedulers claimed and did not start; whoever comes next takes it."""
    database.execute(
        f"""UPDATE runs SET status = 'waiting', owner = NULL,
                held = iif(manual_key = {BACKFILL_KEY} AND attempt = 1, 2, reason IS 'overlap')
            WHERE status = 'claimed' AND owner IN (SELECT value FROM json_each(?))""",
        (json.dumps(list(owners)),),
    )


def _claim_firings(
    database: Database, request: Request, within_us: tuple[int, int], limit: int, result: Turn
) -> None:
    """Claim up to `limit` firings of schedules that are due within a span of time."""
    decide = Decisions(request.moment)
    runs: list[tuple[Any, ...]] = []
    moves: dict[tuple[int | None, int | None], list[int]] = defaultdict(list)
    for row in _due(database, request.sources, within_us, limit):
        seq, schedule_id, task_name, dispatched, next_us, wants_telling, wake_us, *columns = row
        try:
            _check_times(database, seq, next_us, wake_us)
            timing = timing_of_row(*columns)
            found = _plan(decide, schedule_id, timing, dispatched, next_us, limit - len(runs))
        except DAMAGED as error:  # the row is put aside, and stops nothing else
            result.bad.append((schedule_id, str(error)))
            moves[next_us, None].append(seq)
            continue
        if schedule_id in request.merged_out:
            found = without_firings(found)
        common = (request.owner, wants_telling)
        runs += [
            (*(schedule_id, task_name, f.scheduled_us, f.trigger, f.due_us), *common)
            for f in found.firings
        ]
        for stretch in found.stretches:
            recorded = record(
                *(database, schedule_id, task_name, stretch, timing.trigger, request.moment.now_us)
            )
            result.unrun += [Unrun.of(schedule_id, part) for part in recorded]
        wake = found.next_us
        if wake is not None and timing.jitter_s is not None:
            wake = jittered_us(schedule_id, timing, wake)
        moves[found.next_us, wake].append(seq)
        if len(runs) >= limit:
            break
    _insert(database, runs)
    database.executemany(
        """UPDATE schedules SET next_us = ?, wake_us = ?
           WHERE seq IN (SELECT value FROM json_each(?))""",
        [(*times, json.dumps(seqs)) for times, seqs in moves.items()],
    )


def _plan(
    decide: Decisions, schedule_id: str, timing: Timing, dispatched: int, next_us: int, limit: int
) -> Plan:
    if timing.max_runs is None:
        return decide.plan(schedule_id, timing, next_us, limit)
    if dispatched >= timing.max_runs:  # somebody changed one of them
        return Plan([], [], None)
    return decide.plan(schedule_id, timing, next_us, min(limit, timing.max_runs - dispatched))


def _check_times(database: Database, seq: int, next_us: int | None, wake_us: int) -> None:
    """InvalidScheduleError if a schedule that is due has no firing by then: a run claimed for it
    would wait for its time, or the row be due for ever, as its index has it."""
    if next_us is not None and next_us <= wake_us:
        return
    query = "SELECT wake_us FROM schedules WHERE seq = ?"
    if database.execute(query, (seq,)).fetchone() != (wake_us,):
        raise damaged(database.path, "an index has what its table has not")
    raise InvalidScheduleError(f"next_us {next_us}: at most wake_us, {wake_us}")


def _due(
    database: Database, sources: Sequence[str], within_us: tuple[int, int], limit: int
) -> list[tuple[Any, ...]]:
    if limit <= 0:
        return []
    rows = []
    for source in sources:  # each in the order of the index; together they would have to be sorted
        rows += database.execute(
            f"""SELECT seq, schedule_id, task_name, dispatched, next_us, {hooked("schedules")},
                    wake_us, {TIMING}
                FROM schedules WHERE source = ? AND wake_us BETWEEN ? AND ?
                ORDER BY wake_us LIMIT ?""",
            (source, *within_us, limit),
        ).fetchall()
    return sorted(rows, key=itemgetter(6))[:limit] if len(sources) > 1 else rows


def _insert(database: Database, runs: Iterable[tuple[Any, ...]]) -> None:
    # A firing that is in the ledger already was dispatched before the clock was put back.
    database.executemany(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, owner, untold)
           VALUES (?1, ?2, ?3, 1, ?4, 'claimed', ?5, ?6, ?7) ON CONFLICT DO NOTHING""",
        runs,
    )


def _cancels(database: Database, owner: int) -> list[tuple[int, str]]:
    """Runs of this process that somebody, or a run that takes their place, asked to stop."""
    rows = database.execute(
        """SELECT run_id, iif(because_of IS NULL, 'requested', 'overlap') FROM runs
           WHERE cancel_us IS NOT NULL AND finished_us IS NULL
           AND owner = ? AND status = 'running'""",
        (owner,),
    )
    return rows.fetchall()


def _look_ahead(database: Database, request: Request) -> _Outlook:
    """When this process has to look again, and what for."""
    served = SERVED.replace("?", "?1")
    times = database.execute(
        f"""SELECT (SELECT min(wake_us) FROM (SELECT (SELECT min(wake_us) FROM schedules
                    WHERE source = name.value AND wake_us IS NOT NULL) AS wake_us
                 FROM json_each(?1) AS name)),
                (SELECT min(due_us) FROM runs WHERE {_WAITING} AND {served}),
                (SELECT min(due_us) + {OVERDUE_US + AHEAD_US} FROM runs
                 WHERE ?3 > 0 AND {_OF_OTHERS.replace("?", "?2")} AND {served}),
                (SELECT min(due_us) FROM runs WHERE {FREE} AND {served}),
                CASE WHEN EXISTS (SELECT 1 FROM runs WHERE held = 2) THEN (SELECT min(due_us)
                    FROM runs WHERE run_id IN ({NEXT_IN_LINE}) AND {served}) END""",
        (json.dumps(request.sources), request.owner, request.room),
    ).fetchone()
    firing, waiting, of_others, free, in_line = (FOREVER_US if us is None else us for us in times)
    return _Outlook(firing, min(waiting, of_others), min(free, in_line))

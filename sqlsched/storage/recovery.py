"""Taking over from processes that died, and telling whether anything is left to do."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlsched.storage import files, telling
from sqlsched.storage.claims import abandon, release
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.owners import LAST_SEEN
from sqlsched.storage.starts import SENT_AGAIN, is_going
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
        database.execute(
            f"""UPDATE owners SET stopped_us = {LAST_SEEN}, died = 1
                WHERE owner IN (SELECT value FROM json_each(?))""",
            (_ids(dead),),
        )
        if resend:
            database.execute(
                f"""UPDATE runs SET status = 'claimed', started_us = NULL, reason = '{SENT_AGAIN}'
                   WHERE {is_going("runs")} AND status = 'sending'
                   AND owner IN (SELECT value FROM json_each(?))""",
                (_ids(dead),),
            )
        abandoned = abandon(database, [owner.owner for owner in dead], now_us, "owner-died")
        release(database, [owner.owner for owner in dead])
        telling.release(database, [owner.owner for owner in dead])
    for owner in dead:
        files.remove_owner(database.path.resolve(), owner.token)
    files.remove_strays(database.path.resolve())
    return abandoned


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
                   UNION ALL SELECT * FROM runs WHERE held = 2
                   UNION ALL SELECT * FROM runs WHERE {is_going("runs")})
               LEFT JOIN schedules USING (schedule_id)
               WHERE coalesce(source, '') IN (SELECT value FROM json_each(?1))
               AND NOT (status = 'waiting' AND paused_us IS NOT NULL AND manual_key = 0))""",
        (json.dumps(sources),),
    ).fetchone()
    return not row[0]


def _ids(dead: Sequence[Owner]) -> str:
    return json.dumps([owner.owner for owner in dead])

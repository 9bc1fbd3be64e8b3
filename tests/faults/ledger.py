"""What holds of every ledger at any moment, in SQL of its own: each rule asks for what breaks it.

Nothing here is shared with the program but the names of tables and columns.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

RULES = {
    "one attempt at one firing has two rows": """
        SELECT min(run_id) FROM runs
        GROUP BY +schedule_id, scheduled_us, attempt, manual_key HAVING count(*) > 1""",
    "a firing has a run, and is in a record of firings that never ran": """
        SELECT run.run_id FROM runs AS run JOIN runs AS record USING (schedule_id)
        WHERE run.attempt > 0 AND run.manual_key = 0 AND record.attempt = 0
        AND run.scheduled_us BETWEEN record.scheduled_us AND record.last_us""",
    "a firing is in two records of firings that never ran": """
        SELECT later.run_id FROM runs AS later JOIN runs AS earlier USING (schedule_id)
        WHERE later.attempt = 0 AND earlier.attempt = 0 AND later.run_id != earlier.run_id
        AND later.scheduled_us BETWEEN earlier.scheduled_us AND earlier.last_us""",
    "a record of firings that never ran does not say which": """
        SELECT run_id FROM runs WHERE attempt = 0
        AND (last_us IS NULL OR last_us < scheduled_us OR count < 1
            OR (last_us = scheduled_us) != (count = 1) OR status NOT IN
            ('skipped', 'missed', 'cancelled'))""",
    "a run stands for several firings": """
        SELECT run_id FROM runs WHERE attempt > 0 AND (last_us IS NOT NULL OR count != 1)""",
    "a status is none": """
        SELECT run_id FROM runs WHERE status NOT IN ('waiting', 'claimed', 'sending', 'running',
            'succeeded', 'failed', 'timed_out', 'sent', 'abandoned', 'cancelled', 'skipped',
            'missed')""",
    "a run is live and has an end, or neither": """
        SELECT run_id FROM runs WHERE (finished_us IS NULL)
        != (status IN ('waiting', 'claimed', 'sending', 'running'))""",
    "a run has a status that only a start gives, and no start": """
        SELECT run_id FROM runs WHERE started_us IS NULL AND status IN
        ('sending', 'running', 'succeeded', 'failed', 'timed_out', 'sent', 'abandoned')""",
    "a run started that has a status without a start": """
        SELECT run_id FROM runs WHERE started_us IS NOT NULL
        AND status IN ('waiting', 'claimed', 'skipped', 'missed')""",
    "a run started before its time": """
        SELECT run_id FROM runs WHERE started_us < due_us OR due_us < scheduled_us""",
    "a run ended before it started": """
        SELECT run_id FROM runs WHERE finished_us < started_us AND status != 'cancelled'""",
    "a run that was not let run has no reason": """
        SELECT run_id FROM runs WHERE reason IS NULL
        AND status IN ('cancelled', 'skipped', 'missed', 'abandoned')""",
    "a run is on its way with nobody who serves": """
        SELECT run_id FROM runs LEFT JOIN owners USING (owner)
        WHERE status IN ('claimed', 'sending', 'running')
        AND (token IS NULL OR stopped_us IS NOT NULL)""",
    "a run waits and has an owner": """
        SELECT run_id FROM runs WHERE status = 'waiting' AND owner IS NOT NULL""",
    "a run is held and does not wait": """
        SELECT run_id FROM runs WHERE held = 1 AND status != 'waiting'""",
    "an attempt follows none that failed": """
        SELECT run_id FROM runs AS retry WHERE attempt > 1 AND NOT EXISTS (
            SELECT 1 FROM runs AS failed WHERE failed.schedule_id = retry.schedule_id
            AND failed.scheduled_us = retry.scheduled_us AND failed.manual_key = retry.manual_key
            AND failed.attempt = retry.attempt - 1 AND failed.status IN ('failed', 'timed_out'))
        AND scheduled_us > (SELECT coalesce(max(value), 0) FROM meta WHERE key = 'pruned_us')""",
    "a failed run is not tried again, though it may": """
        SELECT run_id FROM runs AS failed JOIN schedules USING (schedule_id)
        WHERE status IN ('failed', 'timed_out') AND attempt <= retries AND NOT EXISTS (
            SELECT 1 FROM runs AS retry WHERE retry.schedule_id = failed.schedule_id
            AND retry.scheduled_us = failed.scheduled_us AND retry.manual_key = failed.manual_key
            AND retry.attempt = failed.attempt + 1)""",
    "a trigger does not fit its run": """
        SELECT run_id FROM runs WHERE (manual_key != 0) != (trigger = 'manual')
        AND NOT (trigger = 'retry' AND attempt > 1)""",
    "a schedule that does not fire is waited for": """
        SELECT seq FROM schedules WHERE wake_us IS NOT NULL
        AND (next_us IS NULL OR paused_us IS NOT NULL OR wake_us < next_us)""",
    "a schedule that fires is not waited for": """
        SELECT seq FROM schedules
        WHERE wake_us IS NULL AND next_us IS NOT NULL AND paused_us IS NULL""",
    "max_runs was passed": """
        SELECT seq FROM schedules WHERE dispatched > max_runs""",
    "a schedule counts other dispatches than the ledger has": """
        SELECT seq FROM schedules AS s WHERE max_runs IS NOT NULL AND dispatched != (
            SELECT count(*) FROM runs WHERE runs.schedule_id = s.schedule_id
            AND started_us >= s.created_us AND attempt = 1 AND manual_key = 0)
        AND NOT EXISTS (SELECT 1 FROM meta WHERE key = 'pruned_us')""",
    "output belongs to no run": """
        SELECT run_id FROM outputs WHERE run_id NOT IN (SELECT run_id FROM runs)""",
}


def violations(path: Path) -> list[str]:
    """What is wrong with a ledger, a sentence for each rule that is broken."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")  # one state of it
        return [
            f"{sentence}: {len(found)}, as id {found[0][0]}"
            for sentence, query in RULES.items()
            if (found := connection.execute(query).fetchall())
        ]

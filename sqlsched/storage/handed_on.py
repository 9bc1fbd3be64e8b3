"""What a scheduler of another kind sent: its mark in the ledger."""

from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.schedules import StoredSchedule, get


def still_wanted(database: Database, schedule_id: str) -> bool:
    """Whether a schedule fires: not paused and not done. ScheduleNotFoundError if it is gone."""
    there = get(database, schedule_id)
    return not there.done and there.paused_us is None


def record_sent(database: Database, schedule_id: str, now_us: int) -> None:
    """A one-shot was sent: that is its run, and it is done. Of others nothing is recorded."""
    with transaction(database):
        there = get(database, schedule_id)
        if not there.trigger.recurring and there.next_us is not None:
            _record(database, there, there.next_us, now_us)


def _record(database: Database, there: StoredSchedule, scheduled_us: int, now_us: int) -> None:
    schedule = there.schedule
    database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, started_us, finished_us)
           VALUES (?1, ?2, ?3, 1, 'schedule', 'sent', ?3, ?4, ?4) ON CONFLICT DO NOTHING""",
        (schedule.schedule_id, schedule.task_name, scheduled_us, now_us),
    )
    database.execute(
        """UPDATE schedules SET next_us = NULL, wake_us = NULL, dispatched = dispatched + 1
           WHERE schedule_id = ?""",
        (schedule.schedule_id,),
    )

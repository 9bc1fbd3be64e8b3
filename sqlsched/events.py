"""What the log says of a turn: one line for each event that is not a run."""

import logging

from sqlsched.instants import format_us
from sqlsched.observer import Observer
from sqlsched.storage.turn import Turn

log = logging.getLogger("sqlsched")


def tell(turn: Turn, observer: Observer) -> None:
    """Log what a turn decided, and let who watches know of firings that did not run."""
    for unrun in turn.unrun:
        observer.unrun(unrun.schedule_id, unrun.status, unrun.reason, unrun.count)
        log.warning(
            "%s %s: %d firing%s from %s on, %s",
            *(unrun.schedule_id, unrun.status, unrun.count, "s" if unrun.count > 1 else ""),
            *(format_us(unrun.first_us), unrun.reason),
            extra={"schedule_id": unrun.schedule_id},
        )
    for run_id in turn.lost:
        log.debug("run %d was taken back, cancelled, or taken over by another process", run_id)
    for run_id, due_us in turn.retries:
        log.info("run %d is tried again at %s", run_id, format_us(due_us))
    for schedule_id, count in turn.paused:
        log.error("schedule %s is paused: %d failures in a row", schedule_id, count)
    for schedule_id, problem in turn.bad:
        log.error("schedule %s is put aside, as its row is damaged: %s", schedule_id, problem)

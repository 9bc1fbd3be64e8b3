"""What the log, and who supervises, are told: one line for each event that is not a run."""

import logging

from sqlsched.instants import format_us, from_us
from sqlsched.observer import Observer
from sqlsched.storage.claims import FOREVER_US
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


def describe(going: int, next_us: int, *, in_trouble: bool) -> str:
    """What a scheduler is at, for whoever supervises it."""
    if in_trouble:
        return "the database cannot be written to"
    coming = "no firing to come" if next_us == FOREVER_US else f"next {from_us(next_us)}"
    return f"{going} running, {coming}"

"""Whether a claimed run may start now: the last decision before a task runs, and a pure one."""

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Candidate(NamedTuple):
    """A claimed run that is due, with what its schedule says at this moment."""

    attempt: int
    manual: bool
    backfill: bool
    """A firing of the past that somebody asked for; they run one after another."""
    serial: bool
    """One of several missed firings that run one after another (`coalesce=all`)."""
    present: bool
    """The schedule still exists."""
    paused: bool
    overlap: str | None
    expires_us: int | None
    """When it is too late to start; None is never."""
    runs_left: int | None
    """How many dispatches `max_runs` still allows; None is without limit."""


class Going(NamedTuple):
    """What else of the same schedule is on its way."""

    started: tuple[int, ...] = ()
    """Runs that are running, being sent or awaiting a retry."""
    held: tuple[int, ...] = ()
    """Runs that wait for those."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`start` it, `hold` it until the others are done, or `end` it with a status and a reason."""

    action: Literal["start", "hold", "end"]
    status: Literal["skipped", "missed", "cancelled"] | None = None
    reason: str | None = None
    because_of: int | None = None
    """The run that stood in the way."""
    cancels: tuple[int, ...] = ()
    """Runs to stop in favour of this one."""


START = Verdict("start")


def may_start(
    run: Candidate, going: Going, now_us: int, *, reports_completion: bool = True
) -> Verdict:
    """Decide about one run. Manual triggers, backfills and retries pass by pause and bounds, and
    all but backfills by overlap."""
    if not run.present:
        return Verdict("end", "cancelled", "removed")
    if run.expires_us is not None and now_us >= run.expires_us:
        return Verdict("end", "missed", "expired")
    if run.manual or run.attempt > 1:
        return START
    if run.backfill:
        return Verdict("hold", reason="overlap") if going.started else START
    if run.paused:
        return Verdict("end", "skipped", "paused")
    if run.runs_left is not None and run.runs_left <= 0:
        return Verdict("end", "skipped", "bounds")
    return _overlap(run, going, reports_completion)


def _overlap(run: Candidate, going: Going, reports_completion: bool) -> Verdict:
    if not reports_completion:
        if run.overlap in {None, "allow"}:
            return START
        return Verdict("end", "skipped", "overlap-unsupported")
    if not going.started or (run.overlap == "allow" and not run.serial):
        return START
    if run.serial or run.overlap == "buffer-all":
        return Verdict("hold", reason="overlap")
    if run.overlap == "buffer-one" and not going.held:
        return Verdict("hold", reason="overlap")
    if run.overlap == "cancel-other":
        return Verdict("hold", reason="overlap", cancels=going.started + going.held)
    return Verdict("end", "skipped", "overlap", because_of=going.started[0])

"""What each status and reason of the ledger means, in words, for one firing."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlsched.durations import format_duration
from sqlsched.explain.evidence import Asked, Evidence, Pause, Presence, Run
from sqlsched.explain.words import Words, pids, sentence, span
from sqlsched.instants import SECOND_US
from sqlsched.planner import DEFAULT_CATCHUP_S, Timing, jittered_us
from sqlsched.trigger import Trigger

_SHOWN = 4
"""Attempts that are told one by one: the first, and the last ones."""
_WHAT_FOR = {"catchup": ", to catch up", "backfill": ", as a backfill"}
_LATE_US = SECOND_US
"""What is this late is explained."""


# -- runs that started ----------------------------------------------------------------------------


def tell_attempts(e: Evidence, started: Sequence[Run], words: Words) -> list[str]:
    """How its attempts started and ended, a sentence for each; the first goes on with another."""
    first, *rest = started
    said = [f"{_first(e, first, words)}, {outcome(e, first, words)}."]
    late_us = (first.started_us or 0) - first.due_us
    if e.version is not None and e.version.created_us > first.due_us and not first.manual_key:
        said.append(f"The schedule was added at {words.at(e.version.created_us)}, after its time.")
    elif late_us >= _LATE_US and not e.then.running and not first.manual_key:
        said.append(f"{sentence(nobody(e.then, words))}.")
    if len(started) > _SHOWN:
        said.append(f"{len(started) - _SHOWN} more attempts followed.")
        rest = rest[1 - _SHOWN :]
    for run in rest:
        start = f"Attempt {run.attempt}, run {run.run_id}, was started{by(run)}"
        said.append(f"{start} at {words.at(run.started_us or 0)}, {outcome(e, run, words)}.")
    return said


def _first(e: Evidence, run: Run, words: Words) -> str:
    late_us = (run.started_us or 0) - run.due_us
    when = "on time" if late_us < SECOND_US // 1000 else f"{span(late_us)} after it was due"
    text = f"run {run.run_id} was started{by(run)} at {words.at(run.started_us or 0)}, {when}"
    return text + _put_off(e, run, words) + _WHAT_FOR.get(run.trigger, "")


def _put_off(e: Evidence, run: Run, words: Words) -> str:
    """Why a run was due later than its nominal time."""
    if e.version is None or run.manual_key or run.attempt > 1 or run.due_us == run.scheduled_us:
        return ""
    due_us = jittered_us(e.schedule_id, _timing(e), run.scheduled_us)
    said = f" ({words.at(due_us)} with its jitter)" if due_us > run.scheduled_us else ""
    if run.due_us > due_us:
        said += f", as it was not taken before {words.at(run.due_us)}"
    return said


def outcome(e: Evidence, run: Run, words: Words) -> str:
    """How a run that started ended."""
    took = span((run.finished_us or e.now_us) - (run.started_us or 0))
    error = f" ({run.error})" if run.error else ""
    if run.finished_us is None and run.pid not in {service.pid for service in e.now.running}:
        return f"and was {run.status} when {_process(run)} died; the next `run` will find that"
    plain = {
        "succeeded": f"and succeeded after {took}",
        "failed": f"and failed after {took}{error}",
        "timed_out": f"and was stopped after {took}, its timeout",
        "running": f"and has been running for {took}",
        "sending": "and is being handed to the queue",
        "sent": "and was handed to the queue, which does not tell what became of it",
    }
    if run.status in plain:
        return plain[run.status]
    return f"and was {run.status} after {took}: {explain(e, run, words)}"


def by(run: Run) -> str:
    """` by pid 3`, if that is still on record."""
    return "" if run.pid is None else f" by pid {run.pid}"


def _process(run: Run) -> str:
    return "the process that ran it" if run.pid is None else f"pid {run.pid}"


def claimed(run: Run) -> str:
    """`, claimed by pid 3,` of a run that is."""
    return f", claimed{by(run)}," if run.status == "claimed" else ""


# -- runs that did not ----------------------------------------------------------------------------


def explain(e: Evidence, run: Run, words: Words) -> str:
    """Why a run ended as it did, by the reason on record."""
    tell = _REASONS.get(run.reason or "")
    if tell is not None:
        return tell(e, run, words)
    known = ": ".join(filter(None, (run.reason, run.error)))
    return f"the reason on record is {known}" if known else "no reason is on record"


def _overlap(e: Evidence, run: Run, words: Words) -> str:
    other = e.other
    if run.status == "cancelled":
        place = "a later firing" if other is None else f"run {other.run_id}, for a later firing,"
        return f"{place} took its place, as its overlap policy is {overlap(e)}"
    if other is None:
        number = "an earlier run" if run.because_of is None else f"run {run.because_of}"
        return f"{number}, which is on record no more, was still going then"
    start = f"run {other.run_id}, for {words.at(other.scheduled_us)}, was still going"
    if other.started_us is not None:
        start += f": it was started{by(other)} at {words.at(other.started_us)}"
        ended = other.finished_us
        start += " and is running yet" if ended is None else f" and ended at {words.at(ended)}"
    return f"{start}. Its overlap policy is {overlap(e)}"


def overlap(e: Evidence) -> str:
    """The overlap policy."""
    policy = e.version.schedule.overlap if e.version else None
    return "skip, the default" if policy is None else policy


def _outside_window(e: Evidence, run: Run, words: Words) -> str:
    window = e.version.schedule.catchup_window if e.version else None
    if window is None:
        said = f"{DEFAULT_CATCHUP_S} s, unless `run --catchup-window` says otherwise"
    else:
        said = format_duration(window) if isinstance(window, int) else str(window)
    decided = f" when that was found at {words.at(run.finished_us)}" if run.finished_us else ""
    late = f"it was older than its catch-up window ({said}){decided}"
    return f"{_who_was_there(e, words)}, and {late}"


def _who_was_there(e: Evidence, words: Words) -> str:
    if not e.then.running:
        return nobody(e.then, words)
    there = pids([service.pid for service in e.then.running])
    return f"{there} {'was' if len(e.then.running) == 1 else 'were'} running and did not start it"


def _coalesced(e: Evidence, run: Run, words: Words) -> str:  # noqa: ARG001
    policy = (e.version.schedule.coalesce if e.version else None) or "latest, the default"
    if e.other is None:
        return f"of several firings that were late only one ran (coalesce is {policy})"
    return (
        f"of several firings that were late only that at {words.at(e.other.scheduled_us)} ran, "
        f"run {e.other.run_id} (coalesce is {policy}); {_who_was_there(e, words)}"
    )


def _paused(e: Evidence, run: Run, words: Words) -> str:  # noqa: ARG001
    return "its schedule was paused" if e.pause is None else tell_pause(e, e.pause, words)


def tell_pause(e: Evidence, pause: Pause, words: Words) -> str:
    """Since when it is paused, by whom and why, and until when."""
    who = f" by {pause.by}" if pause.by else ", by whom is not on record"
    if pause.by is None and e.version is not None and pause.since_us == e.version.created_us:
        who = ", as it was added so"
    note = f' with the note "{pause.note}"' if pause.note else ""
    start = f"its schedule {'is' if pause.resumed is None else 'was'} paused"
    until = ""
    if pause.resumed is not None:
        until = f", until {words.at(pause.resumed.at_us)}, when {pause.resumed.who} resumed it"
    return f"{start} since {words.at(pause.since_us)}{who}{note}{until}"


def _first_run(e: Evidence, run: Run, words: Words) -> str:  # noqa: ARG001
    return (
        f"{_who_was_there(e, words)}; who started then was told to skip the first run, and "
        "dispatched nothing from before its first whole minute"
    )


def _expired(e: Evidence, run: Run, words: Words) -> str:
    expires = e.version.schedule.expires if e.version else None
    within = f"within {format_duration(expires)}" if isinstance(expires, int) else "in time"
    found = f", which was found at {words.at(run.finished_us)}" if run.finished_us else ""
    return f"it expired, as it had not started {within}{found}; {_who_was_there(e, words)}"


def _edited(e: Evidence, run: Run, words: Words) -> str:  # noqa: ARG001
    return f"its schedule was edited before it started; {_who_was_there(e, words)}"


def _removed(e: Evidence, run: Run, words: Words) -> str:  # noqa: ARG001
    return "its schedule was removed before it started"


def _abandoned(e: Evidence, run: Run, words: Words) -> str:  # noqa: ARG001
    return (
        f"{_process(run)} died, and nobody knows how far it had come; what had started is never "
        "started again"
    )


def _stopped_short(e: Evidence, run: Run, words: Words) -> str:  # noqa: ARG001
    return f"{_process(run)} ended before it could put on record how it ended"


def _fixed(text: str) -> "Tell":
    return lambda *_: text


Tell = Callable[[Evidence, Run, Words], str]
_REASONS: dict[str, Tell] = {
    "overlap": _overlap,
    "overlap-unsupported": lambda e, *_: (
        f"it went to a queue, which does not tell when a run ends, so that its overlap policy, "
        f"{overlap(e)}, cannot be kept"
    ),
    "paused": _paused,
    "outside-catchup-window": _outside_window,
    "coalesced": _coalesced,
    "first-run": _first_run,
    "merged": _fixed("the scheduler's merge function left its schedule out"),
    "expired": _expired,
    "bounds": _fixed("its max_runs was reached before it"),
    "edited": _edited,
    "removed": _removed,
    "requested": _fixed("somebody asked for that with `sqlsched cancel`"),
    "shutdown": _fixed("the process that ran it was told to stop"),
    "owner-died": _abandoned,
    "owner-stopped": _stopped_short,
    "taken-over": _fixed("another machine had claimed it by then, and runs it"),
    "damaged": _fixed("the row of its schedule was damaged by other means"),
}


# -- who was there, and what bounds there were ----------------------------------------------------


def nobody(presence: Presence, words: Words) -> str:
    """From when to when nobody was running, around a moment."""
    before, after = presence.before, presence.after
    until = "" if after is None else f"{words.at(after.since_us)}, when pid {after.pid} started"
    if not presence.on_record:
        return "who was running is on record no more"
    if before is None or before.until_us is None:
        return f"nobody was running before {until}" if until else "nobody has been running yet"
    ended = "gave its last sign of life before it died" if before.died else "ended"
    since = f"{words.at(before.until_us)}, when pid {before.pid} {ended}"
    if not until:
        return f"nobody has been running since {since}"
    return f"nobody was running from {since}, to {until}"


def runs_used_up(e: Evidence) -> bool:
    """Whether `max_runs` is reached."""
    limit = e.version.schedule.max_runs if e.version else None
    return limit is not None and e.dispatched >= limit


def used_up(e: Evidence, words: Words) -> str:
    """That `max_runs` is reached, and when it was."""
    limit = e.version.schedule.max_runs if e.version else None
    if e.last is None:
        return f"its max_runs, {limit}, had been reached"
    return (
        f"its max_runs, {limit}, had been reached with run {e.last.run_id}, for "
        f"{words.at(e.last.scheduled_us)}"
    )


def out_of_bounds(trigger: Trigger, asked: Asked, words: Words) -> str | None:
    """Which of start and end keeps a firing from a moment; None if neither does."""
    start_us, end_us = trigger.start_us, trigger.end_us
    counts_from_start = trigger.interval_s is not None
    free = replace(trigger, start_us=start_us if counts_from_start else None, end_us=None)
    found = free.next_us(asked.at_us - 1)
    if start_us is not None and (found or 0) <= start_us and asked.end_us <= start_us:
        return f"its start is {words.at(start_us)}"
    if found is not None and found < asked.end_us and end_us is not None and found > end_us:
        return f"its end was {words.at(end_us)}"
    return None


def _timing(e: Evidence) -> Timing:
    assert e.version is not None
    return e.version.schedule.timing(e.version.anchor_us)

"""Why a schedule did or did not run at a moment: a decision, told in a paragraph.

Pure: the facts are in the `Evidence`, and nothing is said that does not follow from them.
"""

from dataclasses import dataclass
from datetime import UTC, tzinfo

from sqlsched.explain import causes, clock_changes
from sqlsched.explain.evidence import Evidence, Run
from sqlsched.explain.words import Words, pids, sentence
from sqlsched.instants import MINUTE_US
from sqlsched.planner import Moment, jittered_us, plan

_MANY = 1000
"""Firings of one schedule that are looked at, of those that would be caught up."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a firing, or that there was none."""

    schedule_id: str
    at_us: int
    decision: str
    """`dispatched`, `skipped`, `missed`, `cancelled`, `abandoned`, `not-due` or `pending`."""
    reason: str
    run_id: int | None
    scheduled_us: int | None
    text: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    decision: str
    reason: str
    text: str
    run_id: int | None = None


def decide(evidence: Evidence, zone: tzinfo = UTC) -> Decision:
    """Judge the evidence; the text has its times on the clock of `zone`."""
    words = Words(zone)
    if evidence.attempts:
        verdict = _attempted(evidence, words)
    elif evidence.unrun is not None:
        verdict = _unrun(evidence, evidence.unrun, words)
    elif evidence.scheduled_us is not None:
        verdict = _unrecorded(evidence, evidence.scheduled_us, words)
    else:
        verdict = _not_due(evidence, words)
    return Decision(
        evidence.schedule_id,
        evidence.asked.at_us,
        verdict.decision,
        verdict.reason,
        verdict.run_id,
        evidence.scheduled_us,
        " ".join([verdict.text, *_remarks(evidence, words)]),
    )


# -- what is on record ----------------------------------------------------------------------------


def _attempted(e: Evidence, words: Words) -> _Verdict:
    """The firing has runs."""
    started = [run for run in e.attempts if run.started_us is not None]
    last = e.attempts[-1]
    if not started:
        return _waiting(e, last, words) if last.finished_us is None else _unrun(e, last, words)
    text = f"{_name(e, words)} was dispatched: " + " ".join(
        [*causes.tell_attempts(e, started, words), *_retry(e, last, words)]
    )
    stopped = started[-1].status if started[-1].status in {"cancelled", "abandoned"} else None
    reason = (started[-1].reason if stopped else None) or e.attempts[0].trigger
    return _Verdict(stopped or "dispatched", reason, text, started[-1].run_id)


def _retry(e: Evidence, last: Run, words: Words) -> list[str]:
    """What is to be said of a last attempt that has not started."""
    if last.started_us is not None:
        return []
    attempt = f"Attempt {last.attempt}, run {last.run_id},"
    if last.finished_us is not None:
        return [f"{attempt} never started: {causes.explain(e, last, words)}."]
    if last.status == "claimed":
        return [f"{attempt} is claimed{causes.by(last)} and starts at {words.at(last.due_us)}."]
    return [f"{attempt} waits until {words.at(last.due_us)}.{_unattended(e, words)}"]


def _unattended(e: Evidence, words: Words) -> str:
    return "" if e.now.running else f" {sentence(causes.nobody(e.now, words))}."


def _waiting(e: Evidence, run: Run, words: Words) -> _Verdict:
    """The first attempt has not started."""
    start = f"{_name(e, words)} has not started yet: run {run.run_id}"
    if run.held and e.other is not None:
        policy = causes.overlap(e)
        text = f"{start} waits for run {e.other.run_id}, as its overlap policy is {policy}."
        return _Verdict("pending", "overlap", text, run.run_id)
    if e.pause is not None and e.pause.resumed is None and not run.manual_key:
        return _Verdict("pending", "paused", f"{start} waits, as {_paused(e, words)}.", run.run_id)
    if run.due_us > e.now_us:
        text = f"{start}{causes.claimed(run)} is to start at {words.at(run.due_us)}."
        return _Verdict("pending", "not-yet", text, run.run_id)
    if run.status == "claimed":
        going = f"{e.going} run{'s are' if e.going != 1 else ' is'} going there"
        text = f"{start} is claimed{causes.by(run)}, which starts it when it has room; {going}."
        return _Verdict("pending", "no-room", text, run.run_id)
    if not e.now.running:
        text = f"{start} waits, and {causes.nobody(e.now, words)}."
        return _Verdict("pending", "nobody-running", text, run.run_id)
    text = f"{start} waits to be claimed by {pids([s.pid for s in e.now.running])}."
    return _Verdict("pending", "not-started", text, run.run_id)


def _unrun(e: Evidence, run: Run, words: Words) -> _Verdict:
    """It is on record that it never ran."""
    text = f"{_name(e, words)} was {run.status}: {causes.explain(e, run, words)}."
    if run.count > 1 and run.last_us is not None:
        text += (
            f" One record, run {run.run_id}, stands for it and the others of {run.count} firings "
            f"from {words.at(run.scheduled_us)} to {words.at(run.last_us)}."
        )
    return _Verdict(run.status, run.reason or "unknown", text, run.run_id)


# -- what is not ----------------------------------------------------------------------------------


def _unrecorded(e: Evidence, scheduled_us: int, words: Words) -> _Verdict:
    """A nominal firing of which the ledger has no row."""
    name = _name(e, words)
    if e.is_current and e.next_us is not None and scheduled_us >= e.next_us:
        return _ahead(e, scheduled_us, words)
    if e.is_current and e.next_us is None and causes.runs_used_up(e):
        return _Verdict("not-due", "bounds", f"{name} never was: {causes.used_up(e, words)}.")
    if scheduled_us <= e.forgotten_us:
        return _forgotten(e, words)
    if e.shared:
        text = (
            f"{name} is not on record here. Several machines share its schedule, and each has the "
            "record of what it ran itself: another one may have run it."
        )
        return _Verdict("not-due", "no-record", text)
    return _Verdict("not-due", "no-record", f"{name} has no record: it was never claimed.")


def _forgotten(e: Evidence, words: Words) -> _Verdict:
    text = (
        f"What became of {e.schedule_id} at {words.at(e.scheduled_us or e.asked.at_us)} is not on "
        f"record any more: the record goes back to {words.at(e.forgotten_us)}."
    )
    return _Verdict("not-due", "pruned", text)


def _ahead(e: Evidence, scheduled_us: int, words: Words) -> _Verdict:
    """Nobody has decided about the firing yet."""
    assert e.version is not None
    timing = e.version.schedule.timing(e.version.anchor_us)
    name, recurring = _name(e, words), timing.trigger.recurring
    if e.pause is not None and e.pause.resumed is None:
        if not recurring or scheduled_us > e.now_us:
            rest = (
                "it runs when it is resumed"
                if not recurring
                else "it runs then only if it is resumed"
            )
            return _Verdict("pending", "paused", f"{name} waits: {_paused(e, words)}; {rest}.")
        return _Verdict("skipped", "paused", f"{name} was skipped: {_paused(e, words)}.")
    due_us = jittered_us(e.schedule_id, timing, scheduled_us)
    if due_us > e.now_us:
        jitter = ", which includes its jitter" if due_us > scheduled_us else ""
        text = f"{name} is to start at {words.at(due_us)}{jitter}.{_unattended(e, words)}"
        return _Verdict("pending", "not-yet", text)
    if e.now.running:
        text = (
            f"{name} is due and not yet claimed by {pids([s.pid for s in e.now.running])}, which "
            "claims what it has room for."
        )
        return _Verdict("pending", "not-started", text)
    text = f"{name} is due, and {causes.nobody(e.now, words)}. {_outlook(e, scheduled_us)}."
    return _Verdict("pending", "nobody-running", text)


def _outlook(e: Evidence, scheduled_us: int) -> str:
    """What `sqlsched run`, with its defaults, would make of the firing now."""
    assert e.version is not None
    assert e.next_us is not None
    timing = e.version.schedule.timing(e.version.anchor_us)
    made = plan(e.schedule_id, timing, e.next_us, Moment(e.now_us, e.now_us), _MANY)
    for stretch in made.stretches:
        if stretch.first_us <= scheduled_us <= stretch.last_us:
            return f"`sqlsched run` would record it as {stretch.status} now ({stretch.reason})"
    return "`sqlsched run` would start it now"


def _not_due(e: Evidence, words: Words) -> _Verdict:
    """Nothing was to fire then."""
    start = f"{e.schedule_id} was not due {_moment(e, words)}"
    version, at_us = e.version, e.asked.at_us
    if at_us <= e.forgotten_us and (version is None or version.created_us > at_us):
        return _forgotten(e, words)
    if version is None or version.created_us >= e.asked.end_us - 1:
        return _absent(e, start, words)
    trigger = version.trigger
    if (bound := causes.out_of_bounds(trigger, e.asked, words)) is not None:
        return _Verdict("not-due", "bounds", f"{start}: {bound}.")
    if (change := clock_changes.second_pass(trigger, e.asked, words)) is not None:
        return _Verdict("not-due", "clock-change", f"{start}: {change}.")
    text = f"{start}: it is {words.trigger(version.schedule)}.{_neighbours(e, words)}"
    return _Verdict("not-due", "no-firing", text)


def _absent(e: Evidence, start: str, words: Words) -> _Verdict:
    """The schedule was not there."""
    added = f"added at {words.at(e.version.created_us)}" if e.version else ""
    if e.removed is None:
        return _Verdict("not-due", "not-added", f"{start}: it was {added}.")
    text = f"{start}: it was removed at {words.at(e.removed.at_us)} by {e.removed.who}"
    return _Verdict("not-due", "removed", f"{text}{f', and {added} again' if added else ''}.")


def _neighbours(e: Evidence, words: Words) -> str:
    """The firings nearest to the moment, before and after."""
    assert e.version is not None
    trigger = e.version.trigger
    before = trigger.previous_us(e.asked.at_us)
    after = trigger.next_us(e.asked.end_us - 1)
    near = []
    if before is not None and before > e.version.created_us:
        near.append(f"the one before {_is(e, before)} at {words.at(before)}")
    if after is not None and (e.version.ended is None or after <= e.version.ended.at_us):
        near.append(f"the next {_is(e, after)} at {words.at(after)}")
    text = f" Of its firings {' and '.join(near)}." if near else ""
    moved = None if before is None else clock_changes.skipped(trigger, before, words)
    if moved is not None and clock_changes.stands_for(trigger, before or 0, e.asked):
        text += f" That one is late by the clock: {moved}."
    return text


# -- words ----------------------------------------------------------------------------------------


def _name(e: Evidence, words: Words) -> str:
    """What is spoken of."""
    if e.attempts and e.attempts[0].manual_key:
        asked = words.at(e.attempts[0].scheduled_us)
        return f"The run of {e.schedule_id} that was asked for by hand at {asked}"
    return f"The firing of {e.schedule_id} at {words.at(e.scheduled_us or e.asked.at_us)}"


def _is(e: Evidence, us: int) -> str:
    return "is" if us > e.now_us else "was"


def _moment(e: Evidence, words: Words) -> str:
    minute = "in the minute of " if e.asked.span_us == MINUTE_US else "at "
    return minute + words.at(e.asked.at_us)


def _paused(e: Evidence, words: Words) -> str:
    assert e.pause is not None
    return causes.tell_pause(e, e.pause, words)


def _remarks(e: Evidence, words: Words) -> list[str]:
    """What else is to be known of the firing."""
    said = []
    version = e.version
    if version is not None and e.scheduled_us is not None:
        moved = clock_changes.skipped(version.trigger, e.scheduled_us, words)
        if moved is not None:
            said.append(f"It came when it did because {moved}.")
    if version is not None and version.ended is not None and version.created_us < e.asked.end_us:
        act = version.ended
        then = f"was {words.trigger(version.schedule)} then, and " if act.what != "removed" else ""
        said.append(f"The schedule {then}was {act.what} at {words.at(act.at_us)} by {act.who}.")
    return said

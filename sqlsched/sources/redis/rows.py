"""A schedule as it lies in Redis: how its content and its state are read and written."""

import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.field_checks import check_schedule_id
from sqlsched.planner import Timing, jittered_us
from sqlsched.scheduled_task import FIELD_NAMES, ScheduledTask, schedule_to_json
from sqlsched.serialization import dumps, loads, shorten
from sqlsched.trigger import Trigger

DAMAGED = (InvalidScheduleError, TypeError, ValueError, OverflowError)
"""What is raised by a row that somebody changed by other means."""

Span = tuple[int, int, int]
"""Firings that were claimed without a gap: the first and the last, in microseconds since the
epoch, and when that last was, in milliseconds of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What Redis knows of a schedule beside its content.

    `version` changes with the content. `move` is another at each change of the state, so that
    two states are never alike, and who made a change can tell it from another's. `claimed` are
    the firings of the last day that were claimed, and are not again if the clock is put back.
    """

    version: str
    created_us: int
    anchor_us: int
    next_us: int | None
    paused_us: int | None = None
    max_runs: int | None = None
    claimed: tuple[Span, ...] = ()
    move: str = ""

    def moved(self, **changes: Any) -> "State":
        """The same with these changes, and unlike any other."""
        return replace(self, **changes, move=token())

    def has_claimed(self, scheduled_us: int) -> bool:
        """Whether a firing was claimed in the last day."""
        return any(first <= scheduled_us <= last for first, last, _ in self.claimed)


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule with its state, as it was read."""

    schedule: ScheduledTask
    state: State
    text: str
    """The state as it stands in Redis, which a change of it must find again."""

    @property
    def schedule_id(self) -> str:
        return self.schedule.schedule_id

    @property
    def timing(self) -> Timing:
        """What decides when its firings are dispatched."""
        return self.schedule.timing(self.state.anchor_us)

    @property
    def trigger(self) -> Trigger:
        """Its nominal firings."""
        return self.schedule.trigger(self.state.anchor_us)


def token() -> str:
    """Eight hexadecimal digits, at random."""
    return os.urandom(4).hex()


def read_schedule(schedule_id: str, content: str | None) -> ScheduledTask:
    """The schedule that a row's content says; raises one of DAMAGED."""
    if content is None:
        raise InvalidScheduleError("it has a state, but no content")
    values = loads(content, "its content")
    if not isinstance(values, dict) or values.get("schedule_id") != check_schedule_id(schedule_id):
        raise InvalidScheduleError("its content is not that of a schedule")
    if unknown := values.keys() - set(FIELD_NAMES):
        raise InvalidScheduleError(f"no schedule has the field {shorten(min(unknown))}")
    # What a later version adds has a default; these have none.
    if missing := {"task_name", "args", "kwargs", "labels"} - values.keys():
        raise InvalidScheduleError(f"its content lacks {min(missing)}")
    for name in ("time", "start", "end"):
        if values.get(name) is not None:
            values[name] = datetime.fromisoformat(values[name])
    return ScheduledTask.from_stored(**values)


def read_row(schedule_id: str, content: str | None, text: str | None) -> Row:
    """A row from its content and its state; raises one of DAMAGED."""
    if text is None:
        raise InvalidScheduleError("it has content, but no state")
    schedule, state = read_schedule(schedule_id, content), read_state(text)
    paused = state.paused_us is not None
    if paused != schedule.paused:
        schedule = replace(schedule, paused=paused)
    return Row(schedule, state, text)


def read_state(text: str) -> State:
    """The state that a row says; raises one of DAMAGED."""
    values = loads(text, "its state")
    if not isinstance(values, dict):
        raise InvalidScheduleError("its state is no JSON object")
    spans = [(first, last, at) for first, last, at in values.pop("claimed", ())]
    state = State(**values, claimed=tuple(spans))
    numbers = [state.created_us, state.anchor_us, *(us for span in spans for us in span)]
    numbers += [us for us in (state.next_us, state.paused_us, state.max_runs) if us is not None]
    if not all(type(number) is int for number in numbers) or not isinstance(state.version, str):
        raise InvalidScheduleError("its state is not one")
    return state


def written_schedule(schedule: ScheduledTask) -> str:
    """What `read_schedule` reads."""
    return dumps(schedule_to_json(schedule))


def written_state(state: State) -> str:
    """What `read_state` reads."""
    return dumps(asdict(state))


def wake_us(schedule: ScheduledTask, state: State) -> int | None:
    """When a schedule is looked at next; None while it is paused or done."""
    if state.next_us is None or state.paused_us is not None:
        return None
    return jittered_us(schedule.schedule_id, schedule.timing(state.anchor_us), state.next_us)

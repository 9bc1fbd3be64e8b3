"""The values that the loop and the ledger exchange, once a turn."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlsched.instants import format_us, from_us
from sqlsched.output import OutputBuffer
from sqlsched.planner import Moment, Stretch
from sqlsched.scheduled_task import TaskMessage, derive_task_id
from sqlsched.serialization import checked_array, checked_object, parse

BACKFILL_KEY = -1
"""The manual key of a firing that is run late because somebody asked for it: it has one place."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A running scheduler, or one that was."""

    owner: int
    token: str
    pid: int
    boot_id: str
    started_us: int
    seen_us: int


class Finished(NamedTuple):
    """The end of a run that this process started."""

    run_id: int
    status: str
    finished_us: int
    exit_code: int | None = None
    error: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Printed:
    """What a run has printed so far."""

    run_id: int
    head: bytes
    tail: bytes
    total_bytes: int


class Armed(NamedTuple):
    """A run claimed by this process, to be started at `due_us`."""

    run_id: int
    due_us: int


class Started(NamedTuple):
    """A run that this process has just started, with all that its broker needs.

    It is given to the broker at `due_us`, which may lie a few milliseconds ahead.
    """

    run_id: int
    schedule_id: str
    scheduled_us: int
    due_us: int
    attempt: int
    manual_key: int
    trigger: str
    task_name: str
    args: str
    kwargs: str
    labels: str
    task_id: str | None
    timeout_s: int | None
    expires_us: int | None
    source: str
    ping: str | None

    def message(self) -> TaskMessage:
        """What a broker gets for it; one of DAMAGED if its row is."""
        scheduled_for = {
            "schedule_id": self.schedule_id,
            "scheduled_for": format_us(self.scheduled_us),
        }
        return TaskMessage(
            # A backfill is the firing itself, late: should a queue know it already, it says so.
            task_id=self.task_id
            or derive_task_id(self.schedule_id, self.scheduled_us, max(self.manual_key, 0)),
            task_name=self.task_name,
            args=[] if self.args == "[]" else checked_array(parse(self.args, "args"), "args"),
            kwargs={} if self.kwargs == "{}" else _object(self.kwargs, "kwargs"),
            labels=scheduled_for
            if self.labels == "{}"
            else _object(self.labels, "labels") | scheduled_for,
            attempt=self.attempt,
            timeout=self.timeout_s,
            expires=None if self.expires_us is None else from_us(self.expires_us),
            output=OutputBuffer(),
        )


def _object(text: str, what: str) -> dict[str, Any]:
    return checked_object(parse(text, what), what)


@dataclass(frozen=True, slots=True)
class Unrun:
    """Firings that the turn decided not to run, for the log."""

    schedule_id: str
    first_us: int
    count: int
    status: str
    reason: str

    @classmethod
    def of(cls, schedule_id: str, stretch: Stretch) -> "Unrun":
        """A stretch of a schedule's firings."""
        return cls(schedule_id, stretch.first_us, stretch.count, stretch.status, stretch.reason)


@dataclass(frozen=True, slots=True)
class Request:
    """What the loop asks of a turn."""

    owner: int
    token: str
    moment: Moment
    room: int
    """How many runs may start now."""
    ahead: int
    """How many more may be claimed for the next second; -1 claims nothing at all."""
    known_us: int | None = None
    """When something is due next, if nobody else has written since the last turn; None: somebody
    may have, and all is to be asked anew."""
    alone: bool = False
    """Nobody else serves the ledger, who could start what this process has no room for."""
    lead_us: int = 0
    """How long before their time runs are started, to be given to the broker on the instant."""
    due: Sequence[int] = ()
    """Armed runs whose time has come, or nearly so."""
    finished: Sequence[Finished] = ()
    printed: Sequence[Printed] = ()
    processes: Sequence[tuple[int, int, int]] = ()
    """Run id, pid and start time of processes that runs have become."""
    refused: Sequence[tuple[int, int]] = ()
    """Run ids whose broker did not take them, and when to try again."""
    reports_completion: bool = True
    heartbeat: bool = False
    """Put the time, and that this process lives, on record."""
    until_us: int | None = None
    """Firings at or after this are left alone."""
    sources: Sequence[str] = ("",)
    """Whose schedules this process serves."""
    merged_out: Collection[str] = ()
    """Schedules that the merge function left out: their firings are skipped."""

    def last_us(self, ahead_us: int) -> int:
        """What is due until then may be claimed by one who looks so far ahead."""
        last_us = self.moment.now_us + ahead_us
        return last_us if self.until_us is None else min(last_us, self.until_us - 1)


@dataclass(slots=True)
class Turn:
    """What a turn did."""

    started: list[Started] = field(default_factory=list)
    armed: list[Armed] = field(default_factory=list)
    roomless: list[int] = field(default_factory=list)
    """Runs that may start as soon as there is room."""
    unrun: list[Unrun] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)
    """Claims of schedules that have reached `max_runs`."""
    lost: list[int] = field(default_factory=list)
    """Runs that are not this process's any more."""
    cancels: list[tuple[int, str]] = field(default_factory=list)
    """Runs to stop, and why."""
    retries: list[tuple[int, int]] = field(default_factory=list)
    """Run ids that failed and when they are tried again."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Schedules that cannot be read, and why."""
    others: list[Owner] | None = None
    """The other schedulers that have not ended in order; None: as before."""
    paused: list[tuple[str, int]] = field(default_factory=list)
    """Schedules that were paused, and after how many failures in a row."""
    untold: bool = False
    """Whether hooks are to be told of ends."""
    next_us: int | None = None
    """When something is due next, as far as the ledger knows."""

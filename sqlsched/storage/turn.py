"""The values that the loop and the ledger exchange, once a turn."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlsched.instants import format_us, from_us
from sqlsched.output import OutputBuffer
from sqlsched.planner import Moment
from sqlsched.scheduled_task import TaskMessage, derive_task_id


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

    def message(self) -> TaskMessage:
        """What a broker gets for it; TypeError or ValueError if its row is damaged."""
        scheduled_for = {
            "schedule_id": self.schedule_id,
            "scheduled_for": format_us(self.scheduled_us),
        }
        return TaskMessage(
            task_id=self.task_id
            or derive_task_id(self.schedule_id, self.scheduled_us, self.manual_key),
            task_name=self.task_name,
            args=[] if self.args == "[]" else json.loads(self.args),
            kwargs={} if self.kwargs == "{}" else json.loads(self.kwargs),
            labels=scheduled_for
            if self.labels == "{}"
            else json.loads(self.labels) | scheduled_for,
            attempt=self.attempt,
            timeout=self.timeout_s,
            expires=None if self.expires_us is None else from_us(self.expires_us),
            output=OutputBuffer(),
        )


@dataclass(frozen=True, slots=True)
class Unrun:
    """Firings that the turn decided not to run, for the log."""

    schedule_id: str
    first_us: int
    count: int
    status: str
    reason: str


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
    next_us: int | None = None
    """When something is due next, as far as the ledger knows."""

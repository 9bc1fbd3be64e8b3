"""What the dispatcher knows of each run on its way, and what of them is still to be recorded."""

import asyncio
from dataclasses import dataclass, field

from sqlsched.scheduled_task import TaskMessage
from sqlsched.storage.turn import Finished, Printed, Started


@dataclass(eq=False, slots=True)
class Flight:
    """A run on its way."""

    run: Started
    message: TaskMessage
    started: float
    task: asyncio.Task[None] | None = None
    timer: asyncio.Task[None] | None = None
    begun: bool = False
    """Whether its task has taken a step: one that is cancelled before never takes any."""
    sent: bool = False
    """Whether the broker was given it."""
    end: Finished | None = None
    """How it ended, while its source is told."""
    stopped_as: tuple[str, str | None] | None = None
    """Status and reason, once somebody has stopped it."""
    saved_bytes: int = 0
    saved_process: bool = False


@dataclass(slots=True)
class Report:
    """What the dispatcher has to put on record."""

    finished: list[Finished] = field(default_factory=list)
    printed: list[Printed] = field(default_factory=list)
    processes: list[tuple[int, int, int]] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.finished + other.finished,
            self.printed + other.printed,
            self.processes + other.processes,
            self.refused + other.refused,
        )

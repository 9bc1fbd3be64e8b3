"""What the ledger knows of one schedule around one moment: the facts by which `why` decides.

Storage reads them, `why.decide` judges them; nothing here looks anything up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlsched.scheduled_task import ScheduledTask
from sqlsched.trigger import Trigger


@dataclass(frozen=True, slots=True)
class Asked:
    """The moment that is asked about: one instant (`span_us` 1), a second or a minute from it."""

    at_us: int
    span_us: int

    @property
    def end_us(self) -> int:
        """The first instant after it."""
        return self.at_us + self.span_us


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did to a schedule: `edited`, `replaced`, `removed`, `paused` or `resumed`."""

    what: str
    at_us: int
    who: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A schedule as it was for a while."""

    schedule: ScheduledTask
    created_us: int
    anchor_us: int
    ended: Act | None = None
    """What ended that while; None: it is still so."""

    @property
    def trigger(self) -> Trigger:
        """Its nominal firings."""
        return self.schedule.trigger(self.anchor_us)

    def firing_in(self, asked: Asked) -> int | None:
        """Its first nominal firing in a span of time, while it was so; None if there is none."""
        found = self.trigger.next_us(asked.at_us - 1)
        if found is None or found >= asked.end_us or found <= self.created_us:
            return None
        return found if self.ended is None or found <= self.ended.at_us else None


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause. `by` is None where nobody is on record: it began with the schedule, or before the
    record did."""

    since_us: int
    by: str | None
    note: str | None
    resumed: Act | None
    """What ended it; None: it is in force."""


@dataclass(frozen=True, slots=True)
class Run:
    """A row of the ledger: one attempt, or `count` firings that never ran (`attempt` 0)."""

    run_id: int
    scheduled_us: int
    attempt: int
    manual_key: int
    trigger: str
    status: str
    reason: str | None
    due_us: int
    held: int
    started_us: int | None
    finished_us: int | None
    exit_code: int | None
    error: str | None
    last_us: int | None
    count: int
    because_of: int | None
    pid: int | None
    """Of the scheduler that claimed it last, if that is still on record."""


@dataclass(frozen=True, slots=True)
class Service:
    """A scheduler, from its start to its end. One that `died` ended within the minute after its
    last sign of life, which `until_us` is; None: it is running."""

    pid: int
    since_us: int
    until_us: int | None
    died: bool = False


@dataclass(frozen=True, slots=True)
class Presence:
    """Who was running at an instant; and if nobody was, who was last before and first after."""

    running: Sequence[Service] = ()
    before: Service | None = None
    after: Service | None = None
    on_record: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that bears on one firing, or on a moment that had none."""

    schedule_id: str
    now_us: int
    asked: Asked
    scheduled_us: int | None
    """The nominal firing that is meant; None: there was none."""
    version: Version | None
    """The schedule as it was then, or as it came to be soonest after; None: it never was, since."""
    removed: Act | None = None
    """The last removal of the schedule before then."""
    is_current: bool = False
    """Whether `version` is what stands in the ledger, with the state that follows."""
    next_us: int | None = None
    dispatched: int = 0
    shared: bool = False
    pause: Pause | None = None
    """The pause that was in force then."""
    attempts: Sequence[Run] = field(default=())
    """The runs of the firing, by attempt."""
    unrun: Run | None = None
    """The record of firings that never ran, this one among them."""
    other: Run | None = None
    """The run that stood in its way, or that it was coalesced into."""
    last: Run | None = None
    """The last of the schedule's firings before it that started."""
    going: int = 0
    """How many runs are going in the process that has claimed it."""
    then: Presence = field(default_factory=Presence)
    now: Presence = field(default_factory=Presence)
    forgotten_us: int = 0
    """What ended before this moment may be on record no more."""

"""What would happen: the real loop on a fake clock, over a copy of the schedules.

The copy is a database of its own in a private directory; its runs only take their time. Neither
the original nor the world outside is touched.
"""

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlsched.abc import Broker, RunOutcome
from sqlsched.engine.scheduler import Options, Scheduler
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import SECOND_US, format_us, from_us
from sqlsched.scheduled_task import TaskMessage
from sqlsched.storage import copies, outcomes
from sqlsched.storage.connection import Database, open_for_writing
from sqlsched.storage.copies import OnBad, Snapshot
from sqlsched.storage.outcomes import Decided
from sqlsched.storage.schedules import Selection, StoredSchedule, stored
from sqlsched.testing import FakeClock

DEFAULT_DURATION_US = SECOND_US
"""How long a run takes of a schedule whose runs nobody has seen yet."""
MOST_FIRINGS = 10_000_000
DRAIN_SECONDS = 30
"""How long runs may go on when nobody is to run any more, as with `sqlsched run`."""
_UNLIMITED = 1_000_000
_FOREVER_SECONDS = 10**10

Span = tuple[int, int]
Progress = Callable[[int], None]
"""Told of the simulated time, now and then."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """From when to when, and what happens meanwhile; instants in microseconds."""

    from_us: int
    to_us: int
    now_us: int | None = None
    """If `from_us` is not now, then the real time: up to `from_us` all is taken as settled."""
    downs: Sequence[Span] = ()
    """From when to when nobody runs."""
    steps: Sequence[Span] = ()
    """When the wall clock is set, and by how much."""
    durations_us: Mapping[str, int] = field(default_factory=dict)
    """How long runs take, by schedule, where it is not as long as before."""
    concurrency: int | None = None
    """How many runs at once; None is without limit."""

    def stretches(self) -> Iterator[Span]:
        """From when to when somebody runs. The last one ends with the scenario; where it begins
        only later, what came due before is decided then."""
        begin_us = self.from_us
        for down_us, up_us in sorted(self.downs):
            if begin_us < down_us < self.to_us:
                yield begin_us, down_us
            if down_us < self.to_us:
                begin_us = max(begin_us, up_us)
        yield begin_us, self.to_us


class Outcome:
    """What became of the firings in a scenario."""

    def __init__(self, database: Database, scenario: Scenario) -> None:
        self._database = database
        self._end_us = scenario.to_us
        self._triggers = {
            there.schedule.schedule_id: there.trigger for there in _schedules(database)
        }

    def counts(self) -> dict[str, int]:
        """How many firings were `dispatched`, `skipped`, `missed` and so on."""
        result = outcomes.tally(self._database, self._end_us)
        for stretch in self._stretches():
            result[stretch.decision] = result.get(stretch.decision, 0) + stretch.number
        return result

    def busiest_minute(self) -> tuple[int, int] | None:
        """The minute in which most runs started, and how many."""
        return outcomes.busiest_minute(self._database)

    def overlaps(self) -> Iterator[tuple[int, str]]:
        """The firings that came due while an earlier run of their schedule was still going."""
        return (found for found in outcomes.overlaps(self._database) if found[0] < self._end_us)

    def firings(self) -> Iterator[Decided]:
        """Every firing by itself, in the order of their times."""
        own = outcomes.decided(self._database, self._end_us)
        return heapq.merge(own, *map(self._each, self._stretches()))

    def undone(self) -> Iterator[Decided]:
        """The firings that were not dispatched, together where they have one record."""
        own = outcomes.decided(self._database, self._end_us, undone=True)
        return heapq.merge(own, sorted(self._stretches()))

    def _stretches(self) -> Iterator[Decided]:
        """Firings without a row of their own: records cut so that none is in two of them, and
        counted anew."""
        found = outcomes.stretches(self._database)
        for _, records in groupby(found, key=attrgetter("schedule_id")):
            after_us = -1
            for record in records:
                if cut := self._cut(record, after_us):
                    yield cut
                after_us = max(after_us, record.last_us)

    def _cut(self, record: Decided, after_us: int) -> Decided | None:
        """What of a record lies after an instant, and within the scenario; None if nothing."""
        trigger = self._triggers[record.schedule_id]
        first_us = trigger.next_us(max(after_us, record.scheduled_us - 1))
        last_us = trigger.previous_us(min(record.last_us + 1, self._end_us))
        if first_us is None or last_us is None or first_us > last_us:
            return None
        cut = record._replace(scheduled_us=first_us, last_us=last_us)
        number = trigger.count(first_us, last_us) - len(self._own_rows(cut))
        return cut._replace(number=number) if number else None

    def _each(self, stretch: Decided) -> Iterator[Decided]:
        trigger = self._triggers[stretch.schedule_id]
        ran = self._own_rows(stretch)
        at_us = trigger.next_us(stretch.scheduled_us - 1)
        while at_us is not None and at_us <= stretch.last_us:
            if at_us not in ran:
                yield stretch._replace(scheduled_us=at_us, last_us=at_us, number=1)
            at_us = trigger.next_us(at_us)

    def _own_rows(self, stretch: Decided) -> set[int]:
        return outcomes.own_rows(
            self._database, stretch.schedule_id, stretch.scheduled_us, stretch.last_us
        )


@contextmanager
def simulated(
    taken: Snapshot, scenario: Scenario, *, progress: Progress, on_bad: OnBad
) -> Iterator[Outcome]:
    """Play a scenario to its end, and look at what became of it.

    A schedule that cannot be read is given to `on_bad` and left out. InvalidScheduleError if there
    would be more than `MOST_FIRINGS`.
    """
    with TemporaryDirectory(prefix="sqlsched-") as directory:
        path = Path(directory) / "simulated.db"
        with closing(open_for_writing(path, create=True, durable=False)) as database:
            going = _set_up(database, taken, scenario, on_bad)
            broker = _Broker(taken, scenario, going, progress)
            _check_size(database, scenario)
            with _in_silence():
                asyncio.run(_play(path, scenario, broker))
            yield Outcome(database, scenario)


def _set_up(
    database: Database, taken: Snapshot, scenario: Scenario, on_bad: OnBad
) -> dict[tuple[str, int], int]:
    if scenario.now_us is None:
        return copies.fill(database, taken, scenario.from_us, on_bad)
    copies.fill_anew(database, taken, scenario.from_us, scenario.now_us, on_bad)
    return {}


def _check_size(database: Database, scenario: Scenario) -> None:
    total = 0
    for there in _schedules(database):
        last_us = there.trigger.previous_us(scenario.to_us)
        if there.paused_us is None and there.next_us is not None and last_us is not None:
            total += there.trigger.count(there.next_us, last_us)
    if total > MOST_FIRINGS:
        raise InvalidScheduleError(
            f"until {format_us(scenario.to_us)} there are {total:,} firings, and at most "
            f"{MOST_FIRINGS:,} are simulated; give a shorter time"
        )


def _schedules(database: Database) -> Iterator[StoredSchedule]:
    return stored(database, Selection(include_done=True))


@contextmanager
def _in_silence() -> Iterator[None]:
    """What the loop says of events would be taken for real."""
    log = logging.getLogger("sqlsched")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


# -- playing --------------------------------------------------------------------------------------


async def _play(path: Path, scenario: Scenario, broker: "_Broker") -> None:
    clock = broker.clock
    setting = asyncio.create_task(_set_clock(clock, scenario.steps))
    try:
        for begin_us, end_us in scenario.stretches():
            await _reach(clock, begin_us)
            await _serve(path, broker, end_us, hurried=end_us < scenario.to_us)
    finally:
        setting.cancel()
        await asyncio.wait([setting])


async def _serve(path: Path, broker: "_Broker", end_us: int, *, hurried: bool) -> None:
    """Run schedules until an instant, and wait for what is going on then; if `hurried`, no longer
    than `sqlsched run` does."""
    scheduler = Scheduler(broker, [], database=path, clock=broker.clock)
    options = Options(
        concurrency=broker.default_concurrency,
        drain_seconds=DRAIN_SECONDS,
        keep_seconds=_FOREVER_SECONDS,
        private=True,
    )
    stopping = asyncio.create_task(_stop_at(scheduler, broker.clock, end_us if hurried else 2**62))
    try:
        await scheduler.run(until=from_us(end_us), options=options)
    finally:
        stopping.cancel()
        await asyncio.wait([stopping])


async def _stop_at(scheduler: Scheduler, clock: FakeClock, us: int) -> None:
    await _reach(clock, us)
    scheduler.stop()


async def _set_clock(clock: FakeClock, steps: Sequence[Span]) -> None:
    with clock.busy():
        for at_us, by_us in sorted(steps):
            await _reach(clock, at_us)
            clock.set_forward(timedelta(microseconds=by_us))


async def _reach(clock: FakeClock, us: int) -> None:
    await clock.wait(us, asyncio.Event(), lambda: False)


class _Broker(Broker):
    """Runs nothing, and takes as long as it would."""

    def __init__(
        self,
        taken: Snapshot,
        scenario: Scenario,
        going: Mapping[tuple[str, int], int],
        progress: Progress,
    ) -> None:
        self.clock = FakeClock(from_us(scenario.from_us))
        self.default_concurrency = scenario.concurrency or _UNLIMITED
        self._durations_us = {**taken.durations_us, **scenario.durations_us}
        self._gone_us = {
            (schedule_id, format_us(scheduled_us)): scenario.from_us - started_us
            for (schedule_id, scheduled_us), started_us in going.items()
        }
        """How long what is running at the beginning has run already."""
        self._progress = progress

    async def kick(self, message: TaskMessage) -> RunOutcome:
        schedule_id = message.labels["schedule_id"]
        left_us = self._durations_us.get(schedule_id, DEFAULT_DURATION_US)
        if message.attempt > 1:
            left_us -= self._gone_us.get((schedule_id, message.labels["scheduled_for"]), 0)
        await self.clock.sleep(left_us / SECOND_US)
        self._progress(self.clock.now_us())
        return RunOutcome("succeeded")

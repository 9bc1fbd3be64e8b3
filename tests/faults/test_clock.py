"""The clock: set, suspended, wrong at the start. Nothing is lost, doubled, parked or enumerated."""

import asyncio
import gc
import logging
import random
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sqlsched import trigger
from sqlsched.testing import FakeClock
from sqlsched.timezones import zone_info
from tests.faults.courses import ORIGIN, Course, Job, Result
from tests.faults.nominal import DAY, SECOND, At, Cron, Every, Nominal, Within, moment_of, us_of
from tests.test_cron_against_evaluator import exact_change, zone_names

START = us_of(ORIGIN)
YEAR = 365 * DAY


# -- jobs -----------------------------------------------------------------------------------------


def job(name: str, nominal: Nominal, **fields: Any) -> Job:
    """A schedule whose runs may overlap, as each firing is to be seen for itself."""
    window = fields.get("catchup_window", "unlimited" if "time" in fields else 60)
    seconds = {"none": 1, "unlimited": None}.get(window, window)
    return Job(
        name,
        nominal,
        {"overlap": "allow"} | fields,
        None if seconds is None else seconds * SECOND,
        fields.get("coalesce", "latest"),
        fields.get("jitter", 0),
    )


def every(name: str, seconds: int, **fields: Any) -> Job:
    """An interval that counts from its making."""
    return job(name, Every(seconds, START), interval=seconds, **fields)


def cron(name: str, expression: str, zone: str = "UTC", **fields: Any) -> Job:
    return job(name, Cron(expression, zone), cron=expression, cron_offset=zone, **fields)


def once(name: str, us: int, **fields: Any) -> Job:
    return job(name, At(us), time=moment_of(us), **fields)


def bounded(name: str, seconds: int, start_us: int, end_us: int, **fields: Any) -> Job:
    """An interval between two bounds; it counts from the first."""
    nominal = Within(Every(seconds, start_us), start_us, end_us)
    bounds = {"start": moment_of(start_us), "end": moment_of(end_us)}
    return job(name, nominal, interval=seconds, **bounds, **fields)


def often(rng: random.Random) -> list[Job]:
    """Schedules for seconds and minutes of serving."""
    bound = START + rng.randrange(1, 7200) * SECOND // 3
    return [
        every("second", 1),
        every("seven", 7, catchup_window="unlimited"),
        every("eleven", 11, catchup_window=3600, coalesce="earliest"),
        every("thirteen", 13, catchup_window="none"),
        every("half", 30, catchup_window=300, coalesce="all"),
        every("scattered", 60, jitter=45, catchup_window="unlimited"),
        bounded("bounded", 20, START + 10 * SECOND, bound, catchup_window=90),
        cron("minutes", "* * * * *"),
        cron("lists", "*/7 11-13 * * *", "Europe/Berlin", catchup_window=600, coalesce="all"),
        *(once(f"once-{n}", START + size(rng, 7200) * SECOND + 1) for n in range(5)),
        *(once(f"soon-{n}", START + size(rng, 7200) * SECOND, catchup_window=30) for n in range(5)),
    ]


def seldom(rng: random.Random) -> list[Job]:
    """Schedules for hours and days of serving."""
    return [
        every("quarter", 21_600, catchup_window="unlimited"),
        every("daily", 86_400, catchup_window=7200, coalesce="earliest"),
        every("scattered", 86_400, jitter=7200, catchup_window="unlimited"),
        cron("night", "30 2 * * *", "Europe/Berlin", catchup_window=2 * 86_400, coalesce="all"),
        cron("wild", "*/20 1-2 * * 0", "Australia/Lord_Howe", catchup_window="unlimited"),
        cron("last", "0 0 L * *", "America/New_York"),
        *(once(f"once-{n}", START + rng.randrange(2 * YEAR)) for n in range(10)),
        *(
            once(f"soon-{n}", START + rng.randrange(2 * YEAR), catchup_window=86_400)
            for n in range(10)
        ),
    ]


# -- what happens to the clock --------------------------------------------------------------------


def size(rng: random.Random, longest: int) -> int:
    """A number of seconds; as many of one order of magnitude as of another."""
    return int(longest ** rng.random() + 0.5)


async def mistreat(course: Course, events: int, serve: int, step: int, span_us: int) -> None:
    """Let something happen to the clock so often, after serving for a while of up to `serve`
    seconds: steps of up to `step`, no further from the beginning than `span_us`."""
    rng = course.rng
    for _ in range(events):
        await course.serve(size(rng, serve))
        seconds, off_us = size(rng, step), course.clock.now_us() - START
        forward = rng.random() < 0.5
        if abs(off_us + (seconds if forward else -seconds) * SECOND) > span_us:
            forward = off_us < 0
        match rng.randrange(10):
            case 0:
                await course.boot_in_1970(size(rng, 86_400))
            case 1 if forward:
                await course.outage(seconds)
            case 1:
                await course.outage(-seconds, accept_clock=True)
            case 2 if forward:
                await course.suspend(seconds)
            case _:
                await course.step(seconds if forward else -seconds)
        assert course.parked() == []
    await course.serve(5)


async def clock_course(directory: Path, events: int, seed: int, *, dense: bool) -> Result:
    """One world, whose clock is mistreated so often."""
    rng = random.Random(seed)
    jobs = often(rng) if dense else seldom(rng)
    how = (60, 7200, DAY) if dense else (4 * 86_400, 400 * 86_400, 2 * YEAR)
    servers = 2 if seed % 4 == 3 else 1
    async with Course(directory / f"{seed}.db", jobs, rng, servers=servers) as course:
        await mistreat(course, events, *how)
    return course.result()


def clock_steps(count: int, *, at_once: int = 500) -> Result:
    """So many steps, suspends, outages and starts in 1970, in one world after another."""
    result = Result()
    with tempfile.TemporaryDirectory() as directory:
        for seed, first in enumerate(range(0, count, at_once)):
            events = min(at_once, count - first)
            course = clock_course(Path(directory), events, seed, dense=seed % 4 != 1)
            result += asyncio.run(course)
    return result


# -- a step at any look at the clock --------------------------------------------------------------


class SteppingClock(FakeClock):
    """A clock that is set at the moment when it is looked at for the n-th time."""

    def __init__(self, at_look: int = 0, seconds: int = 0) -> None:
        super().__init__(ORIGIN)
        self.looks = 0
        self.served = False
        self.lowest_us = START
        self._at_look = at_look
        self._seconds = seconds

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.served = True
        with super().busy():
            yield

    def now_us(self) -> int:
        self.looks += self.served
        if self.looks == self._at_look:
            self._at_look = 0
            self.set_forward(self._seconds)
            self.lowest_us = min(self.lowest_us, super().now_us())
        return super().now_us()


async def serve_for_a_while(path: Path, clock: SteppingClock) -> Result:
    """A few seconds with firings, a failure and its retry, a restart and more firings."""
    jobs = [
        every("second", 1),
        every("two", 2, catchup_window="unlimited", coalesce="earliest"),
        cron("minutes", "* * * * *", catchup_window="unlimited"),
        every("failing", 3, task_name="t:fail", retries=1, retry_delay=2),
    ]
    async with Course(path, jobs, random.Random(0), clock=clock) as course:
        await clock.sleep(3.5)
        await course.stop()
        await course.start()
        await clock.sleep(3.5)
        before = course.calls.total()
        await clock.sleep(4.1)
        assert course.calls.total() >= before + 4, "it waits for a time that is far off"
        assert course.parked() == []
        waiting = "SELECT due_us FROM runs WHERE status = 'waiting' AND attempt > 1"
        assert all(us <= clock.now_us() + 2 * SECOND for (us,) in course._read(waiting))
        course.steps = 1
        course.lowest_us = clock.lowest_us
    return course.result(exact=False)


def looked_at(stride: int) -> Result:
    """Set the clock by most of an hour, forward and back, at each `stride`-th look at it."""
    result = Result()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        clock = SteppingClock()
        asyncio.run(serve_for_a_while(path / "undisturbed.db", clock))
        for look in range(1, clock.looks // 2, stride):
            for seconds in (3000, -3000):
                stepping = SteppingClock(look, seconds)
                result += asyncio.run(serve_for_a_while(path / f"{look}{seconds:+}.db", stepping))
    return result


# -- memory ---------------------------------------------------------------------------------------


async def memory_course(path: Path, steps: int) -> list[int]:
    """What the program's own code holds in memory after each fourth of so many steps, beside its
    cache of firings, which has a limit of its own."""
    rng = random.Random(0)
    sizes = []
    tracemalloc.start()
    async with Course(path, often(rng), rng) as course:
        for _ in range(4):
            await mistreat(course, steps // 4, serve=20, step=400 * 86_400, span_us=2 * YEAR)
            trigger._next.cache_clear()
            gc.collect()
            snapshot = tracemalloc.take_snapshot()
            ours = snapshot.filter_traces([tracemalloc.Filter(True, "*/sqlsched/*")])
            sizes.append(sum(trace.size for trace in ours.traces))
    tracemalloc.stop()
    return sizes


# -- leaps over millions of firings ---------------------------------------------------------------


@contextmanager
def function_calls() -> Iterator[Callable[[], int]]:
    """Counts the Python functions that are called, in every thread."""
    counts = [0]

    def count(_frame: object, event: str, _argument: object) -> None:
        counts[0] += event == "call"

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield lambda: counts[0]
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def leap(path: Path, jobs: list[Job], seconds: int) -> tuple[int, int, int]:
    """How many functions a leap of the clock calls, what memory it takes, and its rows."""
    with function_calls() as called:
        async with Course(path, jobs, random.Random(0)) as course:
            await course.serve(1.2)
            tracemalloc.start()
            before = called()
            await course.step(seconds)
            calls, (_, peak) = called() - before, tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert course.parked() == []
            rows = course._read("SELECT count(*) FROM runs WHERE scheduled_us > ?", START)
    course.result()
    return calls, peak, rows[0][0]


def leapt_jobs() -> list[Job]:
    return [
        every("second", 1),
        every("earliest", 1, coalesce="earliest", catchup_window="unlimited"),
        every("latest", 1, catchup_window="unlimited"),
        every("all", 1, coalesce="all", catchup_window=20),
        every("scattered", 2, jitter=1),
    ]


# -- clock changes --------------------------------------------------------------------------------


def next_changes(zone: str, count: int) -> list[datetime]:
    """The next times at which the clocks of a zone are put forward or back."""
    tz, days = zone_info(zone), [ORIGIN + timedelta(days=n) for n in range(0, 500, 5)]
    pairs = [
        before
        for before, after in pairwise(days)
        if before.astimezone(tz).utcoffset() != after.astimezone(tz).utcoffset()
    ]
    return [exact_change(tz, before) for before in pairs[:count]]


def around(zone: str, change: datetime) -> Iterator[Job]:
    """A fixed and a wildcard job in the minutes that a clock change skips or repeats."""
    tz = zone_info(zone)
    before, after = (
        (change + shift).astimezone(tz).replace(tzinfo=None)
        for shift in (-timedelta(minutes=1), timedelta())
    )
    middle = min(before, after) + abs(after - before) // 2
    start, end = us_of(change - timedelta(hours=26)), us_of(change + timedelta(hours=26))
    for name, expression in (
        ("fixed", f"{middle.minute} {middle.hour} * * *"),
        ("wild", f"*/30 {middle.hour},{after.hour} * * *"),
    ):
        made = cron(f"{name}-{zone.replace('/', '.')}-{change:%j}", expression, zone)
        made.fields |= {"start": moment_of(start), "end": moment_of(end)}
        made.nominal = Within(made.nominal, start, end)
        yield made


async def changes_course(path: Path, zones: Sequence[str], count: int) -> Result:
    jobs = [made for zone in zones for at in next_changes(zone, count) for made in around(zone, at)]
    last = max(made.fields["end"] for made in jobs)
    async with Course(path, jobs, random.Random(0)) as course:
        course.steps = len(jobs) // 2
        await course.serve((last - ORIGIN).total_seconds() + 1)
    return course.result()


def clock_changes(zones: Sequence[str] = (), count: int = 2) -> Result:
    """Serve through the next clock changes of zones, all that there are by default."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(
            changes_course(Path(directory) / "zones.db", zones or zone_names(), count)
        )


ODD = [
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Antarctica/Troll"),
    *("Africa/Cairo", "Asia/Beirut", "America/Havana", "Africa/Casablanca", "Europe/Dublin"),
]
"""Half an hour, two hours, at midnight, in Ramadan, backwards."""


# -- the tests ------------------------------------------------------------------------------------


def check(result: Result) -> None:
    print(f"\n{result}")
    assert result.cases
    assert result.firings
    assert (result.lost, result.doubled) == ([], [])


def test_nothing_is_lost_doubled_or_parked_whatever_happens_to_the_clock() -> None:
    check(clock_steps(24, at_once=6))


def test_the_clock_may_be_set_between_any_two_looks_at_it() -> None:
    check(looked_at(23))


def test_a_leap_costs_the_same_whatever_it_leaps_over(tmp_path: Path) -> None:
    short_calls, _, short_rows = asyncio.run(leap(tmp_path / "short.db", leapt_jobs(), 400))
    calls, peak, rows = asyncio.run(leap(tmp_path / "long.db", leapt_jobs(), 400 * 86_400))
    assert rows == short_rows
    assert calls < 1.1 * short_calls
    assert peak < 2_000_000


def test_every_clock_change_is_served_as_the_rules_have_it() -> None:
    check(clock_changes(ODD))


@pytest.mark.long
def test_memory_does_not_grow_with_the_steps_of_the_clock(tmp_path: Path) -> None:
    logging.disable()  # what pytest keeps of the log is not the program's
    try:
        sizes = asyncio.run(memory_course(tmp_path / "app.db", 200))
    finally:
        logging.disable(logging.NOTSET)
    print(f"\n{sizes} bytes after each 50 steps")
    assert sizes[-1] < sizes[0] + 100_000


@pytest.mark.long
def test_the_clock_is_set_at_every_look_that_is_taken_at_it() -> None:
    check(looked_at(1))

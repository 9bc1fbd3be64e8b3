"""What would happen: the real loop over a copy, and nothing but the copy."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sqlsched.difference import Difference, differences
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import MINUTE_US, SECOND_US, from_us
from sqlsched.processes import boot_id, process_start_time
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.simulation import MOST_FIRINGS, Scenario, simulated
from sqlsched.storage import additions, changes, sync
from sqlsched.storage.connection import Database, open_for_writing
from sqlsched.storage.copies import snapshot
from sqlsched.storage.outcomes import Decided
from sqlsched.trigger import Trigger

NOON_US = 1_800_014_400 * SECOND_US
"""2027-01-15T12:00:00Z."""
HOUR = 3600


def s(seconds: float) -> int:
    """So many seconds after noon."""
    return NOON_US + round(seconds * SECOND_US)


def at(us: int) -> float:
    return (us - NOON_US) / SECOND_US


class World:
    """A database, and what would become of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database: Database = open_for_writing(path, create=True)
        self.bad: list[str] = []

    def add(self, schedule_id: str = "job", *, added: float = -1, **fields: Any) -> None:
        """Store a schedule, by default one that fires each minute."""
        if not fields.keys() & {"cron", "time", "interval"}:
            fields["cron"] = "* * * * *"
        made = ScheduledTask(task_name="no.such:task", schedule_id=schedule_id, **fields)
        additions.add(self.database, made, s(added))

    def insert_run(self, scheduled: float, status: str, **columns: Any) -> None:
        """A run as the ledger would have it, of `job` if nothing else is said."""
        values = {
            "schedule_id": "job",
            "task_name": "no.such:task",
            "scheduled_us": s(scheduled),
            "attempt": 1,
            "trigger": "schedule",
            "status": status,
            "due_us": s(scheduled),
        } | columns
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        query = f"INSERT INTO runs ({names}) VALUES ({marks})"  # noqa: S608 - of a test's words
        self.database.execute(query, tuple(values.values()))

    def play(self, seconds: float = HOUR, begin: float = 0, **how: Any) -> "Played":
        """Simulate so many seconds from noon on."""
        scenario = Scenario(from_us=s(begin), to_us=s(begin + seconds), **how)
        taken = snapshot(self.database, since_us=scenario.from_us)
        with simulated(
            taken,
            scenario,
            progress=lambda _: None,
            on_bad=lambda schedule_id, _: self.bad.append(schedule_id),
        ) as outcome:
            return Played(
                list(outcome.firings()),
                outcome.counts(),
                [(at(us), schedule_id) for us, schedule_id in outcome.overlaps()],
                outcome.busiest_minute(),
                list(outcome.undone()),
            )


class Played:
    """What came of it, read while it was there."""

    def __init__(
        self,
        firings: list[Decided],
        counts: dict[str, int],
        overlaps: list[tuple[float, str]],
        busiest: tuple[int, int] | None,
        undone: list[Decided],
    ) -> None:
        self.firings = firings
        self.counts = counts
        self.overlaps = overlaps
        self.busiest = busiest
        self.undone = undone
        expected = dict.fromkeys(counts, 0)
        for firing in firings:
            expected[firing.decision] += 1
        assert counts == expected
        rest = sum(found.number for found in undone)
        assert rest == len(firings) - counts.get("dispatched", 0)

    def times(self, decision: str = "dispatched", schedule_id: str = "job") -> list[float]:
        """The minutes after noon of the firings of which this was decided."""
        return [
            at(found.scheduled_us) / 60
            for found in self.firings
            if (found.decision, found.schedule_id) == (decision, schedule_id)
        ]

    def reasons(self) -> set[str | None]:
        return {found.reason for found in self.firings if found.decision != "dispatched"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "test.db")
    with closing(made.database):
        yield made


# -- what would run -------------------------------------------------------------------------------


def test_every_firing_of_the_time_is_told(world: World) -> None:
    world.add("a", cron="*/10 * * * *")
    world.add("b", interval=1200)
    world.add("c", time=from_us(s(601)))
    played = world.play()
    assert played.counts == {"dispatched": 6 + 2 + 1 + 1}  # b has one a second before one o'clock
    assert played.times(schedule_id="a") == [0, 10, 20, 30, 40, 50]
    assert played.firings == sorted(played.firings)
    assert played.busiest == (s(600), 2)
    assert played.overlaps == []


def test_the_end_itself_is_not_part_of_it(world: World) -> None:
    world.add()
    assert world.play(120).times() == [0, 1]
    assert world.play(120.5).times() == [0, 1, 2]


def test_nothing_happens_without_schedules(world: World) -> None:
    played = world.play()
    assert (played.firings, played.counts, played.busiest) == ([], {}, None)


def test_a_paused_schedule_does_not_fire_and_a_copy_of_a_source_does(world: World) -> None:
    world.add("paused", paused=True)
    world.add("copy")
    world.database.execute("UPDATE schedules SET source = 'label' WHERE schedule_id = 'copy'")
    assert {found.schedule_id for found in world.play().firings} == {"copy"}


def test_what_several_machines_share_goes_by_its_trigger(world: World) -> None:
    world.add()
    world.database.execute(
        "UPDATE schedules SET source = 'redis', shared = 1, wake_us = NULL, next_us = ?",
        (s(-10_000),),
    )
    assert world.play(120).times() == [0, 1]


def test_the_busiest_minute_has_the_most_starts(world: World) -> None:
    world.add("a", cron="*/20 * * * *")
    world.add("b", cron="20 * * * *")
    assert world.play().busiest == (s(1200), 2)


def test_bounds_are_kept(world: World) -> None:
    world.add("n", max_runs=3)
    world.add("e", end=from_us(s(120)))
    played = world.play()
    assert played.times(schedule_id="n") == played.times(schedule_id="e") == [0, 1, 2]


# -- how long runs take ---------------------------------------------------------------------------


def test_a_run_takes_a_second_if_nobody_knows_better(world: World) -> None:
    world.add("job", interval=1, start=from_us(s(0)))
    assert world.play(60).counts == {"dispatched": 60}


def test_a_run_takes_as_long_as_those_before_it(world: World) -> None:
    world.add()
    for number, seconds in enumerate([1, 90, 80, 100, 1]):
        begun = -1000 + number * 60
        world.insert_run(begun, "succeeded", started_us=s(begun), finished_us=s(begun + seconds))
    played = world.play(600)  # the median is 80 s, so every other one finds its predecessor going
    assert played.times() == [0, 2, 4, 6, 8]
    assert played.times("skipped") == [1, 3, 5, 7, 9]
    assert played.overlaps == [(60 * minute, "job") for minute in (1, 3, 5, 7, 9)]
    assert played.reasons() == {"overlap"}


@pytest.mark.parametrize(
    ("overlap", "dispatched", "other"),
    [
        ("skip", [0, 2, 4], {"skipped": 3}),
        ("allow", [0, 1, 2, 3, 4, 5], {}),
        ("buffer-all", [0, 1, 2, 3, 4], {"pending": 1}),
        ("buffer-one", [0, 1, 2, 3, 5], {"skipped": 1}),
    ],
)
def test_runs_that_take_longer_overlap_as_their_policy_says(
    world: World, overlap: str, dispatched: list[float], other: dict[str, int]
) -> None:
    world.add(overlap=overlap)
    played = world.play(360, durations_us={"job": 90 * SECOND_US})
    assert played.times() == dispatched
    assert played.counts == {"dispatched": len(dispatched)} | other
    assert len(played.overlaps) >= 3


def test_a_run_that_ends_at_the_next_firing_is_not_in_its_way(world: World) -> None:
    world.add()
    played = world.play(600, durations_us={"job": MINUTE_US})
    assert (played.counts, played.overlaps) == ({"dispatched": 10}, [])


def test_a_timeout_stops_a_run_that_would_take_longer(world: World) -> None:
    world.add(timeout=30)
    played = world.play(600, durations_us={"job": 90 * SECOND_US})
    assert played.counts == {"dispatched": 10}
    assert {found.reason for found in played.firings} == {"timed_out"}


def test_with_few_at_a_time_the_others_wait(world: World) -> None:
    for name in "abc":
        world.add(name, cron="0 * * * *", expires=100)
    played = world.play(600, durations_us=dict.fromkeys("abc", MINUTE_US), concurrency=1)
    assert played.counts == {"dispatched": 2, "missed": 1}
    assert played.reasons() == {"expired"}


# -- when nobody runs -----------------------------------------------------------------------------


def test_what_comes_due_while_nobody_runs_is_missed_or_caught_up(world: World) -> None:
    world.add()
    played = world.play(1200, downs=[(s(300), s(630))])
    assert played.times("missed") == [5, 6, 7, 8, 9]
    assert played.times() == [0, 1, 2, 3, 4, *range(10, 20)]
    assert played.reasons() == {"outside-catchup-window"}
    assert [(found.number, at(found.last_us)) for found in played.undone] == [(5, 540)]


def test_a_policy_decides_what_is_caught_up(world: World) -> None:
    world.add("all", catchup_window="unlimited", coalesce="all", overlap="allow")
    world.add("latest", catchup_window="unlimited")
    world.add("once", time=from_us(s(310)))
    played = world.play(700, downs=[(s(300), s(600))])
    assert played.times(schedule_id="all") == list(range(12))
    assert played.times("missed", "latest") == [5, 6, 7, 8, 9]
    assert "coalesced" in played.reasons()
    assert len(played.times(schedule_id="once")) == 1


def test_times_without_anybody_may_touch_overlap_and_reach_beyond_both_ends(world: World) -> None:
    world.add()
    downs = [(s(240), s(300)), (s(-50), s(60)), (s(250), s(330)), (s(600), s(9000))]
    played = world.play(1200, downs=downs)
    assert played.times() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert played.times("missed") == [0, 4, *range(10, 20)]


def test_a_run_that_is_going_when_nobody_runs_any_more_has_half_a_minute(world: World) -> None:
    world.add(cron="0 * * * *")
    for seconds, reason in ((20, None), (50, "shutdown")):
        played = world.play(
            HOUR, downs=[(s(10), s(600))], durations_us={"job": seconds * SECOND_US}
        )
        assert [(found.decision, found.reason) for found in played.firings] == [
            ("dispatched", reason)
        ]


# -- when the clock is set ------------------------------------------------------------------------


def test_a_clock_that_is_put_back_repeats_nothing(world: World) -> None:
    world.add()
    played = world.play(1200, steps=[(s(605), -300 * SECOND_US)])
    assert played.times() == list(range(20))
    assert played.counts == {"dispatched": 20}


def test_a_clock_that_is_put_forward_misses_what_it_skips(world: World) -> None:
    world.add()
    played = world.play(1200, steps=[(s(305), 300 * SECOND_US)])
    assert played.times("missed") == [6, 7, 8, 9]
    assert played.times() == [0, 1, 2, 3, 4, 5, *range(10, 20)]


def test_a_firing_that_was_missed_and_ran_after_all_is_told_once(world: World) -> None:
    world.add()
    steps = [(s(305), 300 * SECOND_US), (s(610), -400 * SECOND_US)]
    played = world.play(1200, steps=steps)
    assert played.times() == list(range(20))
    assert played.counts == {"dispatched": 20}


def test_the_clock_may_be_set_while_nobody_runs(world: World) -> None:
    world.add()
    played = world.play(1200, downs=[(s(300), s(900))], steps=[(s(400), 600 * SECOND_US)])
    assert played.times() == [0, 1, 2, 3, 4, 16, 17, 18, 19]


spans = st.tuples(st.integers(0, 4 * HOUR), st.integers(1, 5000)).map(
    lambda drawn: (s(drawn[0]), s(sum(drawn)))
)
steps = st.tuples(st.integers(0, 4 * HOUR), st.integers(-5000, 5000)).map(
    lambda drawn: (s(drawn[0]), drawn[1] * SECOND_US)
)


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(
    downs=st.lists(spans, max_size=3),
    steps=st.lists(steps, max_size=3),
    policies=st.fixed_dictionaries(
        {
            "overlap": st.sampled_from(["skip", "allow", "buffer-one", "cancel-other"]),
            "coalesce": st.sampled_from(["latest", "earliest", "all"]),
            "catchup_window": st.sampled_from(["none", 600, "unlimited"]),
            "jitter": st.sampled_from([None, 300]),
        }
    ),
    seconds=st.integers(0, 900),
)
def test_whatever_happens_every_firing_is_told_once(
    tmp_path_factory: pytest.TempPathFactory,
    downs: list[tuple[int, int]],
    steps: list[tuple[int, int]],
    policies: dict[str, Any],
    seconds: int,
) -> None:
    world = World(tmp_path_factory.mktemp("any") / "test.db")
    with closing(world.database):
        world.add("cron", cron="*/7 * * * *", **policies)
        world.add("interval", interval=1000, **policies)
        durations = dict.fromkeys(("cron", "interval"), seconds * SECOND_US)
        played = world.play(4 * HOUR, downs=downs, steps=steps, durations_us=durations)
    cron = Trigger("*/7 * * * *", None, None, None, None, None, 0)
    interval = Trigger(None, None, None, 1000, None, None, s(-1))
    expected = [("cron", us) for us in nominal(cron)] + [
        ("interval", us) for us in nominal(interval)
    ]
    assert sorted((f.schedule_id, f.scheduled_us) for f in played.firings) == sorted(expected)


def nominal(trigger: Trigger) -> Iterator[int]:
    us = trigger.next_us(s(0) - 1)
    while us is not None and us < s(4 * HOUR):
        yield us
        us = trigger.next_us(us)


# -- how it begins --------------------------------------------------------------------------------


def test_from_now_on_what_is_overdue_is_decided(world: World) -> None:
    world.add(added=-310)
    world.add("once", time=from_us(s(-200)), added=-310)
    played = world.play(60)
    assert played.times("missed") == [-5, -4, -3, -2, -1]
    assert played.times() == [0]
    assert len(played.times(schedule_id="once")) == 1


def test_what_is_running_now_goes_on_for_as_long_as_it_usually_takes(world: World) -> None:
    world.add()
    changes.edit(world.database, "job", lambda there: there, s(-1))
    world.insert_run(-60, "running", started_us=s(-60), owner=1, pid=1, pid_started=1)
    played = world.play(300, durations_us={"job": 150 * SECOND_US})
    assert played.times("skipped") == [0, 1, 3, 4]
    assert played.times() == [2]  # the one before it had 90 seconds left
    assert played.overlaps[0] == (0, "job")


def test_what_waits_or_is_claimed_now_is_started(world: World) -> None:
    for name in ("job", "tried", "asked"):
        world.add(name, cron="0 * * * *", added=1)
    world.insert_run(-3, "claimed", owner=1)
    again = {"attempt": 2, "trigger": "retry", "due_us": s(30)}
    world.insert_run(-90, "waiting", schedule_id="tried", **again)
    world.insert_run(-1, "waiting", schedule_id="asked", manual_key=77, trigger="manual")
    played = world.play(600)
    assert [at(found.scheduled_us) for found in played.firings] == [-3]
    assert played.counts == {"dispatched": 1}


@pytest.mark.parametrize("begin", [-10 * HOUR, 10 * HOUR])
def test_from_another_time_on_all_before_is_settled_and_nothing_goes_on(
    world: World, begin: float
) -> None:
    world.add(added=-310)
    world.add("before", time=from_us(s(begin - 1)), added=-310)
    world.add("after", time=from_us(s(begin + 1)), added=-310)
    world.insert_run(-60, "running", started_us=s(-60), owner=1)
    played = world.play(300, begin=begin, now_us=s(0))
    assert played.times() == [begin / 60 + minute for minute in range(5)]
    assert played.counts == {"dispatched": 6}
    assert len(played.times(schedule_id="after")) == 1


def test_a_time_that_has_been_is_told_as_if_it_were_to_come(world: World) -> None:
    world.add(max_runs=10, added=-310)
    for number in range(6):
        begun = -300 + number * 60
        world.insert_run(begun, "succeeded", started_us=s(begun), finished_us=s(begun + 1))
    world.database.execute("UPDATE schedules SET dispatched = 6, next_us = ?", (s(60),))
    assert world.play(HOUR, begin=-120, now_us=s(1)).times() == [-2, -1, 0, 1, 2, 3, 4]
    assert world.play(HOUR, begin=120, now_us=s(1)).times() == [2, 3, 4]
    assert world.play(HOUR, begin=600, now_us=s(1)).times() == []


# -- what it leaves alone -------------------------------------------------------------------------


def test_neither_the_database_nor_what_runs_is_touched(world: World, tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        world.add(added=-310)
        world.database.execute(
            "INSERT INTO owners VALUES (1, 'gone', 1, ?, 0, 0, NULL)", (boot_id(),)
        )
        begun = process_start_time(child.pid)
        world.insert_run(
            -60, "running", started_us=s(-60), owner=1, pid=child.pid, pid_started=begun
        )
        before = list(world.database.iterdump())
        files = sorted(tmp_path.iterdir())
        world.play(600)
        assert child.poll() is None
        assert list(world.database.iterdump()) == before
        assert sorted(tmp_path.iterdir()) == files
        child.communicate(b"\n")


def test_a_schedule_that_cannot_be_read_is_named_and_left_out(world: World) -> None:
    world.add("good")
    world.add("bad")
    world.database.execute("UPDATE schedules SET args = '{' WHERE schedule_id = 'bad'")
    assert {found.schedule_id for found in world.play().firings} == {"good"}
    assert world.bad == ["bad"]


def test_more_firings_than_anybody_can_wait_for_are_refused_at_once(world: World) -> None:
    world.add(interval=1)
    with pytest.raises(InvalidScheduleError, match=f"at most {MOST_FIRINGS:,} are simulated"):
        world.play(MOST_FIRINGS + 100)


# -- what a change makes of it --------------------------------------------------------------------


def difference(world: World, *listed: ScheduledTask, **how: Any) -> dict[str, Difference]:
    tried = sync.preview(world.database, listed, s(-0.5), prune=True)
    labels: list[str] = []

    def progress(label: str) -> Any:
        labels.append(label)
        return Progress()

    found = differences(
        tried.before,
        tried.after,
        Scenario(from_us=s(0), to_us=s(HOUR), **how),
        progress=progress,
        on_bad=lambda *_: None,
    )
    assert labels == ["before", "after"]
    return found


class Progress:
    def __enter__(self) -> Any:
        return lambda _: None

    def __exit__(self, *_: object) -> None:
        pass


def task(schedule_id: str, cron: str, **fields: Any) -> ScheduledTask:
    return ScheduledTask(task_name="m:f", schedule_id=schedule_id, cron=cron, **fields)


def test_a_change_is_told_in_firings(world: World) -> None:
    listed = [
        task("same", "* * * * *"),
        task("other", "*/10 * * * *"),
        task("gone", "*/20 * * * *"),
    ]
    sync.sync(world.database, listed, s(-1))
    changed = [listed[0], task("other", "*/15 * * * *"), task("new", "30 * * * *")]
    assert difference(world, *changed) == {
        "other": Difference(firings_added=2, firings_removed=4),
        "gone": Difference(firings_removed=3),
        "new": Difference(firings_added=1),
    }
    paused = [*listed[1:], task("same", "* * * * *", paused=True)]
    assert difference(world, *paused) == {"same": Difference(firings_removed=60)}
    noted = [*listed[1:], task("same", "* * * * *", note="x")]
    assert difference(world, *noted) == {}


def test_new_overlaps_are_those_that_were_not_there_before(world: World) -> None:
    sync.sync(world.database, [task("a", "*/3 * * * *")], s(-1))
    found = difference(world, task("a", "* * * * *"), durations_us={"a": 150 * SECOND_US})
    assert found["a"].firings_added == 40
    assert found["a"].new_overlaps == 40
    back = difference(world, task("a", "*/5 * * * *"), durations_us={"a": 150 * SECOND_US})
    assert back["a"].new_overlaps == 0

"""Taking over from the dead, giving back, forgetting."""

import pytest

from sqlsched.instants import from_us
from sqlsched.storage import changes, owners, recovery, runs
from sqlsched.storage.recovery import Orphan

from .bench import Bench, s, times

# -- the dead -------------------------------------------------------------------------------------


def test_what_the_dead_had_claimed_starts_once_elsewhere(bench: Bench) -> None:
    bench.add()
    dead, first, second = bench.scheduler(), bench.scheduler(), bench.scheduler()
    dead.turn(-0.5)
    dead.die()
    assert not owners.is_alive(bench.path, dead.entry)
    assert bench.take_over([dead.entry], 0) == []
    assert bench.runs() == [(0, 1, "waiting")]
    assert [times(scheduler.turn(0.1)) for scheduler in (first, second)] == [[0], []]


def test_what_the_dead_had_started_is_abandoned_and_never_tried_again(bench: Bench) -> None:
    bench.add(retries=5, retry_delay=1)
    dead, other = bench.scheduler(), bench.scheduler()
    (run,) = dead.turn(0).started
    dead.die()
    assert bench.take_over([dead.entry], 10) == [run.run_id]
    assert bench.take_over([dead.entry], 11) == []
    found = runs.get_run(bench.database, run.run_id)
    assert (found.status, found.reason, found.finished_us) == ("abandoned", "owner-died", s(10))
    assert other.turn(30).started == []
    assert bench.runs() == [(0, 1, "abandoned")]


def test_an_abandoned_run_ends_no_sooner_than_it_began_whatever_the_clock_says(
    bench: Bench,
) -> None:
    bench.add()
    dead = bench.scheduler()
    dead.turn(0)
    dead.die()
    bench.take_over([dead.entry], -3600)
    assert bench.ask("SELECT finished_us - started_us FROM runs") == [0]


def test_a_run_of_the_dead_stands_in_nobodys_way(bench: Bench) -> None:
    bench.add(overlap="skip")
    dead, other = bench.scheduler(), bench.scheduler()
    dead.turn(0)
    dead.die()
    bench.take_over([dead.entry], 10)
    assert times(other.turn(60)) == [60]


def test_the_runs_of_the_living_are_left_alone(bench: Bench) -> None:
    bench.add()
    dead, living = bench.scheduler(), bench.scheduler()
    living.turn(0)
    bench.take_over([dead.entry], 1)
    assert bench.runs() == [(0, 1, "running")]


def test_what_the_dead_held_goes_on_being_held(bench: Bench) -> None:
    bench.add(overlap="buffer-all")
    dead, other = bench.scheduler(), bench.scheduler()
    (run,) = other.turn(0).started
    dead.turn(60)
    dead.die()
    bench.take_over([dead.entry], 61)
    assert other.turn(61).started == []
    assert times(other.finish(run, 62, ahead=8)) == [60]


def test_the_processes_the_dead_left_are_named_until_they_are_taken_over(bench: Bench) -> None:
    bench.add()
    dead = bench.scheduler()
    (run,) = dead.turn(0).started
    dead.turn(1, processes=[(run.run_id, 4711, 99)])
    assert recovery.orphans(bench.database, [dead.entry]) == [Orphan(run.run_id, 4711, 99, "boot")]
    bench.take_over([dead.entry], 2)
    assert recovery.orphans(bench.database, [dead.entry]) == []


def test_who_leaves_in_order_gives_back_its_claims_and_is_not_missed(bench: Bench) -> None:
    bench.add()
    leaving, other = bench.scheduler(), bench.scheduler()
    leaving.turn(-0.5)
    owners.unregister(leaving.database, leaving.owner, s(-0.2))
    turn = other.turn(0)
    assert (times(turn), turn.others) == ([0], [])


# -- idle -----------------------------------------------------------------------------------------


def test_a_schedule_with_a_future_or_a_run_under_way_is_something_to_do(bench: Bench) -> None:
    assert recovery.idle(bench.database)
    bench.add(time=from_us(s(0)))
    assert not recovery.idle(bench.database)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    assert not recovery.idle(bench.database)
    scheduler.finish(run, 1)
    assert recovery.idle(bench.database)


@pytest.mark.parametrize(("manual", "idle"), [(False, True), (True, False)])
def test_what_a_pause_holds_back_does_not_count_but_a_manual_trigger_does(
    bench: Bench, manual: bool, idle: bool
) -> None:
    bench.add(retries=1)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.finish(run, 1, "failed")
    changes.pause(bench.database, ["job"], s(2))
    if manual:
        runs.trigger(bench.database, "job", s(3))
    assert recovery.idle(bench.database) is idle

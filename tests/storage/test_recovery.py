"""Taking over from the dead, giving back, pulling back after a step of the clock, forgetting."""

import pytest

from sqlsched.instants import from_us
from sqlsched.storage import changes, owners, recovery, runs
from sqlsched.storage.connection import DamagedDatabaseError
from sqlsched.storage.recovery import Orphan

from .bench import Bench, Scheduler, s, times


def ran(scheduler: Scheduler, at: float) -> int:
    """Start what is due and end it well; the last run's id."""
    started = scheduler.turn(at, since=at - 1).started
    for run in started:
        scheduler.finish(run, at + 1)
    return started[-1].run_id


# -- the forgotten --------------------------------------------------------------------------------


def test_a_scheduler_taken_for_dead_learns_of_it_and_claims_nothing_more(bench: Bench) -> None:
    """As its lock file was deleted: nobody would take over what it claims from now on."""
    bench.add()
    alive = bench.scheduler()
    alive.lock.path.unlink()
    assert not owners.is_alive(bench.path, alive.entry)
    bench.take_over([alive.entry], 0)
    with pytest.raises(DamagedDatabaseError, match="does not know this scheduler any more"):
        alive.turn(0)
    assert bench.runs() == []


def test_a_scheduler_that_a_restored_backup_does_not_know_learns_of_it(bench: Bench) -> None:
    first = bench.scheduler()
    bench.database.execute("UPDATE owners SET token = 'another'")
    with pytest.raises(DamagedDatabaseError, match="a backup was restored"):
        first.turn(0)


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


# -- a clock that was put back --------------------------------------------------------------------


def test_after_a_step_back_nothing_is_parked_in_the_future_and_nothing_runs_twice(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(5):
        ran(scheduler, 60 * minute)
    assert recovery.pull_back(bench.database, s(90)) == 1
    assert bench.next() == 120
    assert [times(scheduler.turn(60 * minute, since=0)) for minute in range(2, 6)] == [
        *([], [], []),
        [300],
    ]


def test_a_step_back_moves_no_one_shot_and_nothing_that_is_in_its_place(bench: Bench) -> None:
    bench.add("once", time=from_us(s(500)))
    bench.add("regular")
    assert recovery.pull_back(bench.database, s(-90)) == 0
    assert (bench.next("once"), bench.next("regular")) == (500, 0)


def test_a_step_back_leaves_a_pause_in_force(bench: Bench) -> None:
    bench.add()
    ran(bench.scheduler(), 0)
    changes.pause(bench.database, ["job"], s(10))
    recovery.pull_back(bench.database, s(-30))
    assert bench.ask("SELECT next_us, wake_us FROM schedules") == [(s(0), None)]


def test_a_step_back_repeats_nothing_that_the_ledger_has_forgotten(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(5):
        ran(scheduler, 60 * minute)
    assert runs.prune(bench.database, s(200), 100) == 4
    recovery.pull_back(bench.database, s(30))
    assert bench.next() == 240
    assert [times(scheduler.turn(at, since=0)) for at in (60, 180, 240, 300)] == [[], [], [], [300]]


def test_a_damaged_row_keeps_no_other_from_being_pulled_back(bench: Bench) -> None:
    bench.add("bad", cron="* * * * *")
    bench.add("good")
    ran(bench.scheduler(), 0)
    bench.database.execute("UPDATE schedules SET cron = 'nonsense' WHERE schedule_id = 'bad'")
    assert recovery.pull_back(bench.database, s(-30)) == 1
    assert bench.next("good") == 0


# -- forgetting -----------------------------------------------------------------------------------


def test_old_runs_are_forgotten_a_few_at_a_time(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(7):
        ran(scheduler, 60 * minute)
    assert [runs.prune(bench.database, s(310), 3) for _ in range(3)] == [3, 3, 0]
    assert bench.runs() == [(360, 1, "succeeded")]
    assert runs.pruned_us(bench.database) == s(300)


def test_what_is_under_way_is_never_forgotten_however_old_it_is(bench: Bench) -> None:
    bench.add(overlap="allow", retries=1)
    scheduler = bench.scheduler()
    scheduler.turn(0)
    (failing,) = scheduler.turn(60).started
    scheduler.finish(failing, 61, "failed")
    assert runs.prune(bench.database, s(10**6), 100) == 1
    assert bench.runs() == [(0, 1, "running"), (60, 2, "waiting")]


def test_a_long_run_is_kept_from_its_end_on(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.finish(run, 5000)
    assert runs.prune(bench.database, s(5000), 100) == 0
    assert runs.prune(bench.database, s(5001), 100) == 1


def test_output_and_done_schedules_are_forgotten_with_their_runs(bench: Bench) -> None:
    bench.add(time=from_us(s(0)))
    bench.add("going")
    scheduler = bench.scheduler()
    ran(scheduler, 0)
    bench.database.execute("INSERT INTO outputs SELECT run_id, x'', x'', 0 FROM runs")
    runs.prune(bench.database, s(100), 100)
    assert bench.ask("SELECT schedule_id FROM schedules") == ["going"]
    assert bench.ask("SELECT count(*) FROM outputs") == [0]


def test_forgetting_nothing_writes_nothing(bench: Bench) -> None:
    bench.add()
    other = bench.scheduler().database
    before = other.execute("PRAGMA data_version").fetchone()
    assert runs.prune(bench.database, s(0), 100) == 0
    assert other.execute("PRAGMA data_version").fetchone() == before


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

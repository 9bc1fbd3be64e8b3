"""Taking over from the dead, giving back, forgetting."""

from dataclasses import replace
from typing import Any

import pytest

from sqlsched.instants import from_us
from sqlsched.storage import changes, owners, recovery, runs
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.recovery import Orphan
from sqlsched.storage.turn import Started

from .bench import Bench, s, times

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


def send_and_die(bench: Bench, at: float) -> Started:
    """A scheduler hands a run to a queue, and dies before it can say so."""
    dead = bench.scheduler()
    (run,) = dead.turn(at, reports_completion=False).started
    dead.die()
    bench.take_over([dead.entry], at + 1)
    return run


def sent_at(bench: Bench, at: float, **more: Any) -> list[float]:
    """Another sends what there is to send: the nominal times."""
    scheduler = bench.scheduler()
    turn = scheduler.turn(at, reports_completion=False, **more)
    for run in turn.started:
        scheduler.finish(run, at + 1, "sent")
    return times(turn)


def test_what_is_sent_again_counts_once_towards_max_runs(bench: Bench) -> None:
    bench.add(max_runs=2)
    for minute in (0, 60):
        send_and_die(bench, minute)
        assert sent_at(bench, minute + 2) == [minute]
    assert bench.ask("SELECT dispatched FROM schedules") == [2]


def test_what_is_sent_again_counts_once_though_it_is_refused(bench: Bench) -> None:
    bench.add(max_runs=2)
    send_and_die(bench, 0)
    scheduler = bench.scheduler()
    (again,) = scheduler.turn(2, reports_completion=False).started
    (armed,) = scheduler.turn(3, refused=[(again.run_id, s(4))]).armed
    assert times(scheduler.turn(4, due=[armed.run_id], reports_completion=False)) == [0]
    assert bench.ask("SELECT dispatched FROM schedules") == [1]


def test_what_may_have_been_sent_is_sent_again_however_late(bench: Bench) -> None:
    bench.add(overlap="allow")
    send_and_die(bench, 0)
    assert 0 in sent_at(bench, 1000)


def test_what_may_have_been_sent_is_not_beyond_the_last_of_max_runs(bench: Bench) -> None:
    bench.add(interval=1, start=from_us(s(0)), max_runs=2, overlap="allow")
    early = bench.scheduler()
    due = [early.turn(at).armed[0].run_id for at in (-0.5, 0.5)]
    send_and_die(bench, 2)
    assert times(early.turn(3.1, due=due, ahead=-1, reports_completion=False)) == [0]
    assert sent_at(bench, 4) == [2]
    assert bench.runs() == [(0, 1, "sending"), (1, 1, "skipped"), (2, 1, "sent")]


@pytest.mark.parametrize("change", ["edit", "pause"])
def test_what_may_have_been_sent_is_sent_again_whatever_is_done_to_its_schedule(
    bench: Bench, change: str
) -> None:
    bench.add()
    send_and_die(bench, 0)
    if change == "edit":
        changes.edit(bench.database, "job", lambda there: replace(there, interval=70), s(2))
    else:
        changes.pause(bench.database, ["job"], s(2))
        assert sent_at(bench, 3) == []
        changes.resume_all(bench.database, ["job"], s(4))
    assert sent_at(bench, 5) == [0]


def test_taking_over_leaves_no_file_of_anybody_who_died(bench: Bench) -> None:
    dead, living = bench.scheduler(), bench.scheduler()
    dead.lock._forget()
    stray = bench.path.with_name(f"{bench.path.name}-owner-stray")
    stray.touch()  # of one who was killed before it was in the ledger
    bench.take_over([dead.entry], 0)
    assert not stray.exists()
    assert not dead.lock.path.exists()
    assert owners.is_alive(bench.path, living.entry)


def test_who_starts_removes_the_file_of_one_who_died_before_it_was_in_the_ledger(
    bench: Bench,
) -> None:
    living = bench.scheduler()
    stray = bench.path.with_name(f"{bench.path.name}-owner-stray")
    stray.touch()
    bench.scheduler()
    assert not stray.exists()
    assert owners.is_alive(bench.path, living.entry)


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

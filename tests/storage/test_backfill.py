"""Backfilling: what has no run gets one, once, in its turn."""

from typing import Any

import pytest

from sqlsched.exceptions import InvalidScheduleError, ScheduleNotFoundError
from sqlsched.instants import from_us
from sqlsched.scheduled_task import derive_task_id
from sqlsched.storage import backfill, changes, recovery, runs
from sqlsched.storage.turn import Turn

from .bench import Bench, Scheduler, s, times


def fill(bench: Bench, first: float, last: float, at: float = 905) -> list[float]:
    """Backfill; the firings that will run, in seconds after noon."""
    found = backfill.backfill(bench.database, "job", s(first), s(last), s(at))
    return [(us - s(0)) / 1e6 for us in found.without_run]


def run_all(scheduler: Scheduler, at: float, takes: float = 1, **how: Any) -> list[list[float]]:
    """Turn by turn, run whatever is to run, until there is nothing; what started in each."""
    started = []
    turn = scheduler.turn(at, **how)
    while turn.started:
        started.append(times(turn))
        for run in turn.started[:-1]:
            scheduler.finish(run, at)
        at += takes
        turn = scheduler.finish(turn.started[-1], at, ahead=8, **how)
    return started


def flat(started: list[list[float]]) -> list[float]:
    return [time for turn in started for time in turn]


def backfilled(bench: Bench) -> list[tuple[Any, ...]]:
    """(seconds after noon, attempt, status, trigger) of each run of a backfill."""
    return [
        ((us - s(0)) / 1e6, *rest)
        for us, *rest in bench.ask(
            """SELECT scheduled_us, attempt, status, trigger FROM runs WHERE manual_key = -1
               ORDER BY scheduled_us, attempt"""
        )
    ]


# -- what is backfilled ---------------------------------------------------------------------------


def test_firings_without_a_run_run_one_after_another_oldest_first(bench: Bench) -> None:
    bench.add(at=900)
    assert fill(bench, 0, 180) == [0, 60, 120, 180]
    scheduler = bench.scheduler()
    assert run_all(scheduler, 905) == [[0], [60], [120], [180]]
    assert backfilled(bench) == [(t, 1, "succeeded", "backfill") for t in (0, 60, 120, 180)]


def test_asked_for_again_nothing_runs_again(bench: Bench) -> None:
    bench.add(at=900)
    fill(bench, 0, 120)
    assert fill(bench, 60, 180) == [180]  # the others stand in line
    run_all(bench.scheduler(), 1000)
    assert fill(bench, 0, 240) == [240]
    found = backfill.missing(bench.database, "job", s(0), s(300))
    assert (found.total, found.without_run) == (6, [s(300)])


def test_what_was_dispatched_or_is_about_to_be_is_left_alone(bench: Bench) -> None:
    bench.add(overlap="allow")
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0).started
    scheduler.finish(run, 1, "failed")
    scheduler.turn(60)
    assert scheduler.turn(119.5).armed
    assert backfill.missing(bench.database, "job", s(0), s(180)).without_run == [s(180)]


@pytest.mark.parametrize("policy", [{"overlap": "skip"}, {"catchup_window": "none"}])
def test_what_was_skipped_or_missed_is_backfilled(bench: Bench, policy: dict[str, Any]) -> None:
    bench.add(**policy)
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0).started
    scheduler.turn(63)  # the second one is skipped, or missed
    scheduler.finish(run, 70)
    assert fill(bench, 0, 110, at=110) == [60]
    assert run_all(scheduler, 111) == [[60]]


def test_only_firings_within_bounds_are_backfilled(bench: Bench) -> None:
    bench.add(at=0, start=from_us(s(60)), end=from_us(s(240)), interval=60)
    assert fill(bench, -600, 600) == [60, 120, 180, 240]


def test_an_interval_has_no_firings_before_it_was_made(bench: Bench) -> None:
    bench.add(at=0, interval=60)
    assert fill(bench, -600, 130) == [60, 120]


def test_both_ends_are_included_and_may_be_between_firings(bench: Bench) -> None:
    bench.add(at=900)
    assert fill(bench, 1, 59) == []
    assert fill(bench, 59, 61) == [60]
    assert fill(bench, 120, 120) == [120]


def test_what_is_done_may_still_be_backfilled(bench: Bench) -> None:
    bench.add(max_runs=1)
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0).started
    scheduler.finish(run, 1)
    assert bench.next() is None
    assert fill(bench, 0, 120) == [60, 120]
    assert run_all(scheduler, 1000) == [[60], [120]]
    assert bench.ask("SELECT dispatched FROM schedules") == [1]


def test_a_one_shot_that_was_missed_is_backfilled(bench: Bench) -> None:
    bench.add(time=from_us(s(0)), catchup_window=5)
    scheduler = bench.scheduler()
    assert scheduler.turn(100).started == []
    assert fill(bench, -10, 10) == [0]
    assert run_all(scheduler, 1000) == [[0]]


# -- what is refused ------------------------------------------------------------------------------


def test_an_unknown_schedule_has_no_firings(bench: Bench) -> None:
    with pytest.raises(ScheduleNotFoundError):
        fill(bench, 0, 60)


def test_one_that_machines_share_is_refused(bench: Bench) -> None:
    bench.add()
    bench.database.execute("UPDATE schedules SET source = 'redis', shared = 1")
    with pytest.raises(InvalidScheduleError, match="comes from redis; run its firings there"):
        fill(bench, 0, 60)


def test_a_time_whose_history_is_gone_is_refused(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0).started
    scheduler.finish(run, 1)
    bench.forget(50)
    with pytest.raises(InvalidScheduleError, match="has been pruned, and nobody knows"):
        fill(bench, 0, 60)
    assert fill(bench, 1, 60) == [60]


def test_too_many_are_refused_at_once(bench: Bench) -> None:
    bench.add(interval=1, start=from_us(s(0)))
    limit = backfill.MOST_FIRINGS
    with pytest.raises(InvalidScheduleError, match=r"'job' has 100,001 firings from .* in parts"):
        fill(bench, 0, limit, at=limit)
    assert bench.ask("SELECT count(*) FROM runs") == [0]


# -- beside what is due ---------------------------------------------------------------------------


def test_what_is_due_and_not_yet_decided_runs_once(bench: Bench) -> None:
    bench.add(catchup_window="unlimited", coalesce="all")
    assert fill(bench, 0, 120, at=130) == [0, 60, 120]  # nobody has been running since noon
    scheduler = bench.scheduler()
    assert flat(run_all(scheduler, 130)) == [0, 60, 120]
    assert bench.ask(
        """SELECT DISTINCT status, reason FROM runs WHERE attempt = 1 AND manual_key = 0"""
    ) == [("skipped", "backfilled")]
    assert times(scheduler.turn(180)) == [180]


def test_what_is_held_goes_before_what_stands_in_line(bench: Bench) -> None:
    bench.add(at=900, overlap="buffer-one")
    fill(bench, 0, 60, at=955)
    scheduler = bench.scheduler()
    [first] = scheduler.turn(955).started
    assert scheduler.turn(960).started == []  # a firing of its own comes, and is held
    [second] = scheduler.finish(first, 961, ahead=8).started
    assert times(Turn(started=[first, second])) == [0, 960]
    [third] = scheduler.finish(second, 962, ahead=8).started
    assert times(Turn(started=[third])) == [60]


def test_a_firing_that_cancels_others_leaves_the_line_alone(bench: Bench) -> None:
    bench.add(at=900, overlap="cancel-other")
    fill(bench, 0, 120, at=955)
    scheduler = bench.scheduler()
    [first] = scheduler.turn(955).started
    turn = scheduler.turn(960)
    assert turn.cancels == [(first.run_id, "overlap")]
    scheduler.finish(first, 961, "cancelled")
    assert flat(run_all(scheduler, 962)) == [960, 60, 120]


def test_a_paused_schedule_is_backfilled(bench: Bench) -> None:
    bench.add(at=900, paused=True)
    assert fill(bench, 0, 60) == [0, 60]
    assert run_all(bench.scheduler(), 1000) == [[0], [60]]


def test_what_waits_in_a_paused_schedule_does_not_hold_up_its_backfill(bench: Bench) -> None:
    bench.add(overlap="buffer-one")
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0).started
    scheduler.turn(60)
    changes.pause(bench.database, ["job"], s(61))
    fill(bench, -120, -60, at=61)
    bench.database.execute("UPDATE schedules SET start_us = ?", (s(-600),))
    fill(bench, -120, -60, at=61)
    scheduler.finish(run, 62)
    assert run_all(scheduler, 63) == [[-120], [-60]]


def test_it_neither_expires_nor_counts(bench: Bench) -> None:
    bench.add(at=900, expires=5, max_runs=2)
    fill(bench, 0, 60)
    started = run_all(bench.scheduler(), 1000)
    assert started == [[0], [60]]
    assert bench.ask("SELECT dispatched FROM schedules") == [0]


def test_a_retry_comes_before_the_next(bench: Bench) -> None:
    bench.add(at=900, retries=1, retry_delay=30)
    fill(bench, 0, 60, at=905)
    scheduler = bench.scheduler()
    [first] = scheduler.turn(905).started
    assert scheduler.finish(first, 906, "failed", ahead=8).started == []
    [again] = scheduler.turn(936).started
    assert (again.attempt, again.trigger) == (2, "retry")
    [second] = scheduler.finish(again, 937, ahead=8).started
    assert times(Turn(started=[second])) == [60]


def test_the_task_id_is_the_firings_own(bench: Bench) -> None:
    bench.add(at=900)
    fill(bench, 0, 0)
    [run] = bench.scheduler().turn(905).started
    message = run.message()
    assert message.task_id == derive_task_id("job", s(0))
    assert message.labels["scheduled_for"] == "2027-01-15T12:00:00+00:00"


def test_several_schedules_are_backfilled_side_by_side(bench: Bench) -> None:
    for name in ("job", "other"):
        bench.add(name, at=900)
        backfill.backfill(bench.database, name, s(0), s(60), s(905))
    scheduler = bench.scheduler()
    turn = scheduler.turn(905)
    assert [run.schedule_id for run in turn.started] == ["job", "other"]
    assert scheduler.turn(906).started == []


def test_with_little_room_it_waits_its_turn(bench: Bench) -> None:
    for name in ("job", "other"):
        bench.add(name, at=900)
        backfill.backfill(bench.database, name, s(0), s(60), s(905))
    assert run_all(bench.scheduler(), 905, room=1) == [[0], [60]] * 2


# -- when something else happens ------------------------------------------------------------------


def test_two_schedulers_run_each_once_and_one_at_a_time(bench: Bench) -> None:
    bench.add(at=900)
    fill(bench, 0, 60, at=905)
    one, other = bench.scheduler(), bench.scheduler()
    [first] = one.turn(905).started
    assert other.turn(906).started == []
    one.finish(first, 907)
    [second] = other.turn(908).started
    assert one.turn(908).started == []
    assert times(Turn(started=[second])) == [60]


def test_what_was_claimed_goes_back_into_the_line(bench: Bench) -> None:
    bench.add(at=900)
    fill(bench, 0, 60, at=905)
    scheduler, other = bench.scheduler(), bench.scheduler()
    bench.database.execute(
        "UPDATE runs SET status = 'claimed', held = 0, owner = ? WHERE scheduled_us = ?",
        (scheduler.owner, s(0)),
    )
    scheduler.lock.release()
    bench.take_over([scheduler.entry], 906)
    assert run_all(other, 907) == [[0], [60]]


def test_when_its_scheduler_dies_the_line_goes_on_without_the_run_that_was_going(
    bench: Bench,
) -> None:
    bench.add(at=900)
    fill(bench, 0, 120, at=905)
    scheduler, other = bench.scheduler(), bench.scheduler()
    scheduler.turn(905)
    scheduler.lock.release()
    bench.take_over([scheduler.entry], 906)
    assert run_all(other, 907) == [[60], [120]]
    assert fill(bench, 0, 120) == []


def test_one_that_is_cancelled_makes_room_and_may_be_asked_for_again(bench: Bench) -> None:
    bench.add(at=900)
    fill(bench, 0, 60, at=905)
    [first, _] = bench.ask("SELECT run_id FROM runs ORDER BY scheduled_us")
    assert runs.cancel(bench.database, first, s(906)) == "cancelled"
    scheduler = bench.scheduler()
    assert run_all(scheduler, 907) == [[60]]
    assert fill(bench, 0, 60) == [0]
    assert run_all(scheduler, 910) == [[0]]


def test_a_removed_schedules_line_is_cancelled(bench: Bench) -> None:
    bench.add(at=900)
    fill(bench, 0, 60)
    changes.remove(bench.database, ["job"], s(1000))
    assert [row[2] for row in backfilled(bench)] == ["cancelled"] * 2
    assert bench.scheduler().turn(1001).started == []


def test_nobody_is_idle_while_there_is_a_line(bench: Bench) -> None:
    bench.add(at=900, paused=True)
    assert recovery.idle(bench.database)
    fill(bench, 0, 0)
    assert not recovery.idle(bench.database)
    run_all(bench.scheduler(), 1000)
    assert recovery.idle(bench.database)


def test_a_long_line_is_not_gone_through(bench: Bench) -> None:
    bench.add(at=50_000, interval=1, start=from_us(s(0)), overlap="allow")
    fill(bench, 0, 49_999, at=50_000)
    changes.pause(bench.database, ["job"], s(50_000))
    plan = bench.ask(
        """EXPLAIN QUERY PLAN SELECT run_id FROM runs WHERE held = 2 AND schedule_id = 'job'
           ORDER BY scheduled_us LIMIT 1"""
    )
    assert "runs_in_line" in str(plan)
    assert "TEMP B-TREE" not in str(plan)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    scheduler = bench.scheduler()
    scheduler.database.set_progress_handler(count, 1000)
    [first] = scheduler.turn(50_000).started
    [second] = scheduler.finish(first, 50_001, ahead=8).started
    assert times(Turn(started=[first, second])) == [0, 1]
    assert steps < 10  # thousand steps of SQLite's machine, of 50,000 rows

"""The guarded write: what was claimed starts only if its schedule still wants it to."""

from dataclasses import replace
from typing import Any

import pytest

from sqlsched.instants import from_us
from sqlsched.storage import changes, owners, recovery, runs
from sqlsched.storage.turn import Armed, Finished, Started

from .bench import Bench, Scheduler, s, times

# -- between the claim and the start --------------------------------------------------------------


def test_a_pause_takes_back_what_was_claimed_and_the_firing_is_accounted_for(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (armed,) = scheduler.turn(-0.5).armed
    changes.pause(bench.database, ["job"], s(-0.2))
    assert (bench.runs(), bench.next()) == ([], 0)
    turn = scheduler.turn(0, due=[armed.run_id])
    assert (turn.started, turn.lost) == ([], [armed.run_id])
    changes.resume_all(bench.database, ["job"], s(130))
    assert bench.unrun() == [(0, 120, 3, "skipped", "paused")]


def test_an_edit_takes_back_what_was_claimed_and_it_starts_as_edited(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (armed,) = scheduler.turn(-0.5).armed
    changes.edit(bench.database, "job", lambda schedule: replace(schedule, args=["new"]), s(-0.2))
    turn = scheduler.turn(0, due=[armed.run_id])
    assert turn.lost == [armed.run_id]
    assert [run.args for run in turn.started] == ['["new"]']
    assert bench.runs() == [(0, 1, "running")]


def test_a_removal_cancels_what_was_claimed_and_nothing_starts(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (armed,) = scheduler.turn(-0.5).armed
    changes.remove(bench.database, ["job"], s(0))
    turn = scheduler.turn(0, due=[armed.run_id])
    assert (turn.started, turn.lost) == ([], [armed.run_id])
    assert bench.unrun() == [(0, 0, 1, "cancelled", "removed")]


def test_claims_of_several_firings_go_back_into_the_schedule_at_the_earliest(
    bench: Bench,
) -> None:
    bench.add(catchup_window="unlimited", coalesce="all")
    scheduler = bench.scheduler()
    scheduler.turn(130, room=0)
    assert scheduler.turn(130, room=1).armed == []
    bench.database.execute("UPDATE runs SET status = 'claimed', started_us = NULL")
    assert bench.next() == 60
    changes.pause(bench.database, ["job"], s(131))
    assert bench.next() == 0


def test_what_another_claimed_is_not_started(bench: Bench) -> None:
    bench.add()
    mine, other = bench.scheduler(), bench.scheduler()
    due = [entry.run_id for entry in mine.turn(-0.5).armed]
    turn = other.turn(0, due=due)
    assert (turn.started, turn.lost) == ([], due)
    assert times(mine.turn(0, due=due)) == [0]


def test_what_expired_while_it_was_armed_is_missed(bench: Bench) -> None:
    bench.add(expires=1)
    scheduler = bench.scheduler()
    (armed,) = scheduler.turn(-0.5).armed
    turn = scheduler.turn(1, due=[armed.run_id])
    assert (turn.started, [x.reason for x in turn.unrun]) == ([], ["expired"])
    assert bench.runs() == [(0, 1, "missed")]


# -- overlap --------------------------------------------------------------------------------------


def overlapping(bench: Bench, policy: str, **fields: Any) -> tuple[Scheduler, Started]:
    """A scheduler whose first run of the schedule is going, and that run."""
    bench.add(overlap=policy, **fields)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    return scheduler, run


def test_skip_names_the_run_that_stood_in_the_way(bench: Bench) -> None:
    scheduler, run = overlapping(bench, "skip")
    assert scheduler.turn(60).unrun[0].reason == "overlap"
    assert bench.runs() == [(0, 1, "running"), (60, 1, "skipped")]
    assert bench.ask("SELECT because_of FROM runs WHERE status = 'skipped'") == [run.run_id]


def test_allow_runs_them_beside_each_other(bench: Bench) -> None:
    scheduler, _ = overlapping(bench, "allow")
    assert times(scheduler.turn(60)) == [60]


def test_buffer_one_holds_one_and_skips_the_rest(bench: Bench) -> None:
    scheduler, run = overlapping(bench, "buffer-one")
    for now in (60, 120):
        assert scheduler.turn(now).started == []
    assert [status for _, _, status in bench.runs()] == ["running", "waiting", "skipped"]
    assert times(scheduler.finish(run, 130, ahead=8)) == [60]


def test_buffer_all_runs_what_it_held_one_by_one_in_order(bench: Bench) -> None:
    scheduler, run = overlapping(bench, "buffer-all", max_runs=4)
    for now in (60, 120, 180):
        assert scheduler.turn(now).started == []
    for number in (1, 2, 3):
        turn = scheduler.finish(run, 181 + number, ahead=8)
        assert times(turn) == [60 * number]
        (run,) = turn.started
    assert scheduler.finish(run, 190, ahead=8).started == []


def test_what_is_held_stays_held_while_its_schedule_is_paused(bench: Bench) -> None:
    scheduler, run = overlapping(bench, "buffer-all")
    scheduler.turn(60)
    changes.pause(bench.database, ["job"], s(61))
    turn = scheduler.finish(run, 62, ahead=8)
    assert (turn.started, turn.next_us) == ([], None)
    changes.resume_all(bench.database, ["job"], s(70))
    assert times(scheduler.turn(70)) == [60]


def test_cancel_other_stops_what_runs_and_starts_when_it_has_ended(bench: Bench) -> None:
    scheduler, run = overlapping(bench, "cancel-other")
    turn = scheduler.turn(60)
    assert (turn.started, turn.cancels) == ([], [(run.run_id, "overlap")])
    assert times(scheduler.finish(run, 61, "cancelled", ahead=8)) == [60]
    assert scheduler.turn(62).cancels == []


def test_cancel_other_replaces_what_was_held_before(bench: Bench) -> None:
    scheduler, run = overlapping(bench, "cancel-other")
    scheduler.turn(60)
    scheduler.turn(120)
    assert [status for _, _, status in bench.runs()] == ["running", "cancelled", "waiting"]
    assert times(scheduler.finish(run, 121, "cancelled", ahead=8)) == [120]


def test_cancel_other_of_a_waiting_retry_starts_without_waiting_for_anything(
    bench: Bench,
) -> None:
    scheduler, run = overlapping(bench, "cancel-other", retries=1, retry_delay=600)
    scheduler.finish(run, 1, "failed")
    turn = scheduler.turn(60)
    assert bench.runs()[:2] == [(0, 1, "failed"), (0, 2, "cancelled")]
    assert turn.next_us == s(60)
    assert times(scheduler.turn(60)) == [60]


def test_a_retry_to_come_counts_as_going(bench: Bench) -> None:
    scheduler, run = overlapping(bench, "skip", retries=1, retry_delay=90)
    scheduler.finish(run, 1, "failed")
    assert scheduler.turn(60).unrun[0].reason == "overlap"


def test_missed_firings_that_all_run_do_so_one_after_another(bench: Bench) -> None:
    bench.add(catchup_window="unlimited", coalesce="all", overlap="skip", end=from_us(s(180)))
    scheduler = bench.scheduler()
    turn = scheduler.turn(200)
    for nominal in (0, 60, 120, 180):
        assert times(turn) == [nominal]
        turn = scheduler.finish(turn.started[0], 200, ahead=8)
    assert turn.started == []
    assert {status for _, _, status in bench.runs()} == {"succeeded"}


def test_a_queue_refuses_an_overlap_policy_and_takes_every_run_without_one(bench: Bench) -> None:
    bench.add("plain")
    bench.add("picky", overlap="skip")
    scheduler = bench.scheduler()
    turn = scheduler.turn(0, reports_completion=False)
    assert [run.schedule_id for run in turn.started] == ["plain"]
    assert bench.runs("plain") == [(0, 1, "sending")]
    assert [(x.schedule_id, x.reason) for x in turn.unrun] == [("picky", "overlap-unsupported")]


# -- max_runs -------------------------------------------------------------------------------------


def test_max_runs_counts_what_was_dispatched_and_no_skip_trigger_or_retry(bench: Bench) -> None:
    bench.add(max_runs=2, retries=1, retry_delay=1)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    assert scheduler.turn(60).unrun[0].reason == "overlap"
    scheduler.finish(run, 61, "failed")
    (retry,) = scheduler.turn(70).started
    scheduler.finish(retry, 71)
    assert times(scheduler.turn(120)) == [120]
    assert (bench.next(), bench.ask("SELECT dispatched FROM schedules")) == (None, [2])
    assert scheduler.turn(180).started == []


def test_max_runs_is_exact_when_more_was_claimed_ahead_by_several(bench: Bench) -> None:
    bench.add(interval=1, start=from_us(s(0)), max_runs=3, overlap="allow")
    first, second = bench.scheduler(), bench.scheduler()
    armed: dict[int, list[int]] = {first.owner: [], second.owner: []}
    started: list[float] = []
    for tick in range(12):
        now = tick / 2 - 1
        for scheduler in (first, second):
            turn = scheduler.turn(now, since=-9, due=armed[scheduler.owner] if now >= 2 else [])
            armed[scheduler.owner] += [entry.run_id for entry in turn.armed]
            started += times(turn)
    assert len(started) == 3
    assert [status for _, _, status in bench.runs()] == ["running"] * 3
    assert bench.next() is None


def test_the_last_run_of_max_runs_takes_back_the_claims_beyond_it(bench: Bench) -> None:
    bench.add(max_runs=1, catchup_window="unlimited", coalesce="all", overlap="allow")
    scheduler = bench.scheduler()
    scheduler.turn(-0.5)
    bench.database.execute("UPDATE schedules SET wake_us = next_us WHERE next_us IS NOT NULL")
    (beyond,) = scheduler.turn(59.5).armed
    claimed = bench.ask("SELECT run_id FROM runs ORDER BY run_id")
    turn = scheduler.turn(60, due=claimed)
    assert times(turn) == [0]
    assert turn.revoked == [beyond.run_id]
    assert (turn.unrun, turn.armed) == ([], [])
    assert bench.runs() == [(0, 1, "running")]


@pytest.mark.parametrize("leave", [False, True])
def test_a_firing_that_another_did_not_start_before_the_last_run_is_on_record_as_skipped(
    bench: Bench, leave: bool
) -> None:
    bench.add(interval=1, start=from_us(s(0)), max_runs=1)
    late, other = bench.scheduler(), bench.scheduler()
    assert len(late.turn(-0.5).armed) == 1
    armed = [run.run_id for run in other.turn(0.5).armed]
    assert len(late.turn(1.5).armed) == 1
    if leave:
        owners.unregister(late.database, late.owner, s(1.6))
    turn = other.turn(1.7, due=armed, ahead=-1)
    assert times(turn) == [1]
    assert bench.runs() == [(0, 1, "skipped"), (1, 1, "running")]
    assert [(unrun.reason, unrun.first_us) for unrun in turn.unrun] == [("bounds", s(0))]


def test_a_firing_between_the_runs_of_max_runs_is_on_record_in_whatever_order_they_start(
    bench: Bench,
) -> None:
    bench.add(interval=1, start=from_us(s(0)), max_runs=2, overlap="allow")
    schedulers = [bench.scheduler() for _ in range(3)]
    armed = [
        [run.run_id for run in scheduler.turn(number - 0.5).armed]
        for number, scheduler in enumerate(schedulers)
    ]
    assert times(schedulers[2].turn(2, due=armed[2], ahead=-1)) == [2]
    assert times(schedulers[0].turn(2.1, due=armed[0], ahead=-1)) == [0]
    assert bench.runs() == [(0, 1, "running"), (1, 1, "skipped"), (2, 1, "running")]


def test_max_runs_is_exact_when_all_of_them_start_in_one_turn(bench: Bench) -> None:
    bench.add(interval=1, start=from_us(s(0)), max_runs=3, overlap="allow", end=from_us(s(9)))
    scheduler = bench.scheduler()
    armed = [entry.run_id for now in range(-1, 4) for entry in _ahead(scheduler, now)]
    assert len(armed) == 5
    turn = scheduler.turn(4, due=armed, ahead=-1)
    assert times(turn) == [0, 1, 2]
    assert turn.revoked == armed[3:]
    assert bench.runs() == [(0, 1, "running"), (1, 1, "running"), (2, 1, "running")]


def _ahead(scheduler: Scheduler, now: float) -> list[Armed]:
    """Claimed a second ahead, and not started for want of room."""
    return scheduler.turn(now, room=0, since=-9).armed


def test_no_more_missed_firings_are_claimed_than_max_runs_leaves(bench: Bench) -> None:
    bench.add(max_runs=2, catchup_window="unlimited", coalesce="all")
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(600).started
    assert bench.runs() == [(0, 1, "running"), (60, 1, "waiting")]
    assert times(scheduler.finish(run, 601, ahead=-1)) == []
    assert times(scheduler.turn(601, room=8)) == [60]
    assert bench.next() is None


@pytest.mark.parametrize("max_runs", [1, 4])
def test_a_schedule_that_has_had_its_runs_leaves_nothing_to_do(bench: Bench, max_runs: int) -> None:
    bench.add(max_runs=max_runs)
    scheduler = bench.scheduler()
    for number in range(max_runs):
        (run,) = scheduler.turn(60 * number).started
        assert not recovery.idle(bench.database)
        scheduler.finish(run, 60 * number + 1)
    assert recovery.idle(bench.database)


def test_what_finds_no_room_is_refused_at_its_time_or_waits_for_room(bench: Bench) -> None:
    bench.add("going")
    bench.add("free", interval=60, start=from_us(s(60)))
    bench.add("expiring", interval=60, start=from_us(s(60)), expires=1)
    scheduler = bench.scheduler()
    (going,) = scheduler.turn(0).started
    due = [run.run_id for run in scheduler.turn(59.5).armed]
    assert len(due) == 3
    turn = scheduler.turn(60, room=0, due=due)
    assert bench.runs("going") == [(0, 1, "running"), (60, 1, "skipped")]
    assert len(turn.roomless) == 2
    late = scheduler.turn(
        61, room=2, due=turn.roomless, finished=[Finished(going.run_id, "succeeded", s(61))]
    )
    assert [run.schedule_id for run in late.started] == ["free"]
    assert bench.runs("expiring") == [(60, 1, "missed")]


def test_a_process_that_is_alone_claims_what_is_due_beyond_its_room(bench: Bench) -> None:
    for number in range(5):
        bench.add(f"job{number}")
    turn = bench.scheduler().turn(0, room=2, ahead=2, alone=True)
    assert (len(turn.started), len(turn.roomless)) == (2, 2)
    assert turn.next_us == s(0)


@pytest.mark.parametrize("limit", [{}, {"max_runs": 4}])
def test_a_run_that_another_overtakes_before_it_has_started_does_not_start(
    bench: Bench, limit: dict[str, Any]
) -> None:
    bench.add(overlap="cancel-other", **limit)
    scheduler = bench.scheduler()
    [first] = scheduler.turn(0).started
    assert scheduler.turn(60).cancels == [(first.run_id, "overlap")]
    turn = scheduler.finish(first, 120, "cancelled", ahead=8)  # which is when a third comes
    assert turn.started == []
    assert times(scheduler.turn(120)) == [120]
    assert bench.runs() == [(0, 1, "cancelled"), (60, 1, "cancelled"), (120, 1, "running")]
    assert bench.ask("SELECT dispatched FROM schedules") == [2 if limit else 0]


def test_a_retry_that_a_firing_before_it_in_the_same_turn_cancels_does_not_start(
    bench: Bench,
) -> None:
    bench.add(overlap="cancel-other", retries=3, retry_delay=70)
    scheduler = bench.scheduler()
    [first] = scheduler.turn(0).started
    scheduler.finish(first, 1, "failed")  # to be tried again at 71
    assert scheduler.turn(75).started == []
    assert times(scheduler.turn(76)) == [60]
    assert bench.runs() == [(0, 1, "failed"), (0, 2, "cancelled"), (60, 1, "running")]


def test_a_run_of_a_schedule_that_is_gone_is_in_the_way_of_no_other_of_its_id(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.turn(0)
    changes.remove(bench.database, ["job"], s(10))
    bench.add(at=20, time=from_us(s(30)), overlap="skip")
    assert times(scheduler.turn(30)) == [30]


def test_who_has_no_room_does_not_look_for_what_others_do_not_start(bench: Bench) -> None:
    bench.add()
    busy, slow = bench.scheduler(), bench.scheduler()
    slow.turn(-0.5)
    assert busy.turn(5, room=0, ahead=8).next_us == s(60)
    assert times(busy.turn(6, room=1)) == [0]


def test_a_manual_run_gets_in_line_with_firings_that_nobody_has_room_for(bench: Bench) -> None:
    bench.add()
    runs.trigger(bench.database, "job", s(-50))
    alone, beside = bench.scheduler(), bench.scheduler()
    assert beside.turn(-49.5, room=0).armed == []
    assert beside.turn(-48, room=0).roomless
    beside.stop(-47)
    assert alone.turn(-46, room=0, alone=True).roomless

"""Adding, editing, removing, pausing and resuming: what holds afterwards, and what is on record."""

from dataclasses import replace
from typing import Any

import pytest

from sqlsched.exceptions import (
    DuplicateScheduleError,
    InvalidScheduleError,
    ScheduleNotFoundError,
)
from sqlsched.instants import from_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import additions, changes, owners, schedules

from .bench import Bench, s, times


def task(schedule_id: str = "job", **fields: Any) -> ScheduledTask:
    return ScheduledTask(task_name="m:f", schedule_id=schedule_id, **fields)


def edit(bench: Bench, at: float, **fields: Any) -> changes.Added:
    return changes.edit(bench.database, "job", lambda there: replace(there, **fields), s(at))


def give_back(bench: Bench, leave: str, at: float = -0.5) -> None:
    """A scheduler claims what is due within a second, and ends before it starts that."""
    scheduler = bench.scheduler()
    assert len(scheduler.turn(at).armed) == 1
    if leave == "in order":
        owners.unregister(scheduler.database, scheduler.owner, s(at + 0.1))
    else:
        scheduler.die()
        bench.take_over([scheduler.entry], at + 0.1)


# -- add ------------------------------------------------------------------------------------------


def test_an_interval_counts_from_when_it_was_added(bench: Bench) -> None:
    added = additions.add(bench.database, task(interval=90), s(10))
    assert added == changes.Added(s(100), changed=True)


def test_a_start_is_the_first_firing_itself(bench: Bench) -> None:
    added = additions.add(bench.database, task(interval=90, start=from_us(s(30))), s(10))
    assert added.next_us == s(30)


def test_what_comes_back_is_what_was_stored(bench: Bench) -> None:
    made = ScheduledTask(
        task_name="shop.jobs:send",
        schedule_id="all-fields",
        args=[1, {"a": None}],
        kwargs={"ü": "\u2028"},
        labels={"queue": "low"},
        task_id="mine",
        cron="*/5 * * * *",
        cron_offset="Europe/Berlin",
        start=from_us(s(-100)),
        end=from_us(s(10**7)),
        max_runs=3,
        jitter=2,
        catchup_window="unlimited",
        coalesce="all",
        overlap="buffer-one",
        timeout=4,
        retries=5,
        retry_delay=6,
        expires=7,
        paused=True,
        note="a note",
    )
    additions.add(bench.database, made, s(0))
    assert schedules.get(bench.database, "all-fields").schedule == made


def test_adding_the_same_again_changes_nothing_and_keeps_the_next_time(bench: Bench) -> None:
    additions.add(bench.database, task(interval=90), s(0))
    again = additions.add(bench.database, task(interval=90), s(50))
    assert again == changes.Added(s(90), changed=False)


def test_other_content_under_the_same_id_is_refused_unless_it_replaces(bench: Bench) -> None:
    additions.add(bench.database, task(interval=90), s(0))
    with pytest.raises(DuplicateScheduleError, match="'job'"):
        additions.add(bench.database, task(interval=90, args=[1]), s(50))
    replaced = additions.add(bench.database, task(interval=90, args=[1]), s(50), replace_other=True)
    assert replaced == changes.Added(s(90), changed=True)


def test_a_one_shot_added_late_is_due_at_once(bench: Bench) -> None:
    bench.add(time=from_us(s(-500)), at=0)
    assert times(bench.scheduler().turn(1)) == [-500]


def test_a_done_one_shot_added_again_stays_done(bench: Bench) -> None:
    bench.add(time=from_us(s(0)))
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    assert additions.add(bench.database, task(time=from_us(s(0))), s(2)).changed is False


def test_a_schedule_that_can_never_fire_is_refused_and_not_stored(bench: Bench) -> None:
    with pytest.raises(InvalidScheduleError, match="end 2027-01-15T12:00:00"):
        additions.add(bench.database, task(interval=60, end=from_us(s(0))), s(0))
    assert bench.ask("SELECT count(*) FROM schedules") == [0]


def test_a_schedule_added_paused_does_not_fire(bench: Bench) -> None:
    bench.add(paused=True)
    assert bench.scheduler().turn(60).started == []


# -- edit -----------------------------------------------------------------------------------------


def test_an_edit_of_anything_but_the_trigger_keeps_the_grid(bench: Bench) -> None:
    additions.add(bench.database, task(interval=90), s(0))
    assert edit(bench, 50, args=[1]).next_us == s(90)
    assert edit(bench, 100, end=from_us(s(10**6))).next_us == s(180)


def test_an_edit_of_the_trigger_starts_a_new_grid_now(bench: Bench) -> None:
    additions.add(bench.database, task(interval=90), s(0))
    assert edit(bench, 50, interval=60).next_us == s(110)
    assert edit(bench, 60, interval=None, cron="* * * * *").next_us == s(120)
    assert edit(bench, 70, interval=60, cron=None).next_us == s(130)


def test_an_edit_counts_from_now_and_what_was_overdue_is_on_record_as_missed(
    bench: Bench,
) -> None:
    bench.add()
    assert edit(bench, 130, note="x").next_us == s(180)
    assert bench.unrun() == [(0, 120, 3, "missed", "edited")]


def test_an_edit_that_had_to_wait_does_not_go_back_to_what_was_started_meanwhile(
    bench: Bench,
) -> None:
    bench.add(overlap="allow")
    scheduler = bench.scheduler()
    scheduler.turn(60)
    assert edit(bench, 59.9, note="x").next_us == s(120)
    scheduler.turn(130)
    assert bench.unrun() == [(0, 0, 1, "missed", "outside-catchup-window")]


def test_an_overdue_one_shot_survives_an_edit_and_its_old_time_a_change_of_it(
    bench: Bench,
) -> None:
    bench.add(time=from_us(s(0)))
    assert edit(bench, 50, args=[1]).next_us == s(0)
    assert bench.unrun() == []
    assert edit(bench, 60, time=from_us(s(300))).next_us == s(300)
    assert bench.unrun() == [(0, 0, 1, "missed", "edited")]


def test_a_one_shot_that_has_run_stays_done_unless_an_edit_gives_it_another_time(
    bench: Bench,
) -> None:
    bench.add(time=from_us(s(0)))
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    assert edit(bench, 50, note="x").next_us is None
    assert edit(bench, 60, time=from_us(s(300))).next_us == s(300)
    assert times(scheduler.turn(300)) == [300]


def test_an_edit_that_leaves_no_firing_is_refused_and_changes_nothing(bench: Bench) -> None:
    bench.add()
    with pytest.raises(InvalidScheduleError, match=r"end .* leaves no firing"):
        edit(bench, 130, end=from_us(s(100)))
    assert (bench.next(), bench.unrun()) == (0, [])
    assert schedules.get(bench.database, "job").schedule.end is None


def test_max_runs_given_later_counts_what_has_run(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(2):
        scheduler.finish(scheduler.turn(60 * minute).started[0], 60 * minute + 1)
    with pytest.raises(InvalidScheduleError, match="max_runs 2"):
        edit(bench, 70, max_runs=2)
    edit(bench, 70, max_runs=3)
    assert times(scheduler.turn(120)) == [120]
    assert bench.next() is None


def test_max_runs_given_later_counts_nothing_of_a_schedule_that_had_the_id_before(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    changes.remove(bench.database, ["job"], s(2))
    bench.add(at=3)
    edit(bench, 4, max_runs=1)
    assert times(scheduler.turn(60)) == [60]


def test_a_schedule_that_is_over_goes_on_when_it_is_given_more_runs(bench: Bench) -> None:
    bench.add(max_runs=1)
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    assert edit(bench, 70, max_runs=2).next_us == s(120)
    assert times(scheduler.turn(120)) == [120]


def test_an_edit_of_a_paused_schedule_leaves_it_paused_and_paused_time_is_not_missed(
    bench: Bench,
) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(50))
    edit(bench, 130, note="x")
    assert bench.unrun() == [
        (0, 0, 1, "missed", "outside-catchup-window"),
        (60, 120, 2, "skipped", "paused"),
    ]
    assert bench.scheduler().turn(180).started == []
    changes.resume_all(bench.database, ["job"], s(190))
    assert bench.unrun()[2:] == [(180, 180, 1, "skipped", "paused")]


def test_editing_what_is_not_there_says_so(bench: Bench) -> None:
    with pytest.raises(ScheduleNotFoundError, match="'job'"):
        edit(bench, 0, note="x")


@pytest.mark.parametrize("leave", ["in order", "by a crash"])
def test_a_firing_that_was_given_back_before_its_time_goes_by_the_edit_too(
    bench: Bench, leave: str
) -> None:
    bench.add()
    give_back(bench, leave)
    edit(bench, -0.2, start=from_us(s(30)))
    scheduler = bench.scheduler()
    assert scheduler.turn(0).started == []
    (run,) = scheduler.turn(30).started
    scheduler.finish(run, 31)
    give_back(bench, leave, at=89.5)
    changes.pause(bench.database, ["job"], s(89.7))
    changes.resume_all(bench.database, ["job"], s(100))
    assert bench.scheduler().turn(100).started == []
    assert bench.unrun() == [(90, 90, 1, "skipped", "paused")]
    give_back(bench, leave, at=149.5)
    changes.remove(bench.database, ["job"], s(149.7))
    bench.add(start=from_us(s(30)), interval=60, at=149.8)
    assert times(bench.scheduler().turn(150)) == [150]


# -- remove ---------------------------------------------------------------------------------------


def test_removing_accounts_for_what_was_overdue_and_keeps_history(bench: Bench) -> None:
    bench.add()
    bench.scheduler().turn(0)
    changes.remove(bench.database, ["job"], s(130))
    assert bench.unrun() == [(60, 120, 2, "cancelled", "removed")]
    assert bench.runs() == [(0, 1, "running")]
    assert bench.ask("SELECT count(*) FROM schedules") == [0]


def test_removing_cancels_what_was_held(bench: Bench) -> None:
    bench.add(overlap="buffer-all")
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.turn(60)
    changes.remove(bench.database, ["job"], s(61))
    assert bench.runs() == [(0, 1, "running"), (60, 1, "cancelled")]
    assert scheduler.finish(run, 62, ahead=8).started == []


def test_removing_several_is_all_or_nothing(bench: Bench) -> None:
    bench.add("a")
    with pytest.raises(ScheduleNotFoundError, match="'b'"):
        changes.remove(bench.database, ["a", "b"], s(0))
    assert bench.ask("SELECT schedule_id FROM schedules") == ["a"]


def test_removing_what_is_paused_tells_the_pause_from_the_rest(bench: Bench) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(50))
    changes.remove(bench.database, ["job"], s(130))
    assert [record[3:] for record in bench.unrun()] == [
        ("missed", "outside-catchup-window"),
        ("skipped", "paused"),
    ]


# -- pause and resume -----------------------------------------------------------------------------


def test_while_paused_nothing_fires_and_resuming_goes_on_from_now(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    changes.pause(bench.database, ["job"], s(-10))
    turn = scheduler.turn(60)
    assert (turn.started, turn.next_us) == ([], None)
    changes.resume_all(bench.database, ["job"], s(150))
    assert times(scheduler.turn(150)) == []
    assert times(scheduler.turn(180)) == [180]
    assert bench.unrun() == [(0, 120, 3, "skipped", "paused")]


def test_pausing_twice_keeps_the_first_moment_and_resuming_twice_records_once(
    bench: Bench,
) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(-10))
    changes.pause(bench.database, ["job"], s(90))
    changes.resume_all(bench.database, ["job"], s(150))
    changes.resume_all(bench.database, ["job"], s(250))
    assert bench.unrun() == [(0, 120, 3, "skipped", "paused")]


def test_a_one_shot_whose_time_passed_while_paused_runs_at_resume(bench: Bench) -> None:
    bench.add(time=from_us(s(0)))
    changes.pause(bench.database, ["job"], s(-10))
    changes.resume_all(bench.database, ["job"], s(10**6))
    assert times(bench.scheduler().turn(10**6)) == [0]


def test_a_pause_leaves_a_running_run_alone(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    changes.pause(bench.database, ["job"], s(1))
    assert scheduler.finish(run, 2).lost == []
    assert bench.runs() == [(0, 1, "succeeded")]


# -- the record -----------------------------------------------------------------------------------


def test_a_record_takes_no_identity_so_that_its_firings_can_still_run(bench: Bench) -> None:
    bench.add()
    edit(bench, 130, note="x")
    bench.database.execute("UPDATE schedules SET next_us = ?1, wake_us = ?1", (s(120),))
    assert times(bench.scheduler().turn(130)) == [120]


def test_firings_that_are_on_record_are_not_recorded_again(bench: Bench) -> None:
    bench.add()
    edit(bench, 70, note="x")
    bench.database.execute("UPDATE schedules SET next_us = ?1, wake_us = ?1", (s(0),))
    edit(bench, 200, note="y")
    assert bench.unrun() == [(0, 60, 2, "missed", "edited"), (120, 180, 2, "missed", "edited")]


def test_firings_that_a_pause_gives_back_are_not_recorded_with_those_that_were_before(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler(-1)
    [run] = scheduler.turn(0, reports_completion=False).started
    scheduler.turn(1, refused=[(run.run_id, s(2000))], reports_completion=False)
    scheduler.turn(605, since=600, room=0, reports_completion=False)
    scheduler.turn(605.5, since=600, reports_completion=False)
    window = ("missed", "outside-catchup-window")
    assert bench.unrun() == [(60, 540, 9, *window)]
    changes.pause(bench.database, ["job"], s(606))
    changes.resume_all(bench.database, ["job"], s(607))
    assert bench.unrun() == [(0, 0, 1, *window), (60, 540, 9, *window)]
    assert bench.runs() == [(600, 1, "sending")]

"""Schedules of other sources in the ledger: copies, and what was claimed elsewhere."""

from dataclasses import replace
from typing import Any

import pytest

from sqlsched.exceptions import DuplicateScheduleError, InvalidScheduleError
from sqlsched.instants import MINUTE_US, SECOND_US, from_us
from sqlsched.planner import Claim, Firing, Stretch
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import additions, changes, mirror, pruning, recovery, runs, schedules
from sqlsched.storage.schedules import Selection, StoredSchedule
from tests.storage.bench import Bench, s, times

NOW = 1_772_452_830 * SECOND_US  # 2026-03-02T12:00:30Z
MINUTE = NOW - 30 * SECOND_US


def task(schedule_id: str, **fields: Any) -> ScheduledTask:
    given: dict[str, Any] = {"cron": "* * * * *"} | fields
    return ScheduledTask(task_name="m:f", schedule_id=schedule_id, **given)


def there(bench: Bench) -> dict[str, StoredSchedule]:
    found = schedules.stored(bench.database, Selection(include_done=True))
    return {row.schedule.schedule_id: row for row in found}


def rows(bench: Bench) -> list[tuple[str, str, str | None]]:
    found = list(runs.history(bench.database))[::-1]
    return [(row.schedule_id, row.status, row.reason) for row in found]


def test_what_is_listed_is_added_with_the_firing_of_this_minute(bench: Bench) -> None:
    synced = mirror.sync(bench.database, "s", [task("a"), task("b", cron="0 * * * *")], NOW)
    assert synced.added == ["a", "b"]
    assert {name: row.next_us for name, row in there(bench).items()} == {"a": MINUTE, "b": MINUTE}
    assert {row.source for row in there(bench).values()} == {"s"}


def test_the_same_list_again_writes_nothing(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a")], NOW)
    before = bench.database.total_changes
    assert mirror.sync(bench.database, "s", [task("a")], NOW + MINUTE_US) == mirror.Synced()
    assert bench.database.total_changes == before


def test_what_is_listed_no_more_goes_and_is_accounted_for(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a"), task("b")], NOW)
    assert mirror.sync(bench.database, "s", [task("b")], NOW).removed == ["a"]
    assert set(there(bench)) == {"b"}
    assert rows(bench) == [("a", "cancelled", "removed")]


def test_another_source_is_left_alone(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a")], NOW)
    mirror.sync(bench.database, "t", [task("b")], NOW)
    mirror.sync(bench.database, "t", [], NOW)
    assert set(there(bench)) == {"a"}


def test_a_schedule_made_here_keeps_its_id(bench: Bench) -> None:
    additions.add(bench.database, task("a", interval=60, cron=None), NOW)
    assert mirror.sync(bench.database, "s", [task("a")], NOW).refused == ["a"]
    assert there(bench)["a"].source == ""


def test_a_schedule_may_move_to_another_source(bench: Bench) -> None:
    mirror.sync(bench.database, "old", [task("a")], NOW)
    assert mirror.sync(bench.database, "new", [task("a")], NOW).added == ["a"]
    assert there(bench)["a"].source == "new"


def test_a_policy_may_change_without_moving_the_next_firing(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a", cron="0 0 * * *")], NOW)
    next_us = there(bench)["a"].next_us
    changed = task("a", cron="0 0 * * *", retries=2)
    assert mirror.sync(bench.database, "s", [changed], NOW + 90 * SECOND_US).changed == ["a"]
    assert (there(bench)["a"].next_us, there(bench)["a"].schedule.retries) == (next_us, 2)


def test_a_changed_trigger_is_computed_anew(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a", cron="0 0 * * *")], NOW)
    mirror.sync(bench.database, "s", [task("a")], NOW)
    assert there(bench)["a"].next_us == MINUTE


def test_an_interval_counts_from_the_epoch(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a", cron=None, interval=3600)], NOW)
    assert there(bench)["a"].next_us == MINUTE + 3600 * SECOND_US


def test_a_one_shot_that_has_run_is_done_when_it_is_listed_again(bench: Bench) -> None:
    once = task("a", cron=None, time=from_us(MINUTE))
    mirror.sync(bench.database, "s", [once], NOW)
    assert there(bench)["a"].next_us == MINUTE
    bench.database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, finished_us)
           VALUES ('a', 'm:f', ?1, 1, 'schedule', 'succeeded', ?1, ?1)""",
        (MINUTE,),
    )
    mirror.sync(bench.database, "s", [], NOW)
    mirror.sync(bench.database, "s", [once], NOW)
    assert there(bench)["a"].next_us is None


def test_a_schedule_declared_paused_is_paused_until_it_says_otherwise(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a", paused=True)], NOW)
    assert there(bench)["a"].paused_us == NOW
    later = NOW + 90 * SECOND_US
    mirror.sync(bench.database, "s", [task("a")], later)
    assert there(bench)["a"].paused_us is None
    assert (there(bench)["a"].next_us or 0) > later
    mirror.sync(bench.database, "s", [task("a", paused=True)], later)
    assert there(bench)["a"].paused_us == later


def test_a_pause_by_hand_outlasts_what_is_listed(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a")], NOW)
    changes.pause(bench.database, ["a"], NOW)
    mirror.sync(bench.database, "s", [task("a", retries=1)], NOW)
    assert there(bench)["a"].paused_us == NOW


def test_a_copy_can_neither_be_edited_nor_added_over(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a")], NOW)
    with pytest.raises(InvalidScheduleError, match="comes from s; change it there"):
        changes.edit(bench.database, "a", lambda found: replace(found, note="x"), NOW)
    for replace_other in (False, True):
        with pytest.raises(DuplicateScheduleError, match="comes from s already"):
            additions.add(bench.database, task("a"), NOW, replace_other=replace_other)


def test_a_done_copy_is_not_pruned_since_it_would_be_new_again(bench: Bench) -> None:
    mirror.sync(bench.database, "s", [task("a", cron=None, time=from_us(MINUTE))], NOW)
    bench.database.execute("UPDATE schedules SET next_us = NULL, wake_us = NULL")
    bench.database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status, due_us,
           finished_us) VALUES ('a', 'm:f', ?1, 1, 'schedule', 'succeeded', ?1, ?1)""",
        (MINUTE,),
    )
    pruning.prune(bench.database, pruning.Cut(later := NOW + 100 * MINUTE_US, later), 0)
    assert rows(bench) == []
    assert set(there(bench)) == {"a"}


def claim(schedule: ScheduledTask, *due_us: int, **fields: Any) -> Claim:
    firings = [Firing(us, us) for us in due_us]
    return Claim(schedule=schedule, anchor_us=0, firings=firings, **fields)


def test_what_was_claimed_waits_for_its_time(bench: Bench) -> None:
    mirror.adopt(bench.database, "redis", [claim(task("a"), NOW, next_us=NOW + MINUTE_US)], NOW)
    assert rows(bench) == [("a", "waiting", None)]
    assert there(bench)["a"].wake_us is None
    assert there(bench)["a"].next_us == NOW + MINUTE_US
    assert not recovery.idle(bench.database, ["", "redis"])


def test_what_never_runs_is_recorded_with_the_claim(bench: Bench) -> None:
    missed = Stretch(MINUTE - MINUTE_US, MINUTE, 2, "missed", "outside-catchup-window")
    mirror.adopt(bench.database, "redis", [claim(task("a"), stretches=[missed])], NOW)
    assert rows(bench) == [("a", "missed", "outside-catchup-window")]


def test_what_the_merge_function_left_out_is_skipped(bench: Bench) -> None:
    mirror.adopt(bench.database, "redis", [claim(task("a"), NOW)], NOW, merged_out={"a"})
    assert rows(bench) == [("a", "skipped", "merged")]


def test_a_firing_that_ended_here_does_not_run_again(bench: Bench) -> None:
    for _ in range(2):
        mirror.adopt(bench.database, "redis", [claim(task("a"), NOW)], NOW)
        assert len(rows(bench)) == 1
        bench.database.execute("UPDATE runs SET status = 'succeeded', finished_us = 1")
    assert mirror.live(bench.database, {("a", NOW)}) == set()


def test_a_firing_that_another_machine_took_may_come_back(bench: Bench) -> None:
    mirror.adopt(bench.database, "redis", [claim(task("a"), NOW)], NOW)
    bench.database.execute(
        "UPDATE runs SET status = 'cancelled', reason = 'taken-over', finished_us = 1"
    )
    mirror.adopt(bench.database, "redis", [claim(task("a"), NOW)], NOW)
    assert rows(bench) == [("a", "waiting", None)]


def test_a_firing_lives_until_its_last_retry_has_ended(bench: Bench) -> None:
    mirror.adopt(bench.database, "redis", [claim(task("a"), NOW), claim(task("b"), NOW)], NOW)
    assert mirror.live(bench.database, {("a", NOW), ("b", NOW), ("c", NOW)}) == {
        ("a", NOW),
        ("b", NOW),
    }
    bench.database.execute("UPDATE runs SET status = 'failed', finished_us = 1")
    bench.database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status, due_us)
           VALUES ('a', 'm:f', ?, 2, 'retry', 'waiting', 0)""",
        (NOW,),
    )
    assert mirror.live(bench.database, {("a", NOW), ("b", NOW)}) == {("a", NOW)}


def test_what_another_machine_left_behind_is_abandoned_here(bench: Bench) -> None:
    mirror.record_abandoned(bench.database, "redis", [(task("a"), NOW)], NOW)
    assert rows(bench) == [("a", "abandoned", "owner-died")]


def test_a_ledger_is_known_by_one_name(bench: Bench) -> None:
    assert mirror.ledger_id(bench.database) == mirror.ledger_id(bench.database)


@pytest.mark.parametrize(
    ("before", "after", "started"),
    [(1, 5, [0, 60, 120, 180, 240]), (None, 3, [0, 60, 120]), (9, 2, [0, 60, 120])],
)
def test_max_runs_may_change_and_counts_what_was_dispatched(
    bench: Bench, before: int | None, after: int, started: list[int]
) -> None:
    def limited(count: int | None) -> list[ScheduledTask]:
        more = {"coalesce": "all", "catchup_window": "unlimited", "max_runs": count}
        return [task("job", cron=None, interval=60, start=from_us(s(0)), **more)]

    mirror.sync(bench.database, "s", limited(before), s(-5))
    scheduler = bench.scheduler(-1)
    found: list[float] = []

    def serve(second: int) -> None:
        turn = scheduler.turn(second, sources=["", "s"])
        found.extend(times(turn))
        for run in turn.started:
            scheduler.finish(run, second + 1)

    for second in (0, 60, 120)[: before or 3]:
        serve(second)
    mirror.sync(bench.database, "s", limited(after), s(found[-1] + 10))
    for second in range(int(found[-1]) + 60, 400, 60):
        serve(second)
    assert found == started
    assert bench.next() is None

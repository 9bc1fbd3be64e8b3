"""Schedules as code: what is listed is there, and nothing else has been touched."""

from dataclasses import asdict
from typing import Any

import pytest

from sqlsched.exceptions import DuplicateScheduleError, InvalidScheduleError
from sqlsched.instants import from_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import changes, schedules, sync
from sqlsched.storage.sync import Synced

from .bench import NOON_US, Bench, s, times


def task(schedule_id: str = "job", **fields: Any) -> ScheduledTask:
    """A schedule that fires each minute from noon on, or otherwise if `fields` say so."""
    if not fields.keys() & {"cron", "time", "interval"}:
        fields |= {"interval": 60, "start": from_us(NOON_US)}
    return ScheduledTask(task_name="m:f", schedule_id=schedule_id, **fields)


def synced(bench: Bench, *listed: ScheduledTask, at: float = -100, **how: Any) -> dict[str, Any]:
    """What a sync did, without the kinds that are empty."""
    result = sync.sync(bench.database, listed, s(at), **how)
    return {name: found for name, found in asdict(result).items() if found}


def refused(bench: Bench, *listed: ScheduledTask, at: float = -100, **how: Any) -> Exception:
    """Why a sync of these was refused, nothing else having been said."""
    result = sync.sync(bench.database, listed, s(at), **how)
    [(_, error)] = result.refused
    return error


def everything(bench: Bench) -> list[Any]:
    return [bench.ask("SELECT * FROM schedules"), bench.ask("SELECT * FROM runs")]


# -- what is listed -------------------------------------------------------------------------------


def test_what_is_new_is_added_in_the_order_of_the_list(bench: Bench) -> None:
    assert synced(bench, task("b"), task("a")) == {"added": ["b", "a"]}
    assert schedules.matching_ids(bench.database, schedules.Selection()) == ["b", "a"]
    assert bench.next("a") == 0


def test_what_is_listed_as_it_is_stays_as_it_is(bench: Bench) -> None:
    synced(bench, task("a", interval=90))
    before = everything(bench)
    assert synced(bench, task("a", interval=90), at=50) == {"unchanged": ["a"]}
    assert everything(bench) == before


def test_what_is_listed_otherwise_is_changed_from_now_on(bench: Bench) -> None:
    synced(bench, task("a"), task("b", interval=90))
    assert synced(bench, task("a"), task("b", interval=50), at=10) == {
        "unchanged": ["a"],
        "changed": ["b"],
    }
    assert (bench.next("a"), bench.next("b")) == (0, 60)


def test_a_new_note_leaves_the_next_firing_where_it_was(bench: Bench) -> None:
    synced(bench, task("a", interval=90), at=0)
    assert synced(bench, task("a", interval=90, note="new"), at=50) == {"changed": ["a"]}
    assert bench.next("a") == 90


def test_a_thousand_are_as_one(bench: Bench) -> None:
    listed = [task(f"x{number}") for number in range(1100)]
    assert len(synced(bench, *listed)["added"]) == 1100
    assert len(synced(bench, *listed)["unchanged"]) == 1100


def test_a_schedule_that_somebody_added_is_kept_by_the_file_that_lists_it(bench: Bench) -> None:
    bench.add("job")
    assert synced(bench, task("job"), task("new")) == {"added": ["new"], "unchanged": ["job"]}
    assert synced(bench, task("new"), prune=True) == {"unchanged": ["new"], "removed": ["job"]}


def test_what_somebody_else_changed_is_changed_back(bench: Bench) -> None:
    synced(bench, task())
    changes.edit(bench.database, "job", lambda _: task(interval=5), s(0))
    assert synced(bench, task(), at=10) == {"changed": ["job"]}
    assert bench.next() == 60


# -- what is not listed ---------------------------------------------------------------------------


def test_what_is_not_listed_any_more_stays_until_it_is_pruned(bench: Bench) -> None:
    synced(bench, task("a"), task("b"), task("c"))
    assert synced(bench, task("b")) == {"unchanged": ["b"], "left": ["a", "c"]}
    assert synced(bench, task("b"), prune=True) == {"unchanged": ["b"], "removed": ["a", "c"]}
    assert synced(bench, task("b"), prune=True) == {"unchanged": ["b"]}


def test_what_was_made_by_other_means_is_never_pruned(bench: Bench) -> None:
    bench.add("mine")
    synced(bench, task("a"))
    assert synced(bench, prune=True) == {"removed": ["a"]}
    assert schedules.matching_ids(bench.database, schedules.Selection()) == ["mine"]


def test_each_group_prunes_its_own(bench: Bench) -> None:
    synced(bench, task("a"), group="shop")
    synced(bench, task("b"), group="bank")
    synced(bench, task("c"))
    assert synced(bench, group="shop", prune=True) == {"removed": ["a"]}
    assert synced(bench, prune=True) == {"removed": ["c"]}
    assert bench.next("b") == 0


def test_two_groups_do_not_take_a_schedule_from_each_other(bench: Bench) -> None:
    synced(bench, task(), group="shop")
    before = everything(bench)
    error = refused(bench, task("new"), task(), group="bank")
    assert isinstance(error, DuplicateScheduleError)
    assert str(error) == (
        "'job' is of the group 'shop', and is not taken into the group 'bank'; remove it there, "
        "or use another id"
    )
    assert "into the group of files that name none" in str(refused(bench, task()))
    assert everything(bench) == before


def test_a_copy_of_another_source_is_not_taken(bench: Bench) -> None:
    synced(bench, task())
    bench.database.execute("UPDATE schedules SET source = 'label'")
    assert "comes from label already; use another id" in str(refused(bench, task()))
    assert synced(bench, prune=True) == {}


# -- all or nothing -------------------------------------------------------------------------------


def test_if_one_cannot_be_stored_none_is_and_each_is_told(bench: Bench) -> None:
    synced(bench, task("a"), task("b"))
    before = everything(bench)
    late = {"end": from_us(s(-1000))}
    result = sync.sync(
        bench.database,
        [task("a", note="new"), task("b", interval=1, **late), task("c", interval=1, **late)],
        s(0),
        prune=True,
    )
    assert [schedule_id for schedule_id, _ in result.refused] == ["c", "b"]
    for _, error in result.refused:
        assert isinstance(error, InvalidScheduleError)
        assert "leaves no firing from now on" in str(error)
    assert everything(bench) == before


def test_a_preview_says_the_same_and_does_nothing(bench: Bench) -> None:
    synced(bench, task("a"), task("b"), task("c"))
    listed = [task("a"), task("b", interval=5), task("d")]
    before = everything(bench)
    found = sync.preview(bench.database, listed, s(50), prune=True)
    assert everything(bench) == before
    assert found.synced == Synced(["d"], ["b"], ["a"], ["c"])
    assert [row[0] for row in found.before.schedules] == ["b", "c"]
    assert [row[0] for row in found.after.schedules] == ["b", "d"]
    assert sync.sync(bench.database, listed, s(50), prune=True) == found.synced


# -- schedules that are done ----------------------------------------------------------------------


def done(bench: Bench, *listed: ScheduledTask) -> None:
    """Sync, run all that is due, and see that each has ended."""
    synced(bench, *listed)
    scheduler = bench.scheduler()
    for at in (0, 60, 120):
        for run in scheduler.turn(at).started:
            scheduler.finish(run, at + 1)
    assert schedules.matching_ids(bench.database, schedules.Selection()) == []


def test_a_one_shot_that_has_run_does_not_run_again(bench: Bench) -> None:
    listed = task("once", time=from_us(s(0)))
    done(bench, listed)
    assert synced(bench, listed, at=200) == {"unchanged": ["once"]}
    assert bench.next("once") is None


def test_nor_when_its_history_is_forgotten(bench: Bench) -> None:
    listed = task("once", time=from_us(s(0)))
    done(bench, listed)
    assert bench.forget(10_000) == 1
    assert bench.forget(10_000) == 0
    assert synced(bench, listed, at=20_000) == {"unchanged": ["once"]}
    assert bench.next("once") is None


def test_a_schedule_that_reached_its_end_is_left_alone(bench: Bench) -> None:
    limited, ended = task("n", max_runs=2), task("e", end=from_us(s(60)))
    done(bench, limited, ended)
    assert synced(bench, limited, ended, at=200) == {"unchanged": ["n", "e"]}
    assert synced(bench, at=200, prune=True) == {"removed": ["n", "e"]}


def test_wider_bounds_let_it_go_on(bench: Bench) -> None:
    done(bench, task("n", max_runs=2), task("e", end=from_us(s(60))))
    wider = [task("n", max_runs=3), task("e", end=from_us(s(300)))]
    assert synced(bench, *wider, at=200) == {"changed": ["n", "e"]}
    assert bench.next("n") == bench.next("e") == 240
    started = bench.scheduler().turn(240).started
    assert sorted(run.schedule_id for run in started) == ["e", "n"]
    assert bench.next("n") is None  # two before, and this was the third


def test_a_one_shot_that_was_removed_by_hand_is_not_made_again(bench: Bench) -> None:
    done(bench, task("once", time=from_us(s(0))))
    changes.remove(bench.database, ["once"], s(100))
    error = refused(bench, task("once", time=from_us(s(0))), at=200)
    assert "has had a firing at that time already" in str(error)


# -- pauses ---------------------------------------------------------------------------------------


def is_paused(bench: Bench, schedule_id: str = "job") -> bool:
    return schedules.get(bench.database, schedule_id).paused_us is not None


def test_a_pause_is_begun_and_ended_as_the_list_says(bench: Bench) -> None:
    synced(bench, task(paused=True))
    assert is_paused(bench)
    assert synced(bench, task(paused=True)) == {"unchanged": ["job"]}
    assert synced(bench, task(), at=130) == {"changed": ["job"]}
    assert not is_paused(bench)
    assert bench.next() == 180
    assert synced(bench, task(paused=True), at=200) == {"changed": ["job"]}
    assert is_paused(bench)


def test_a_pause_that_somebody_made_or_ended_by_hand_stays(bench: Bench) -> None:
    synced(bench, task("a"), task("b", paused=True))
    changes.pause(bench.database, ["a"], s(0))
    changes.resume_all(bench.database, ["b"], s(0))
    assert synced(bench, task("a"), task("b", paused=True)) == {"unchanged": ["a", "b"]}
    assert (is_paused(bench, "a"), is_paused(bench, "b")) == (True, False)
    synced(bench, task("a", note="x"))
    assert is_paused(bench, "a")


def test_a_schedule_that_was_added_paused_stays_so_until_the_list_has_said_it(
    bench: Bench,
) -> None:
    bench.add("job", paused=True)
    assert synced(bench, task()) == {"unchanged": ["job"]}
    assert is_paused(bench)
    assert synced(bench, task(paused=True)) == {"unchanged": ["job"]}
    assert synced(bench, task()) == {"changed": ["job"]}
    assert not is_paused(bench)


def test_adding_one_that_is_to_pause_is_a_change(bench: Bench) -> None:
    bench.add("job")
    assert synced(bench, task(paused=True)) == {"changed": ["job"]}
    assert is_paused(bench)


# -- while it is served ---------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [False, True])
def test_what_was_claimed_is_taken_back_and_what_runs_goes_on(bench: Bench, removed: bool) -> None:
    synced(bench, task(overlap="allow"))
    scheduler = bench.scheduler()
    [going] = scheduler.turn(0).started
    assert scheduler.turn(59.5).armed
    listed = [] if removed else [task(overlap="allow", interval=50, start=from_us(s(0)))]
    synced(bench, *listed, at=59.7, prune=True)
    assert bench.runs() == [(0, 1, "running")]
    scheduler.finish(going, 70)
    assert bench.runs() == [(0, 1, "succeeded")]
    assert times(scheduler.turn(100)) == ([] if removed else [100])

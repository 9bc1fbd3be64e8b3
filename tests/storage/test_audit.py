"""The record of changes: each is in the ledger with who made it, and what was there before."""

import json
import os
import pwd
from typing import Any

import pytest

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.instants import SECOND_US, from_us
from sqlsched.planner import Claim
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import additions, changes, mirror, pruning, runs, schedules

from .bench import NOON_US, Bench, s

ME = f"{pwd.getpwuid(os.geteuid()).pw_name} (pid {os.getpid()})"
LABELS = f"its source labels (pid {os.getpid()})"


def recorded(bench: Bench) -> list[tuple[str, str, float]]:
    """Schedule, what was done to it, and how many seconds after noon."""
    rows = bench.ask("SELECT schedule_id, what, at_us FROM changes ORDER BY change_id")
    return [(name, what, (us - NOON_US) / SECOND_US) for name, what, us in rows]


def who(bench: Bench) -> list[str]:
    return bench.ask("SELECT who FROM changes ORDER BY change_id")


def before(bench: Bench) -> list[dict[str, Any] | None]:
    return [text and json.loads(text) for text in bench.ask("SELECT before FROM changes")]


def edit(bench: Bench, at: float, **fields: Any) -> None:
    made = ScheduledTask(**{"task_name": "m:f", "schedule_id": "job", **fields})
    changes.edit(bench.database, "job", lambda _: made, s(at))


def test_adding_is_not_recorded_as_the_schedule_itself_says_it(bench: Bench) -> None:
    bench.add()
    assert recorded(bench) == []


def test_an_edit_is_recorded_with_who_made_it_and_the_schedule_as_it_was(bench: Bench) -> None:
    bench.add(cron="*/5 * * * *", cron_offset="Europe/Berlin", kwargs={"a": None}, at=-50)
    edit(bench, 10, interval=60)
    assert recorded(bench) == [("job", "edited", 10)]
    assert who(bench) == [ME]
    assert before(bench) == [
        {
            "anchor_us": s(-50),
            "args": "[]",
            "created_us": s(-50),
            "cron": "*/5 * * * *",
            "cron_offset": "Europe/Berlin",
            "kwargs": '{"a":null}',
            "labels": "{}",
            "schedule_id": "job",
            "task_name": "m:f",
        }
    ]


def test_what_was_before_is_canonical(bench: Bench) -> None:
    bench.add(cron="0 0 * * *")
    edit(bench, 10, interval=60)
    (text,) = bench.ask("SELECT before FROM changes")
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_an_edit_that_is_refused_is_not_recorded(bench: Bench) -> None:
    bench.add()
    with pytest.raises(InvalidScheduleError):
        edit(bench, 130, interval=60, end=from_us(s(100)))
    assert recorded(bench) == []


def test_replacing_is_recorded_and_adding_the_same_again_is_not(bench: Bench) -> None:
    bench.add(interval=90)
    task = ScheduledTask(task_name="m:f", schedule_id="job", interval=60)
    for at in (10, 20):
        additions.add(bench.database, task, s(at), replace_other=True)
    assert recorded(bench) == [("job", "replaced", 10)]


def test_a_done_schedule_whose_id_is_taken_again_is_recorded_as_removed(bench: Bench) -> None:
    bench.add(max_runs=1)
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    bench.add(at=10)
    assert recorded(bench) == [("job", "removed", 10)]
    (gone,) = before(bench)
    assert gone is not None
    assert (gone["max_runs"], gone["created_us"]) == (1, s(-100))


def test_a_removal_is_recorded_with_the_schedule_and_when_it_was_made(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.add(name)
    changes.remove(bench.database, ["a", "b"], s(10))
    assert recorded(bench) == [("a", "removed", 10), ("b", "removed", 10)]
    assert {entry and entry["created_us"] for entry in before(bench)} == {s(-100)}


def test_a_schedule_that_somebody_damaged_is_removed_and_recorded_all_the_same(
    bench: Bench,
) -> None:
    bench.add()
    bench.database.execute("UPDATE schedules SET catchup_window = x'ff', args = 'no json'")
    changes.remove(bench.database, ["job"], s(10))
    assert recorded(bench) == [("job", "removed", 10)]
    assert bench.ask("SELECT count(*) FROM schedules") == [0]


def test_a_pause_is_recorded_with_its_note_and_its_end(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    changes.pause(bench.database, ["a", "b"], s(10), note="the bank is closed")
    changes.resume_all(bench.database, ["a"], s(20))
    assert recorded(bench) == [("a", "paused", 10), ("b", "paused", 10), ("a", "resumed", 20)]
    assert bench.ask("SELECT note, over_us IS NULL FROM changes ORDER BY change_id") == [
        ("the bank is closed", 0),
        ("the bank is closed", 1),
        (None, 0),
    ]
    assert who(bench) == [ME] * 3


def test_pausing_what_is_paused_is_recorded_only_if_it_says_why(bench: Bench) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(10))
    changes.pause(bench.database, ["job"], s(20))
    changes.pause(bench.database, ["job"], s(30), note="see the wiki")
    assert recorded(bench) == [("job", "paused", 10), ("job", "paused", 30)]
    assert schedules.get(bench.database, "job").paused_us == s(10)


def test_resuming_what_goes_on_is_not_recorded(bench: Bench) -> None:
    bench.add()
    changes.resume_all(bench.database, ["job"], s(10))
    assert recorded(bench) == []


def test_an_edit_that_pauses_is_recorded_as_both(bench: Bench) -> None:
    bench.add()
    edit(bench, 10, interval=60, paused=True)
    assert recorded(bench) == [("job", "edited", 10), ("job", "paused", 10)]


def test_who_pauses_may_be_the_program(bench: Bench) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(10), who="sqlsched (pid 7)", note="it failed twice")
    assert who(bench) == ["sqlsched (pid 7)"]


def test_what_a_source_changes_is_recorded_as_its_doing(bench: Bench) -> None:
    def listed(at: float, *found: ScheduledTask) -> None:
        mirror.sync(bench.database, "labels", found, s(at))

    task = ScheduledTask(task_name="m:f", schedule_id="job", interval=60)
    paused = ScheduledTask(task_name="m:f", schedule_id="job", interval=90, paused=True)
    resumed = ScheduledTask(task_name="m:f", schedule_id="job", interval=90)
    listed(0, task)
    listed(10, task)
    listed(20, paused)
    listed(30, resumed)
    listed(40)
    assert recorded(bench) == [
        *(("job", "edited", 20), ("job", "paused", 20)),
        *(("job", "edited", 30), ("job", "resumed", 30)),
        ("job", "removed", 40),
    ]
    assert set(who(bench)) == {LABELS}


def test_what_comes_changed_with_a_claim_is_recorded_and_what_comes_as_it_was_is_not(
    bench: Bench,
) -> None:
    for at, interval in ((0, 60), (10, 60), (20, 90)):
        task = ScheduledTask(task_name="m:f", schedule_id="job", interval=interval)
        mirror.adopt(bench.database, "labels", [Claim(schedule=task, anchor_us=0)], s(at))
    mirror.forget(bench.database, ["job", "nothing"], s(30))
    assert recorded(bench) == [("job", "edited", 20), ("job", "removed", 30)]
    assert set(who(bench)) == {LABELS}


def test_the_record_is_forgotten_with_old_runs_but_for_pauses_in_force(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.add(name)
    changes.pause(bench.database, ["a", "b"], s(10), note="why")
    changes.resume_all(bench.database, ["a"], s(20))
    changes.remove(bench.database, ["c"], s(30))
    assert pruning.forget_changes(bench.database, s(20)) == 0
    assert runs.forgotten_us(bench.database) == 0
    assert [pruning.forget_changes(bench.database, s(31), 2) for _ in range(3)] == [2, 1, 0]
    assert recorded(bench) == [("b", "paused", 10)]
    assert runs.forgotten_us(bench.database) == s(31)


def test_a_schedule_that_is_removed_takes_its_pause_along(bench: Bench) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(10))
    changes.remove(bench.database, ["job"], s(20))
    pruning.forget_changes(bench.database, s(100))
    assert recorded(bench) == []


def test_any_number_is_paused_and_removed_by_a_handful_of_statements(bench: Bench) -> None:
    many = [f"job{number}" for number in range(300)]
    tasks = [ScheduledTask(task_name="m:f", schedule_id=name, interval=900) for name in many]
    additions.add_all(bench.database, tasks, s(-100))
    asked: list[str] = []
    bench.database.set_trace_callback(asked.append)
    changes.pause(bench.database, many, s(-50))
    changes.remove(bench.database, many, s(-40))
    assert len(asked) < 30
    assert len(recorded(bench)) == 600

"""What `watch` asks each second: the right answers, and none by going through a whole table."""

import pytest

from sqlsched.explain.dashboard import Snapshot
from sqlsched.instants import from_us
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import additions, changes, mirror, watching

from .bench import Bench, s
from .test_plans import SMALL, statements


def look(bench: Bench, rows: int = 10, seen: tuple[int, ...] = ()) -> Snapshot:
    return watching.snapshot(bench.database, rows, seen)


def test_who_runs_and_what_runs_and_what_ended_and_what_is_next(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.add(name)
    scheduler = bench.scheduler()
    first, second, _ = scheduler.turn(0).started
    scheduler.finish(first, 5)
    scheduler.finish(second, 6, "failed")
    found = look(bench)
    assert [(service.pid, service.until_us) for service in found.serving] == [
        (scheduler.entry.pid, None)
    ]
    assert [(run.schedule_id, run.pid) for run in found.going] == [("c", scheduler.entry.pid)]
    assert [(run.schedule_id, run.status) for run in found.ended] == [
        *(("b", "failed"), ("a", "succeeded")),
    ]
    assert [(firing.schedule_id, firing.wake_us) for firing in found.coming] == [
        (name, s(60)) for name in ("a", "b", "c")
    ]
    assert found.counts == {"running": 1, "claimed": 0, "waiting": 0}


def test_a_scheduler_that_died_does_not_run(bench: Bench) -> None:
    scheduler = bench.scheduler()
    scheduler.turn(60, heartbeat=True)
    scheduler.lock.release()
    found = look(bench)
    assert found.serving == []
    assert found.last is not None
    assert found.last.until_us == s(60)


def test_what_waits_and_what_is_claimed_is_counted(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.add(name, overlap="buffer-all")
    bench.scheduler().turn(0, room=1, alone=True)
    assert look(bench).counts == {"running": 1, "claimed": 2, "waiting": 0}
    bench.database.execute("UPDATE runs SET status = 'waiting', owner = NULL WHERE run_id = 2")
    bench.database.execute("UPDATE runs SET status = 'waiting', held = 1 WHERE run_id = 3")
    assert look(bench).counts == {"running": 1, "claimed": 0, "waiting": 2}


def test_the_end_of_a_long_run_is_found_if_it_was_seen_going(bench: Bench) -> None:
    bench.add("old")
    scheduler = bench.scheduler()
    (old,) = scheduler.turn(0).started
    scheduler.finish(old, 9)
    bench.database.execute(
        """INSERT INTO runs (run_id, schedule_id, task_name, scheduled_us, attempt, trigger, status,
               due_us, finished_us)
           VALUES (1000, 'new', 'm:f', ?1, 1, 'schedule', 'skipped', ?1, ?1)""",
        (s(5),),
    )
    assert [run.schedule_id for run in look(bench).ended] == ["new"]
    assert [run.schedule_id for run in look(bench, seen=(old.run_id,)).ended] == ["old", "new"]


def test_the_next_firings_are_those_of_every_source_and_of_nothing_paused(bench: Bench) -> None:
    bench.add("own", interval=60, start=from_us(s(100)))
    bench.add("paused")
    changes.pause(bench.database, ["paused"], s(-90))
    for source, interval in (("labels", 30), ("redis", 45)):
        task = ScheduledTask(task_name="m:f", schedule_id=source, interval=interval)
        mirror.sync(bench.database, source, [task], s(-20))
    assert [firing.schedule_id for firing in look(bench).coming] == ["labels", "redis", "own"]
    assert [firing.schedule_id for firing in look(bench, rows=1).coming] == ["labels"]


def test_a_command_reads_as_itself(bench: Bench) -> None:
    task = ScheduledTask(
        task_name="sqlsched:exec", schedule_id="job", interval=60, args=["/bin/echo", "a b"]
    )
    additions.add(bench.database, task, s(0))
    assert look(bench).coming[0].what == "/bin/echo a b"
    for damaged in ("no json", "null", "[]"):
        bench.database.execute("UPDATE schedules SET args = ?", (damaged,))
        assert look(bench).coming[0].what == "sqlsched:exec"


def test_no_question_goes_through_a_whole_table(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add()
    bench.scheduler().turn(0)
    seen = statements(monkeypatch)
    watching.snapshot(bench.database, 10, [1])
    monkeypatch.undo()
    assert len(seen) > 4
    for query, values in seen:
        for row in bench.database.execute(f"EXPLAIN QUERY PLAN {query}", values):
            step = row[3]
            assert not step.startswith("SCAN") or any(
                name in step for name in (*SMALL, *INDEXES)
            ), (step, query)


INDEXES = ("runs_going", "runs_claimed", "runs_waiting", "name", "(subquery", "SCAN s USING INDEX")
"""What may be gone through from end to end: what goes on, and an index up to a limit."""

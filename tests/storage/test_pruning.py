"""Forgetting: what goes, what stays, and what is remembered of it."""

import pytest

from sqlsched.instants import from_us
from sqlsched.storage import highest_time, owners, pruning, runs
from sqlsched.storage.pruning import Cut

from .bench import Bench, Scheduler, s


def ran(scheduler: Scheduler, at: float, status: str = "succeeded") -> None:
    for run in scheduler.turn(at).started:
        scheduler.finish(run, at, status)


def pruned(
    bench: Bench,
    before: float,
    *,
    bad_before: float | None = None,
    newest: int = 0,
    after: int = 0,
    rows: int = 100,
) -> int:
    """How many rows go, at so many seconds after noon."""
    if newest:
        pruning.set_newest_aside(bench.database, newest)
    bad_before = before if bad_before is None else bad_before
    cut = Cut(s(before), s(bad_before), newest_stay=newest > 0)
    return pruning.prune(bench.database, cut, after, rows).pruned


def test_old_runs_are_forgotten_a_few_at_a_time(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(7):
        ran(scheduler, 60 * minute)
    assert [pruned(bench, 310, rows=3) for _ in range(3)] == [3, 3, 0]
    assert bench.runs() == [(360, 1, "succeeded")]
    assert runs.pruned_us(bench.database) == s(300)


def test_what_is_under_way_is_never_forgotten_however_old_it_is(bench: Bench) -> None:
    bench.add(overlap="allow", retries=1)
    scheduler = bench.scheduler()
    scheduler.turn(0)
    (failing,) = scheduler.turn(60).started
    scheduler.finish(failing, 61, "failed")
    assert pruned(bench, 10**6) == 1
    assert bench.runs() == [(0, 1, "running"), (60, 2, "waiting")]


def test_a_long_run_is_kept_from_its_end_on(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.finish(run, 5000)
    assert pruned(bench, 5000) == 0
    assert pruned(bench, 5001) == 1


def test_output_and_done_schedules_are_forgotten_with_their_runs(bench: Bench) -> None:
    bench.add(time=from_us(s(0)))
    bench.add("going")
    scheduler = bench.scheduler()
    ran(scheduler, 0)
    bench.database.execute("INSERT INTO outputs SELECT run_id, x'', x'', 0 FROM runs")
    pruned(bench, 100)
    assert bench.ask("SELECT schedule_id FROM schedules") == ["going"]
    assert bench.ask("SELECT count(*) FROM outputs") == [0]


def test_forgetting_nothing_writes_nothing(bench: Bench) -> None:
    bench.add()
    other = bench.scheduler().database
    before = other.execute("PRAGMA data_version").fetchone()
    assert pruned(bench, 0) == 0
    assert other.execute("PRAGMA data_version").fetchone() == before


def test_how_far_the_memory_does_not_reach_never_shrinks(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(4):
        ran(scheduler, 60 * minute, "failed" if minute < 2 else "succeeded")
    assert [pruned(bench, 1000, bad_before=-1), pruned(bench, 1000)] == [2, 2]
    assert runs.pruned_us(bench.database) == s(180)


@pytest.mark.parametrize("status", ["failed", "timed_out", "abandoned", "missed"])
def test_what_went_badly_has_a_time_of_its_own(bench: Bench, status: str) -> None:
    bench.add()
    scheduler = bench.scheduler()
    ran(scheduler, 0)
    bench.database.execute("UPDATE runs SET status = ?", (status,))
    ran(scheduler, 60)
    assert pruned(bench, 100, bad_before=0) == 1
    assert bench.runs() == [(0, 1, status)]
    assert pruned(bench, 100, bad_before=50) == 1
    assert bench.runs() == []


def test_the_newest_of_each_schedule_stay(bench: Bench) -> None:
    bench.add("often")
    bench.add("seldom", cron="*/3 * * * *")
    scheduler = bench.scheduler()
    for minute in range(7):
        ran(scheduler, 60 * minute)
    assert pruned(bench, 1000, newest=4) == 3
    ask = "SELECT count(*) FROM runs GROUP BY schedule_id ORDER BY schedule_id"
    assert bench.ask(ask) == [4, 3]
    assert pruned(bench, 1000, newest=4) == 0
    assert pruned(bench, 200, newest=1) == 3  # and old they must be, too
    assert pruned(bench, 1000, newest=1) == 2
    assert bench.ask(ask) == [1, 1]


def test_what_was_looked_at_is_told_so_that_the_next_look_goes_on_there(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(6):
        ran(scheduler, 60 * minute, "failed" if minute < 2 else "succeeded")
    ids = bench.ask("SELECT run_id FROM runs ORDER BY run_id")
    cut = Cut(s(200), s(0))
    first = pruning.prune(bench.database, cut, 0, 3)
    assert (first.pruned, first.last, first.last_old) == (1, ids[2], ids[2])
    second = pruning.prune(bench.database, cut, ids[2], 3)
    assert (second.pruned, second.last, second.last_old) == (1, ids[5], ids[3])
    assert pruning.prune(bench.database, cut, ids[5], 3) == pruning.Swept(0, None, None)
    assert pruning.extent(bench.database) == (ids[0], ids[5])


def test_the_record_goes_back_as_far_as_nothing_is_missing(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(6):
        ran(scheduler, 60 * minute)
    assert pruned(bench, 1000, newest=4) == 2
    assert runs.forgotten_us(bench.database) == s(60) + 1
    assert pruned(bench, 150) == 1
    assert runs.forgotten_us(bench.database) == s(150)


def test_the_highest_time_on_record_is_never_forgotten(bench: Bench) -> None:
    bench.add()
    for start in (0, 120):
        scheduler = bench.scheduler()
        ran(scheduler, start)
        scheduler.turn(start + 70, heartbeat=True)
        owners.unregister(scheduler.database, scheduler.owner, s(start + 80))
    pruning.forget_changes(bench.database, s(10_000))
    assert bench.ask("SELECT count(*) FROM owners") == [1]
    assert highest_time.of_schedulers(bench.database) == s(200)


def test_no_statement_goes_through_a_whole_table(bench: Bench) -> None:
    bench.add()
    ran(bench.scheduler(), 0)
    seen: list[str] = []
    bench.database.set_trace_callback(seen.append)
    assert pruned(bench, 100) == 1
    bench.database.set_trace_callback(None)
    asked = [q for q in seen if q.lstrip().startswith(("SELECT", "DELETE", "INSERT"))]
    assert len(asked) > 4
    for query in asked:
        for row in bench.database.execute(f"EXPLAIN QUERY PLAN {query}"):
            is_small = any(name in row[3] for name in ("VIRTUAL TABLE", "CONSTANT ROW", "owners"))
            assert not row[3].startswith("SCAN") or is_small, (row[3], query)


def test_what_keeps_a_firing_to_come_from_running_twice_is_not_forgotten(bench: Bench) -> None:
    bench.add(coalesce="all", catchup_window="unlimited")
    scheduler = bench.scheduler(-1)
    ran(scheduler, 0)
    bench.database.execute("UPDATE schedules SET next_us = ?1, wake_us = ?1", (s(0),))
    assert bench.forget(3600) == 0
    assert scheduler.turn(30).started == []
    bench.database.execute("UPDATE schedules SET next_us = ?1, wake_us = ?1", (s(60),))
    assert bench.forget(3600) == 1


def test_an_end_that_is_still_to_be_told_is_not_forgotten(bench: Bench) -> None:
    bench.add(on_failure="true")
    scheduler = bench.scheduler(-1)
    scheduler.finish(scheduler.turn(0).started[0], 1, "failed")
    assert bench.forget(3600) == 0
    bench.database.execute("UPDATE runs SET untold = 0")
    assert bench.forget(3600) == 1

"""Ends: recorded once, by who started the run; and what is tried again."""

import pytest

from sqlsched.instants import from_us
from sqlsched.storage import changes, runs
from sqlsched.storage.claims import FOREVER_US
from sqlsched.storage.turn import Finished, Printed

from .bench import Bench, s, times


def test_an_end_is_recorded_with_all_that_is_known_of_it(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    end = Finished(run.run_id, "failed", s(5), 3, "exit status 3", None)
    assert scheduler.turn(5, finished=[end]).lost == []
    found = runs.get_run(bench.database, run.run_id)
    assert (found.status, found.started_us, found.finished_us) == ("failed", s(0), s(5))
    assert (found.exit_code, found.error, found.reason) == (3, "exit status 3", None)


def test_an_end_told_by_another_changes_nothing_and_is_reported_lost(bench: Bench) -> None:
    bench.add(retries=3)
    mine, other = bench.scheduler(), bench.scheduler()
    (run,) = mine.turn(0).started
    turn = other.finish(run, 1, "failed", printed=[Printed(run.run_id, b"no", b"", 2)])
    assert (turn.lost, turn.retries) == ([run.run_id], [])
    assert bench.runs() == [(0, 1, "running")]
    assert runs.output(bench.database, run.run_id) == (b"", b"", 0)


def test_a_run_ends_once(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.finish(run, 1)
    assert scheduler.finish(run, 2, "failed").lost == [run.run_id]
    assert runs.get_run(bench.database, run.run_id).finished_us == s(1)


def test_what_recovery_abandoned_stays_so_when_its_process_comes_back(bench: Bench) -> None:
    bench.add(retries=3)
    stopped = bench.scheduler()
    (run,) = stopped.turn(0).started
    assert bench.take_over([stopped.entry], 10) == [run.run_id]
    unaware = stopped.finish(run, 20, "failed", known_us=FOREVER_US)
    assert unaware.lost == [run.run_id]
    assert bench.runs() == [(0, 1, "abandoned")]


def test_output_is_replaced_as_more_comes(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    for number in (1, 2):
        printed = Printed(run.run_id, b"head", b"%d" % number, 100 * number)
        scheduler.turn(number, ahead=-1, printed=[printed])
    assert runs.output(bench.database, run.run_id) == (b"head", b"2", 200)


def test_output_of_a_run_that_is_no_more_is_dropped(bench: Bench) -> None:
    scheduler = bench.scheduler()
    scheduler.turn(0, printed=[Printed(77, b"", b"", 0)], processes=[(77, 1, 2)])
    assert bench.ask("SELECT count(*) FROM outputs") == [0]


def test_the_process_of_a_run_is_put_on_record_by_its_owner_only(bench: Bench) -> None:
    bench.add()
    mine, other = bench.scheduler(), bench.scheduler()
    (run,) = mine.turn(0).started
    mine.turn(1, ahead=-1, processes=[(run.run_id, 4711, 99)])
    other.turn(1, ahead=-1, processes=[(run.run_id, 1, 1)])
    assert bench.ask("SELECT pid, pid_started FROM runs") == [(4711, 99)]


@pytest.mark.parametrize("status", ["failed", "timed_out"])
def test_a_run_that_failed_is_tried_again_as_a_row_of_its_own(bench: Bench, status: str) -> None:
    bench.add(retries=2, retry_delay=5)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    turn = scheduler.finish(run, 2, status)
    assert (turn.retries, turn.next_us) == ([(run.run_id, s(7))], s(7))
    assert bench.runs() == [(0, 1, status), (0, 2, "waiting")]
    assert scheduler.turn(5.9).armed == []
    (retry,) = scheduler.turn(7).started
    assert (retry.attempt, retry.trigger, retry.scheduled_us) == (2, "retry", s(0))
    assert scheduler.finish(retry, 8, status).retries == [(retry.run_id, s(18))]
    (last,) = scheduler.turn(18).started
    assert scheduler.finish(last, 19, status).retries == []
    assert [attempt for _, attempt, _ in bench.runs()] == [1, 2, 3]


@pytest.mark.parametrize("status", ["succeeded", "cancelled"])
def test_what_did_not_fail_is_not_tried_again(bench: Bench, status: str) -> None:
    bench.add(retries=2)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    assert scheduler.finish(run, 2, status).retries == []


def test_a_retry_survives_the_scheduler_that_planned_it(bench: Bench) -> None:
    bench.add(retries=1, retry_delay=30)
    first, second = bench.scheduler(), bench.scheduler()
    (run,) = first.turn(0).started
    first.finish(run, 1, "failed")
    bench.take_over([first.entry], 2)
    assert times(second.turn(31)) == [0]
    assert bench.runs() == [(0, 1, "failed"), (0, 2, "running")]


def test_a_retry_waits_out_a_pause_and_is_not_taken_for_a_firing_by_an_edit(
    bench: Bench,
) -> None:
    bench.add(retries=1, retry_delay=5)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.finish(run, 1, "failed")
    assert len(scheduler.turn(5.5).armed) == 1
    changes.pause(bench.database, ["job"], s(5.7))
    assert bench.runs() == [(0, 1, "failed"), (0, 2, "waiting")]
    assert scheduler.turn(50).started == []
    changes.resume_all(bench.database, ["job"], s(55))
    assert times(scheduler.turn(55)) == [0]


def test_a_retry_of_a_schedule_that_was_removed_is_cancelled(bench: Bench) -> None:
    bench.add(retries=1, retry_delay=5)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.finish(run, 1, "failed")
    changes.remove(bench.database, ["job"], s(2))
    assert bench.runs() == [(0, 1, "failed"), (0, 2, "cancelled")]
    assert scheduler.turn(10).started == []


def test_a_run_that_outlives_its_schedule_ends_in_the_ledger_and_is_not_tried_again(
    bench: Bench,
) -> None:
    bench.add(retries=1)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    changes.remove(bench.database, ["job"], s(1))
    turn = scheduler.finish(run, 2, "failed")
    assert (turn.lost, turn.retries, bench.runs()) == ([], [], [(0, 1, "failed")])


def test_a_manual_run_is_tried_again_under_its_own_key(bench: Bench) -> None:
    bench.add(retries=1, retry_delay=5)
    scheduler = bench.scheduler()
    run_id = runs.trigger(bench.database, "job", s(-50))
    (run,) = scheduler.turn(-50).started
    scheduler.finish(run, -49, "failed")
    assert runs.retry_of(bench.database, run_id) is not None
    assert times(scheduler.turn(-40)) == [-50]
    assert times(scheduler.turn(0)) == []


@pytest.mark.parametrize("status", ["failed", "succeeded"])
def test_the_end_of_a_run_of_a_schedule_that_is_gone_is_no_other_ones_of_its_id(
    bench: Bench, status: str
) -> None:
    bench.add(retries=2)
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0).started
    changes.remove(bench.database, ["job"], s(10))
    bench.add(at=20, cron="0 0 1 1 *", retries=2, pause_on_failure=1)
    bench.database.execute("UPDATE schedules SET failures = 5")
    assert scheduler.finish(run, 30, status).retries == []
    assert bench.runs() == [(0, 1, status)]
    assert bench.ask("SELECT failures FROM schedules") == [5]


def test_a_send_of_a_schedule_that_is_gone_and_was_refused_is_not_tried_again(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0, reports_completion=False).started
    changes.remove(bench.database, ["job"], s(10))
    bench.add(at=20, time=from_us(s(1000)), max_runs=1)
    turn = scheduler.turn(30, reports_completion=False, refused=[(run.run_id, s(31))])
    assert (turn.armed, bench.runs()) == ([], [(0, 1, "cancelled")])
    assert bench.ask("SELECT dispatched FROM schedules") == [0]


def test_a_last_run_that_was_refused_and_expires_was_not_the_last(bench: Bench) -> None:
    bench.add(max_runs=1, expires=5)
    scheduler = bench.scheduler()
    [run] = scheduler.turn(0, reports_completion=False).started
    assert bench.next() is None
    scheduler.turn(1, reports_completion=False, refused=[(run.run_id, s(7))])
    assert bench.next() == 60
    assert scheduler.turn(7, reports_completion=False, due=[run.run_id]).started == []
    assert times(scheduler.turn(60, reports_completion=False)) == [60]
    assert bench.runs() == [(0, 1, "missed"), (60, 1, "sending")]
    assert bench.next() is None

"""Claiming: each firing by one scheduler, in time, and never more than there is room for."""

import pytest

from sqlsched.instants import from_us
from sqlsched.storage import changes, claims, recovery, runs
from sqlsched.storage.connection import open_for_writing
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.turn import Finished

from .bench import Bench, s, times


def _done(run_id: int, at: float) -> Finished:
    return Finished(run_id, "succeeded", s(at))


def test_two_schedulers_that_take_turns_start_each_firing_once(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    first, second = bench.scheduler(), bench.scheduler()
    started = []
    for minute in range(20):
        now = 60 * minute + 0.1
        for scheduler in (first, second) if minute % 2 else (second, first):
            turn = scheduler.turn(now, since=0)
            started += [(run.schedule_id, run.scheduled_us) for run in turn.started]
            scheduler.turn(now, ahead=-1, finished=[_done(run.run_id, now) for run in turn.started])
    assert len(started) == len(set(started)) == 40
    assert {status for _, _, status in bench.runs("a")} == {"succeeded"}


def test_two_that_claim_ahead_share_the_firings_of_the_next_second(bench: Bench) -> None:
    for number in range(6):
        bench.add(f"job{number}")
    first, second = bench.scheduler(), bench.scheduler()
    one, two = first.turn(-0.5, ahead=4), second.turn(-0.4, ahead=4)
    assert (len(one.armed), len(two.armed)) == (4, 2)
    assert not one.started
    assert not two.started
    due = [armed.run_id for armed in one.armed]
    assert times(first.turn(0, due=due)) == [0] * 4
    assert second.turn(0, due=due).lost == due


def test_a_firing_that_is_in_the_ledger_is_not_claimed_again(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    bench.database.execute("UPDATE schedules SET next_us = ?1, wake_us = ?1", (s(0),))
    again = scheduler.turn(2)
    assert (again.started, again.armed) == ([], [])
    assert bench.runs() == [(0, 1, "succeeded")]
    assert bench.next() == 60


def test_no_more_is_claimed_than_may_start(bench: Bench) -> None:
    for number in range(5):
        bench.add(f"job{number}")
    turn = bench.scheduler().turn(0, room=2)
    assert (len(turn.started), turn.armed) == (2, [])
    assert bench.ask("SELECT count(*) FROM runs") == [2]
    assert turn.next_us == s(0)


def test_armed_runs_come_before_new_claims_when_room_is_short(bench: Bench) -> None:
    bench.add("armed")
    scheduler = bench.scheduler()
    (armed,) = scheduler.turn(-0.5).armed
    bench.add("new")
    turn = scheduler.turn(0, room=1, due=[armed.run_id])
    assert [run.schedule_id for run in turn.started] == ["armed"]
    assert bench.runs("new") == []


def test_only_the_next_second_is_claimed_ahead_and_only_so_many(bench: Bench) -> None:
    for number in range(4):
        bench.add(f"job{number}")
    scheduler = bench.scheduler()
    assert scheduler.turn(-1.000001).armed == []
    assert len(scheduler.turn(-1, ahead=3).armed) == 3
    assert scheduler.turn(-1, ahead=0).armed == []
    assert bench.ask("SELECT DISTINCT started_us FROM runs") == [None]


def test_without_room_nothing_that_is_due_is_claimed_ahead(bench: Bench) -> None:
    bench.add("due")
    bench.add("soon", interval=60, start=from_us(s(0.5)))
    scheduler = bench.scheduler()
    turn = scheduler.turn(0, room=0, ahead=8)
    assert (turn.started, len(turn.armed)) == ([], 1)
    assert (bench.runs("due"), bench.runs("soon")) == ([], [(0.5, 1, "claimed")])


def test_a_turn_that_is_to_claim_nothing_claims_nothing(bench: Bench) -> None:
    bench.add()
    assert bench.scheduler().turn(0, ahead=-1).started == []
    assert bench.runs() == []


def test_firings_at_the_time_to_stop_and_after_it_are_left_alone(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    assert scheduler.turn(0, until_us=s(0)).started == []
    assert scheduler.turn(-0.5, until_us=s(0)).armed == []
    assert times(scheduler.turn(0, until_us=s(0) + 1)) == [0]


def test_a_one_shot_is_done_once_it_has_run_and_its_id_is_free_again(bench: Bench) -> None:
    bench.add(time=from_us(s(0)), at=-10)
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    assert bench.next() is None
    scheduler.finish(run, 1)
    assert scheduler.turn(100).started == []
    assert recovery.idle(bench.database)
    bench.add(time=from_us(s(200)), at=100)
    assert times(scheduler.turn(200)) == [200]
    assert [status for _, _, status in bench.runs()] == ["succeeded", "running"]


def test_an_outage_is_one_record_and_the_last_firing_of_it_runs(bench: Bench) -> None:
    bench.add()
    turn = bench.scheduler().turn(605)
    assert [(run.scheduled_us, run.trigger) for run in turn.started] == [(s(600), "catchup")]
    assert bench.unrun() == [(0, 540, 10, "missed", "outside-catchup-window")]
    assert [(unrun.count, unrun.reason) for unrun in turn.unrun] == [(10, "outside-catchup-window")]


def test_jitter_moves_the_start_and_not_the_identity(bench: Bench) -> None:
    bench.add(interval=3600, start=from_us(s(0)), jitter=1800)
    (wake_us,) = bench.ask("SELECT wake_us FROM schedules")
    later = (wake_us - s(0)) / 1e6
    scheduler = bench.scheduler()
    assert scheduler.turn(later - 2).started == []
    (armed,) = scheduler.turn(later - 0.5).armed
    assert armed.due_us == wake_us
    assert times(scheduler.turn(later, due=[armed.run_id])) == [0]


def test_what_another_scheduler_claimed_and_does_not_start_is_taken_after_five_seconds(
    bench: Bench,
) -> None:
    bench.add()
    stopped, other = bench.scheduler(), bench.scheduler()
    (armed,) = stopped.turn(-0.5).armed
    assert other.turn(4.999999).started == []
    waiting = other.turn(4.999999)
    assert waiting.next_us == s(6)  # whoever looks, looks a second ahead
    assert times(other.turn(5)) == [0]
    assert stopped.turn(6, due=[armed.run_id]).lost == [armed.run_id]


def test_what_is_taken_too_late_for_its_window_is_missed(bench: Bench) -> None:
    bench.add()
    stopped, other = bench.scheduler(), bench.scheduler()
    stopped.turn(-0.5)
    turn = other.turn(60, since=0, room=1)
    assert turn.unrun[0].reason == "outside-catchup-window"
    assert bench.runs()[0] == (0, 1, "missed")


def test_a_damaged_row_is_put_aside_and_stops_nothing_else(bench: Bench) -> None:
    bench.add("bad", cron="* * * * *")
    bench.add("good")
    bench.database.execute("UPDATE schedules SET cron = 'nonsense' WHERE schedule_id = 'bad'")
    scheduler = bench.scheduler()
    turn = scheduler.turn(60)
    assert [run.schedule_id for run in turn.started] == ["good"]
    assert [schedule_id for schedule_id, _ in turn.bad] == ["bad"]
    assert scheduler.turn(120, since=0).bad == []
    assert bench.ask("SELECT count(*) FROM schedules") == [2]


def test_a_manual_trigger_is_an_extra_run_whatever_the_schedule_does(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    changes.pause(bench.database, ["job"], s(-100))
    run_id = runs.trigger(bench.database, "job", s(-90))
    turn = scheduler.turn(-89)
    assert [(run.run_id, run.trigger, run.manual_key > 0) for run in turn.started] == [
        (run_id, "manual", True)
    ]


def test_a_turn_tells_when_it_is_to_look_again(bench: Bench) -> None:
    scheduler = bench.scheduler()
    assert scheduler.turn(0).next_us is None
    bench.add("late", interval=3600, start=from_us(s(3600)))
    assert scheduler.turn(0).next_us == s(3600)
    bench.add("soon", interval=600, start=from_us(s(600)))
    assert scheduler.turn(0).next_us == s(600)
    runs.trigger(bench.database, "late", s(100))
    assert scheduler.turn(0).next_us == s(100)


def test_the_others_that_serve_are_listed_until_they_leave(bench: Bench) -> None:
    first, second = bench.scheduler(), bench.scheduler()
    assert [other.token for other in first.turn(0).others or ()] == [second.entry.token]
    claims.release(bench.database, [second.owner])
    bench.take_over([second.entry], 1)
    assert first.turn(2).others == []


@pytest.mark.parametrize("heartbeat", [True, False])
def test_a_sign_of_life_is_put_on_record_when_asked(bench: Bench, heartbeat: bool) -> None:
    scheduler = bench.scheduler()
    scheduler.turn(90, heartbeat=heartbeat)
    assert bench.ask("SELECT seen_us FROM owners") == [s(90 if heartbeat else 0)]


def test_two_connections_see_one_identity(bench: Bench) -> None:
    """The promise is kept by the database, not by the code that asks it nicely."""
    bench.add()
    bench.scheduler().turn(0)
    insert = """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
                due_us) VALUES ('job', 'm:f', ?1, 1, 'schedule', 'claimed', ?1)
                ON CONFLICT DO NOTHING"""
    other = open_for_writing(bench.path)
    try:
        assert other.execute(insert, (s(0),)).rowcount == 0
    finally:
        other.close()


def test_a_claim_of_what_only_a_damaged_index_has_is_not_tried_for_ever(bench: Bench) -> None:
    scheduler = bench.scheduler()
    for number in range(3):
        bench.database.execute(
            """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
                   due_us) VALUES (?, 'm:f', 0, 1, 'manual', 'waiting', 0)""",
            (f"job{number}",),
        )
    (page,) = bench.ask("SELECT rootpage FROM sqlite_schema WHERE name = 'runs_waiting'")
    bench.database.close()
    scheduler.database.close()
    with bench.path.open("r+b") as file:
        file.seek((page - 1) * 4096 + 10)
        file.write(bytes(4))  # where in the page the last two of its entries are
    scheduler.database = open_for_writing(bench.path)
    with pytest.raises(DamagedDatabaseError, match="Offset 0 out of range"):
        scheduler.turn(0)


def test_a_schedule_that_is_due_before_its_firing_is_put_aside_and_nothing_waits_for_that(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    later = "UPDATE schedules SET next_us = ?, wake_us = ?"
    bench.database.execute(later, (s(1_000_000), s(1)))
    first, second = scheduler.turn(1), scheduler.turn(2)
    assert [schedule_id for schedule_id, _ in first.bad] == ["job"]
    assert (first.started, first.armed, second.bad) == ([], [], [])


def test_a_schedule_that_only_a_damaged_index_has_as_due_is_not_put_aside_for_ever(
    bench: Bench,
) -> None:
    for name in ("first", "done", "due"):
        bench.add(schedule_id=name)
    scheduler = bench.scheduler()
    over = "UPDATE schedules SET next_us = NULL, wake_us = NULL WHERE schedule_id != 'due'"
    bench.database.execute(over)
    ((due, wake_us),) = bench.ask("SELECT seq, wake_us FROM schedules WHERE wake_us IS NOT NULL")
    (done,) = bench.ask("SELECT seq FROM schedules WHERE schedule_id = 'done'")
    bench.database.close()
    scheduler.database.close()
    data, entry = bench.path.read_bytes(), wake_us.to_bytes(8)
    assert data.count(entry + bytes([due])) == 1
    bench.path.write_bytes(data.replace(entry + bytes([due]), entry + bytes([done])))
    scheduler.database = open_for_writing(bench.path)
    with pytest.raises(DamagedDatabaseError, match="an index has what its table has not"):
        scheduler.turn(60)


def test_a_schedule_that_had_more_dispatches_than_it_may_is_over(bench: Bench) -> None:
    bench.add(max_runs=2, coalesce="all", catchup_window="unlimited")
    bench.database.execute("UPDATE schedules SET dispatched = 3")
    turn = bench.scheduler().turn(300)
    assert (turn.started, turn.next_us, bench.next()) == ([], None, None)

"""Once the clock was put back, nothing waits for longer than if it had shown this time before."""

from dataclasses import replace

from sqlsched.instants import from_us
from sqlsched.storage import changes, runs, set_back

from .bench import Bench, ran, s, times


def test_after_a_step_back_nothing_is_parked_in_the_future_and_nothing_runs_twice(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(5):
        ran(scheduler, 60 * minute)
    assert set_back.pull_back(bench.database, s(90)) == 1
    assert bench.next() == 120
    assert [times(scheduler.turn(60 * minute, since=0)) for minute in range(2, 6)] == [
        *([], [], []),
        [300],
    ]


def test_a_step_back_moves_no_one_shot_and_nothing_that_is_in_its_place(bench: Bench) -> None:
    bench.add("once", time=from_us(s(500)))
    bench.add("regular")
    assert set_back.pull_back(bench.database, s(-90)) == 0
    assert (bench.next("once"), bench.next("regular")) == (500, 0)


def test_a_step_back_leaves_a_pause_in_force(bench: Bench) -> None:
    bench.add()
    ran(bench.scheduler(), 0)
    changes.pause(bench.database, ["job"], s(10))
    set_back.pull_back(bench.database, s(-30))
    assert bench.ask("SELECT next_us, wake_us FROM schedules") == [(s(0), None)]


def test_a_step_back_repeats_nothing_that_the_ledger_has_forgotten(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(5):
        ran(scheduler, 60 * minute)
    assert bench.forget(200) == 4
    set_back.pull_back(bench.database, s(30))
    assert bench.next() == 240
    assert [times(scheduler.turn(at, since=0)) for at in (60, 180, 240, 300)] == [[], [], [], [300]]


def test_a_damaged_row_keeps_no_other_from_being_pulled_back(bench: Bench) -> None:
    bench.add("bad", cron="* * * * *")
    bench.add("good")
    ran(bench.scheduler(), 0)
    bench.database.execute("UPDATE schedules SET cron = 'nonsense' WHERE schedule_id = 'bad'")
    assert set_back.pull_back(bench.database, s(-30)) == 1
    assert bench.next("good") == 0


def test_an_interval_made_by_a_clock_that_was_put_back_goes_on_in_its_steps(bench: Bench) -> None:
    bench.add("interval", at=3600, interval=600)
    assert bench.next("interval") == 4200
    assert set_back.pull_back(bench.database, s(-6250)) == 1
    assert bench.next("interval") == -6000
    scheduler = bench.scheduler()
    ran(scheduler, -6000)
    ran(scheduler, -5400)
    assert bench.next("interval") == -4800


def test_an_interval_with_a_start_waits_for_it_whatever_the_clock_shows(bench: Bench) -> None:
    bench.add()
    ran(bench.scheduler(), 0)
    set_back.pull_back(bench.database, s(-86_400))
    assert bench.next() == 0


def test_what_ran_before_a_step_back_is_not_missed_when_the_clock_leaps_over_it(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(5):
        ran(scheduler, 60 * minute)
    set_back.pull_back(bench.database, s(90))
    turn = scheduler.turn(600)
    assert times(turn) == [600]
    assert bench.unrun() == [(300, 540, 5, "missed", "outside-catchup-window")]
    assert [unrun.count for unrun in turn.unrun] == [5]


def test_a_leap_over_nothing_but_what_ran_is_on_no_record(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(5):
        ran(scheduler, 60 * minute)
    set_back.pull_back(bench.database, s(-90))
    assert times(scheduler.turn(230)) == []
    assert bench.unrun() == []
    ran(scheduler, 300)


def test_what_ran_amid_a_stretch_parts_it(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    ran(scheduler, 120)
    set_back.pull_back(bench.database, s(-90))
    scheduler.turn(299)
    window = ("missed", "outside-catchup-window")
    assert bench.unrun() == [(0, 60, 2, *window), (180, 180, 1, *window)]


def test_what_was_given_up_and_lies_ahead_again_is_taken_off_the_record_and_runs(
    bench: Bench,
) -> None:
    bench.add()
    scheduler = bench.scheduler()
    ran(scheduler, 600)
    assert bench.unrun() == [(0, 540, 10, "missed", "outside-catchup-window")]
    set_back.pull_back(bench.database, s(200))
    assert bench.unrun() == [(0, 180, 4, "missed", "outside-catchup-window")]
    for second in (240, 300):
        ran(scheduler, second)
    scheduler.turn(1200)
    window = ("missed", "outside-catchup-window")
    assert bench.unrun()[1:] == [(360, 540, 4, *window), (660, 1140, 9, *window)]


def test_of_a_time_before_the_first_firing_nothing_is_left_on_record(bench: Bench) -> None:
    bench.add()
    bench.scheduler().turn(630)
    set_back.pull_back(bench.database, s(-200))
    assert (bench.unrun(), bench.runs()) == ([], [(600, 1, "running")])


def test_a_schedule_that_was_over_goes_on_with_what_it_had_given_up(bench: Bench) -> None:
    bench.add(end=from_us(s(300)))
    bench.add("once", time=from_us(s(300)), catchup_window=60)
    scheduler = bench.scheduler()
    assert times(scheduler.turn(1000)) == []
    assert (bench.next(), bench.next("once")) == (None, None)
    set_back.pull_back(bench.database, s(200))
    assert (bench.next(), bench.next("once")) == (240, 300)
    assert bench.unrun("once") == []
    ran(scheduler, 240)
    assert times(scheduler.turn(300)) == [300, 300]


def test_a_one_shot_that_ran_is_done_for_good(bench: Bench) -> None:
    bench.add("once", time=from_us(s(300)))
    ran(bench.scheduler(), 300)
    set_back.pull_back(bench.database, s(200))
    assert bench.next("once") is None


def test_a_schedule_that_has_had_all_its_runs_stays_over(bench: Bench) -> None:
    bench.add(max_runs=1)
    ran(bench.scheduler(), 300)
    set_back.pull_back(bench.database, s(200))
    assert bench.unrun() == [(0, 180, 4, "missed", "outside-catchup-window")]
    assert bench.next() is None


def test_what_a_schedule_missed_before_an_edit_stays_on_record(bench: Bench) -> None:
    bench.add()
    bench.scheduler().turn(630)
    edited = lambda schedule: replace(schedule, interval=90, end=from_us(s(5000)))  # noqa: E731
    changes.edit(bench.database, "job", edited, s(640))
    set_back.pull_back(bench.database, s(200))
    assert bench.unrun() == [(0, 540, 10, "missed", "outside-catchup-window")]
    assert bench.next() == 270


def due(bench: Bench) -> list[float]:
    return bench.ask("SELECT (due_us - ?) / 1e6 FROM runs ORDER BY run_id", s(0))


def test_what_was_refused_or_triggered_goes_at_once(
    bench: Bench,
) -> None:
    bench.add("refused", end=from_us(s(0)))
    bench.add("ahead", time=from_us(s(20.5)))
    bench.add("manual", time=from_us(s(10**6)))
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.turn(15, refused=[(run.run_id, s(45))])
    runs.trigger(bench.database, "manual", s(20))
    scheduler.turn(20, room=0)
    assert due(bench) == [45, 20, 20.5]
    set_back.pull_back(bench.database, s(10))
    assert due(bench) == [10, 10]
    assert [us for _, us in set_back.claimed(bench.database, scheduler.owner)] == [s(10)]
    assert bench.next("ahead") == 20.5


def test_claims_of_firings_that_are_ahead_again_go_back_into_their_schedules(
    bench: Bench,
) -> None:
    bench.add(end=from_us(s(0)))
    bench.add("once", time=from_us(s(0)))
    scheduler = bench.scheduler()
    armed = [run.run_id for run in scheduler.turn(-0.5).armed]
    assert (len(armed), bench.next(), bench.next("once")) == (2, None, None)
    set_back.pull_back(bench.database, s(-100))
    assert bench.runs() == []
    assert (bench.next(), bench.next("once")) == (0, 0)
    lost = scheduler.turn(0, due=armed, ahead=-1)
    assert (sorted(lost.lost), lost.started) == (sorted(armed), [])
    assert times(scheduler.turn(2)) == [0, 0]


def test_a_one_shot_whose_claim_is_taken_back_waits_for_its_time_whatever_was_forgotten(
    bench: Bench,
) -> None:
    bench.add("once", time=from_us(s(0)))
    bench.add("job")
    scheduler = bench.scheduler(-1)
    once, job = sorted(scheduler.turn(0).started, key=lambda run: run.schedule_id != "once")
    scheduler.finish(job, 1, refused=[(once.run_id, s(31))])
    for second in (60, 120, 180):
        ran(scheduler, second)
    assert bench.forget(3600)
    set_back.pull_back(bench.database, s(-1800))
    assert (bench.runs("once"), bench.next("once")) == ([], 0)

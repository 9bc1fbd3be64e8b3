"""`why`: the decision and its paragraph, from the record that the ledger's own functions left."""

import os
import pwd
import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from sqlsched.exceptions import ScheduleNotFoundError
from sqlsched.explain.evidence import Asked
from sqlsched.explain.why import Decision, decide
from sqlsched.instants import MINUTE_US, SECOND_US, from_us, to_us
from sqlsched.planner import Moment
from sqlsched.storage import changes, evidence, mirror, runs
from sqlsched.storage.connection import Database
from sqlsched.timezones import zone_info

from .bench import NOON_US, Bench, s

PID = os.getpid()
ME = f"{pwd.getpwuid(os.geteuid()).pw_name} (pid {PID})"


def why(
    bench: Bench, at: float | None = None, *, now: float, name: str = "job", span: int = MINUTE_US
) -> Decision:
    """Asked at `now` of the minute from `at`, in seconds after noon."""
    asked = None if at is None else Asked(s(at), span)
    return decide(evidence.gather(bench.database, name, asked, s(now)))


def verdict(decision: Decision) -> tuple[str, str, int | None]:
    return decision.decision, decision.reason, decision.run_id


def text(decision: Decision) -> str:
    """Its words, with 12:01:00 for 2027-01-15T12:01:00+00:00."""
    return re.sub(r"2027-01-15T([\d:.]+)\+00:00", r"\1", decision.text)


def edit(bench: Bench, at: float, **fields: Any) -> None:
    changes.edit(bench.database, "job", lambda there: replace(there, **fields), s(at))


# -- dispatched -----------------------------------------------------------------------------------


def test_a_run_is_told_with_who_started_it_how_late_and_how_it_ended(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0.25, since=0).started
    assert text(why(bench, 0, now=1)) == (
        f"The firing of job at 12:00:00 was dispatched: run 1 was started by pid {PID} at "
        "12:00:00.250, 250 ms after it was due, and has been running for 750 ms."
    )
    scheduler.finish(run, 90.25)
    decision = why(bench, 0, now=100)
    assert verdict(decision) == ("dispatched", "schedule", 1)
    assert (decision.schedule_id, decision.at_us, decision.scheduled_us) == ("job", s(0), s(0))
    assert text(decision).endswith("250 ms after it was due, and succeeded after 1m30s.")


def test_without_a_time_it_is_the_latest_decision(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    scheduler.finish(scheduler.turn(60).started[0], 61)
    decision = why(bench, now=90)
    assert (decision.scheduled_us, decision.at_us, decision.run_id) == (s(60), s(60), 2)


def test_attempts_are_told_one_by_one(bench: Bench) -> None:
    bench.add(retries=2)
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 2, "failed")
    waiting = why(bench, 0, now=3)
    assert verdict(waiting) == ("dispatched", "schedule", 1)
    assert text(waiting).endswith(
        f"by pid {PID} at 12:00:00, on time, and failed after 2.0 s. "
        "Attempt 2, run 2, waits until 12:00:12."
    )
    scheduler.finish(scheduler.turn(12).started[0], 13)
    assert verdict(why(bench, 0, now=14)) == ("dispatched", "schedule", 2)
    assert text(why(bench, 0, now=14)).endswith(
        f"Attempt 2, run 2, was started by pid {PID} at 12:00:12, and succeeded after 1.0 s."
    )


def test_of_many_attempts_the_first_and_the_last_are_told(bench: Bench) -> None:
    bench.add(retries=9, retry_delay=1)
    scheduler = bench.scheduler()
    at = 0.0
    for _ in range(6):
        scheduler.finish(scheduler.turn(at).started[0], at + 0.5, "failed")
        at += 50
    told = text(why(bench, 0, now=at))
    assert "run 1 was started" in told
    assert "2 more attempts followed. Attempt 4, run " in told
    assert "Attempt 6" in told
    assert "Attempt 3," not in told


def test_a_retry_that_waits_while_nobody_is_running_says_so(bench: Bench) -> None:
    bench.add(retries=1)
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 2, "failed")
    scheduler.stop(5)
    assert text(why(bench, 0, now=9)).endswith(
        f"waits until 12:00:12. Nobody has been running since 12:00:05, when pid {PID} ended."
    )


def test_a_run_that_is_late_because_nobody_was_running_says_from_when_to_when(
    bench: Bench,
) -> None:
    bench.add()
    bench.scheduler(-90).stop(-30)
    bench.scheduler(40).turn(40)
    assert verdict(why(bench, 0, now=41)) == ("dispatched", "catchup", 1)
    assert text(why(bench, 0, now=41)).endswith(
        "40.0 s after it was due, to catch up, and has been running for 1.0 s. Nobody was running "
        f"from 11:59:30, when pid {PID} ended, to 12:00:40, when pid {PID} started."
    )


def test_jitter_is_no_lateness(bench: Bench) -> None:
    bench.add(jitter=30)
    scheduler = bench.scheduler()
    pending = why(bench, 0, now=0)
    assert verdict(pending) == ("pending", "not-yet", None)
    assert text(pending).endswith("is to start at 12:00:19.241, which includes its jitter.")
    scheduler.turn(20, since=0)
    assert "758 ms after it was due (12:00:19.241 with its jitter)" in text(why(bench, 0, now=20))


def test_a_one_shot_that_was_added_after_its_time_says_so(bench: Bench) -> None:
    bench.add(time=from_us(s(-500)), at=0)
    bench.scheduler().turn(1)
    assert text(why(bench, -500, now=2)).endswith(
        "The schedule was added at 12:00:00, after its time."
    )


def test_a_manual_run_is_told_as_one(bench: Bench) -> None:
    bench.add()
    runs.trigger(bench.database, "job", s(-30))
    bench.scheduler(-40).turn(-29)
    decision = why(bench, -30, now=-10, span=SECOND_US)
    assert verdict(decision) == ("dispatched", "manual", 1)
    assert text(decision).startswith("The run of job that was asked for by hand at 11:59:30 was")
    assert verdict(why(bench, now=-10)) == ("dispatched", "manual", 1)


def test_a_firing_comes_before_a_manual_run_of_the_same_minute(bench: Bench) -> None:
    bench.add()
    bench.scheduler().turn(0, ahead=0)
    runs.trigger(bench.database, "job", s(1))
    assert why(bench, 0, now=2).run_id == 1
    assert why(bench, now=2).run_id == 2


def test_a_run_whose_process_died_is_not_said_to_go_on(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.turn(0)
    scheduler.lock.release()
    told = text(why(bench, 0, now=30))
    assert told.endswith(f"was running when pid {PID} died; the next `run` will find that.")
    bench.take_over([scheduler.entry], 100)
    abandoned = why(bench, 0, now=120)
    assert verdict(abandoned) == ("abandoned", "owner-died", 1)
    assert "nobody knows how far it had come" in text(abandoned)


# -- skipped, missed, cancelled -------------------------------------------------------------------


def test_overlap_names_the_run_that_stood_in_the_way(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.turn(60)
    decision = why(bench, 60, now=61)
    assert verdict(decision) == ("skipped", "overlap", 2)
    start = (
        "The firing of job at 12:01:00 was skipped: run 1, for 12:00:00, was still going: it was "
        f"started by pid {PID} at 12:00:00 and "
    )
    policy = "Its overlap policy is skip, the default."
    assert text(decision) == f"{start}is running yet. {policy}"
    scheduler.finish(run, 90)
    assert text(why(bench, 60, now=100)) == f"{start}ended at 12:01:30. {policy}"


def test_a_run_that_stood_in_the_way_and_is_forgotten_is_named_all_the_same(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 200, ahead=0)
    bench.database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status, reason,
               due_us, because_of, finished_us)
           VALUES ('job', 'm:f', ?1, 1, 'schedule', 'skipped', 'overlap', ?1, 77, ?1)""",
        (s(60),),
    )
    told = text(why(bench, 60, now=100))
    assert told.endswith("run 77, which is on record no more, was still going then.")


def test_a_buffered_firing_names_the_run_that_it_waits_for(bench: Bench) -> None:
    bench.add(overlap="buffer-all")
    scheduler = bench.scheduler()
    scheduler.turn(0)
    scheduler.turn(60)
    decision = why(bench, 60, now=61)
    assert verdict(decision) == ("pending", "overlap", 2)
    assert text(decision).endswith("run 2 waits for run 1, as its overlap policy is buffer-all.")


def test_a_run_that_gave_way_names_the_one_that_took_its_place(bench: Bench) -> None:
    bench.add(overlap="cancel-other")
    scheduler = bench.scheduler()
    (run,) = scheduler.turn(0).started
    scheduler.turn(60)
    end = replace_reason(run.run_id, s(61))
    scheduler.turn(61, finished=[end])
    decision = why(bench, 0, now=62)
    assert verdict(decision) == ("cancelled", "overlap", 1)
    assert "run 2, for a later firing, took its place" in text(decision)


def replace_reason(run_id: int, finished_us: int) -> Any:
    from sqlsched.storage.turn import Finished

    return Finished(run_id, "cancelled", finished_us, reason="overlap")


def test_a_pause_is_told_with_since_when_by_whom_and_why(bench: Bench) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(-10), note="until the bank opens")
    decision = why(bench, 60, now=100)
    assert verdict(decision) == ("skipped", "paused", None)
    assert text(decision) == (
        "The firing of job at 12:01:00 was skipped: its schedule is paused since 11:59:50 by "
        f'{ME} with the note "until the bank opens".'
    )
    assert verdict(why(bench, now=100)) == ("skipped", "paused", None)
    to_come = why(bench, 120, now=100)
    assert verdict(to_come) == ("pending", "paused", None)
    assert text(to_come).endswith("it runs then only if it is resumed.")


def test_a_pause_that_is_over_is_told_with_who_ended_it(bench: Bench) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(-10))
    changes.resume_all(bench.database, ["job"], s(130))
    decision = why(bench, 60, now=500)
    assert verdict(decision) == ("skipped", "paused", 1)
    assert text(decision) == (
        f"The firing of job at 12:01:00 was skipped: its schedule was paused since 11:59:50 by {ME}"
        f", until 12:02:10, when {ME} resumed it. One record, run 1, stands for it and the others "
        "of 3 firings from 12:00:00 to 12:02:00."
    )


def test_a_later_pause_is_not_taken_for_the_one_of_then(bench: Bench) -> None:
    bench.add()
    for at in (-10, 300):
        changes.pause(bench.database, ["job"], s(at), note=f"note {at}")
        changes.resume_all(bench.database, ["job"], s(at + 140))
    assert '"note -10"' in text(why(bench, 60, now=1000))
    assert '"note 300"' in text(why(bench, 360, now=1000))


def test_a_schedule_that_was_added_paused_says_so(bench: Bench) -> None:
    bench.add(time=from_us(s(0)), paused=True)
    decision = why(bench, 0, now=100)
    assert verdict(decision) == ("pending", "paused", None)
    assert text(decision).endswith(
        "its schedule is paused since 11:58:20, as it was added so; it runs when it is resumed."
    )
    changes.resume_all(bench.database, ["job"], s(200))
    assert verdict(why(bench, 0, now=300)) == ("pending", "nobody-running", None)


def test_a_pause_from_before_the_record_says_that_nobody_is_on_record(bench: Bench) -> None:
    bench.add()
    bench.database.execute("UPDATE schedules SET paused_us = ?, wake_us = NULL", (s(-5),))
    assert "paused since 11:59:55, by whom is not on record" in text(why(bench, 0, now=9))


def test_outside_the_window_says_who_was_not_there(bench: Bench) -> None:
    bench.add()
    bench.scheduler(-60).stop(-20)
    bench.scheduler(310).turn(310)
    decision = why(bench, 60, now=400)
    assert verdict(decision) == ("missed", "outside-catchup-window", 1)
    assert text(decision) == (
        "The firing of job at 12:01:00 was missed: nobody was running from 11:59:40, when pid "
        f"{PID} ended, to 12:05:10, when pid {PID} started, and it was older than its catch-up "
        "window (60 s, unless `run --catchup-window` says otherwise) when that was found at "
        "12:05:10. One record, run 1, stands for it and the others of 5 firings from 12:00:00 to "
        "12:04:00."
    )


def test_a_process_that_died_ended_after_its_last_sign_of_life(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler(-60)
    scheduler.turn(0)
    scheduler.lock.release()
    told = text(why(bench, 60, now=61))
    assert f"since 12:00:00, when pid {PID} gave its last sign of life before it died" in told
    bench.take_over([scheduler.entry], 61)
    assert text(why(bench, 60, now=61)) == told


def test_outside_the_window_though_somebody_was_running_says_that(bench: Bench) -> None:
    bench.add(catchup_window=5)
    bench.scheduler().turn(10)
    assert text(why(bench, 0, now=11)).endswith(
        f"was missed: pid {PID} was running and did not start it, and it was older than its "
        "catch-up window (5s) when that was found at 12:00:10."
    )


@pytest.mark.parametrize(("policy", "asked", "into"), [("latest", 60, 300), ("earliest", 300, 0)])
def test_a_coalesced_firing_names_the_one_that_ran_for_it(
    bench: Bench, policy: str, asked: float, into: float
) -> None:
    bench.add(catchup_window="unlimited", coalesce=policy)
    bench.scheduler(310).turn(310)
    decision = why(bench, asked, now=400)
    assert (decision.decision, decision.reason) == ("missed", "coalesced")
    ran = why(bench, into, now=400)
    assert ran.decision == "dispatched"
    assert f"late only that at {from_us(s(into)):%H:%M:%S} ran, run {ran.run_id} (" in text(
        decision
    )


def test_first_run_skipped_says_so(bench: Bench) -> None:
    from sqlsched.storage import claims
    from sqlsched.storage.turn import Request

    bench.add()
    scheduler = bench.scheduler(30)
    moment = Moment(s(30), s(60), not_before_us=s(60))
    claims.turn(scheduler.database, Request(scheduler.owner, scheduler.entry.token, moment, 8, 8))
    decision = why(bench, 0, now=31)
    assert verdict(decision) == ("skipped", "first-run", 1)
    assert "was told to skip the first run" in text(decision)


def test_expired_says_within_what(bench: Bench) -> None:
    bench.add(expires=10, catchup_window="unlimited")
    bench.scheduler().turn(30)
    decision = why(bench, 0, now=31)
    assert verdict(decision) == ("missed", "expired", 1)
    assert "had not started within 10s" in text(decision)


def test_a_cancelled_run_says_that_somebody_asked_for_it(bench: Bench) -> None:
    bench.add(overlap="buffer-all")
    scheduler = bench.scheduler()
    scheduler.turn(0)
    scheduler.turn(60)
    runs.cancel(bench.database, 2, s(70))
    decision = why(bench, 60, now=71)
    assert verdict(decision) == ("cancelled", "requested", 2)
    assert "`sqlsched cancel`" in text(decision)


def test_a_reason_that_is_not_known_is_told_as_it_is_on_record(bench: Bench) -> None:
    bench.add()
    bench.scheduler().turn(0)
    bench.database.execute(
        """UPDATE runs SET status = 'cancelled', reason = 'pre-send', error = 'not today',
           started_us = NULL, finished_us = ?""",
        (s(0),),
    )
    decision = why(bench, 0, now=9)
    assert verdict(decision) == ("cancelled", "pre-send", 1)
    assert text(decision).endswith("the reason on record is pre-send: not today.")


# -- edited, removed, not there -------------------------------------------------------------------


def test_what_was_due_before_an_edit_is_judged_by_the_trigger_of_then(bench: Bench) -> None:
    bench.add()
    edit(bench, 70, interval=None, start=None, cron="0 0 * * *")
    decision = why(bench, 60, now=1000)
    assert verdict(decision) == ("missed", "edited", 1)
    assert text(decision).endswith(
        f"The schedule was every 1m then, and was edited at 12:01:10 by {ME}."
    )
    later = why(bench, 120, now=1000)
    assert verdict(later) == ("not-due", "no-firing", None)
    assert "it is 0 0 * * * in UTC" in text(later)


def test_a_moment_that_only_the_trigger_of_then_left_out_says_what_it_was(bench: Bench) -> None:
    bench.add(cron="0 0 * * *")
    edit(bench, 70, cron="* * * * *")
    decision = why(bench, 0, now=1000)
    assert verdict(decision) == ("not-due", "no-firing", None)
    assert text(decision).endswith(
        f"The schedule was 0 0 * * * in UTC then, and was edited at 12:01:10 by {ME}."
    )


def test_of_several_edits_the_one_after_counts(bench: Bench) -> None:
    bench.add(cron="0 0 * * *")
    edit(bench, 70, cron="0 1 * * *")
    edit(bench, 80, cron="0 2 * * *")
    assert "0 0 * * * in UTC then" in text(why(bench, 70, now=100, span=1))
    assert "0 1 * * * in UTC then" in text(why(bench, 75, now=100, span=1))
    assert "it is 0 2 * * * in UTC" in text(why(bench, 90, now=100, span=1))


def test_a_removed_schedule_is_remembered(bench: Bench) -> None:
    bench.add()
    changes.remove(bench.database, ["job"], s(70))
    assert evidence.find(bench.database, "job") == "job"
    assert verdict(why(bench, 60, now=100)) == ("cancelled", "removed", 1)
    gone = why(bench, 120, now=200)
    assert verdict(gone) == ("not-due", "removed", None)
    assert text(gone) == (
        f"job was not due in the minute of 12:02:00: it was removed at 12:01:10 by {ME}."
    )
    bench.add(at=300)
    assert text(why(bench, 120, now=400)).endswith("and added at 12:05:00 again.")
    assert why(bench, 360, now=400).decision == "pending"


def test_before_it_was_added_it_was_not_there(bench: Bench) -> None:
    bench.add(at=90)
    decision = why(bench, 0, now=100)
    assert verdict(decision) == ("not-due", "not-added", None)
    assert text(decision).endswith("it was added at 12:01:30.")


def test_a_schedule_that_never_was_is_not_found(bench: Bench) -> None:
    with pytest.raises(ScheduleNotFoundError, match="'nothing'"):
        evidence.find(bench.database, "nothing")


def test_what_several_machines_share_may_have_run_on_another(bench: Bench) -> None:
    bench.add()
    bench.database.execute(
        "UPDATE schedules SET shared = 1, source = 'redis', next_us = ?", (s(600),)
    )
    decision = why(bench, 0, now=300)
    assert verdict(decision) == ("not-due", "no-record", None)
    assert "another one may have run it" in text(decision)


def test_what_a_source_changed_names_the_source(bench: Bench) -> None:
    from sqlsched.scheduled_task import ScheduledTask

    for at, cron in ((-100, "* * * * *"), (70, "0 0 * * *")):
        task = ScheduledTask(task_name="m:f", schedule_id="job", cron=cron)
        mirror.sync(bench.database, "labels", [task], s(at))
    assert text(why(bench, 0, now=100)).endswith(f"by its source labels (pid {PID}).")


# -- pending and bounds ---------------------------------------------------------------------------


def test_due_while_nobody_is_running_says_what_a_run_would_make_of_it(bench: Bench) -> None:
    bench.add()
    assert text(why(bench, 0, now=30)) == (
        "The firing of job at 12:00:00 is due, and nobody has been running yet. "
        "`sqlsched run` would start it now."
    )
    assert verdict(why(bench, now=30)) == ("pending", "nobody-running", None)
    assert text(why(bench, 0, now=90)).endswith(
        "`sqlsched run` would record it as missed now (outside-catchup-window)."
    )


def test_a_firing_to_come_is_pending(bench: Bench) -> None:
    bench.add()
    bench.scheduler(-50)
    assert verdict(why(bench, now=-40)) == ("pending", "not-yet", None)
    assert text(why(bench, 60, now=-40)) == (
        "The firing of job at 12:01:00 is to start at 12:01:00."
    )


def test_no_room_says_who_has_claimed_it_and_how_much_goes_there(bench: Bench) -> None:
    bench.add("a")
    bench.add("job")
    bench.scheduler().turn(0, room=1, alone=True)
    decision = why(bench, 0, now=5)
    assert verdict(decision) == ("pending", "no-room", 2)
    assert text(decision).endswith(
        f"run 2 is claimed by pid {PID}, which starts it when it has room; 1 run is going there."
    )


def test_not_claimed_though_somebody_is_running_says_by_whom(bench: Bench) -> None:
    bench.add()
    bench.scheduler()
    decision = why(bench, 0, now=5)
    assert verdict(decision) == ("pending", "not-started", None)
    assert f"not yet claimed by pid {PID}" in text(decision)


def test_bounds_are_named(bench: Bench) -> None:
    bench.add(cron="* * * * *", start=from_us(s(120)), end=from_us(s(300)))
    early, late = why(bench, 0, now=1000), why(bench, 360, now=1000)
    assert verdict(early) == verdict(late) == ("not-due", "bounds", None)
    assert text(early).endswith("its start is 12:02:00.")
    assert text(late).endswith("its end was 12:05:00.")


def test_max_runs_names_the_last_run(bench: Bench) -> None:
    bench.add(max_runs=1)
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 2)
    decision = why(bench, 60, now=100)
    assert verdict(decision) == ("not-due", "bounds", None)
    assert text(decision).endswith("its max_runs, 1, had been reached with run 1, for 12:00:00.")
    assert verdict(why(bench, now=100)) == ("dispatched", "schedule", 1)


def test_not_due_names_the_neighbours(bench: Bench) -> None:
    bench.add()
    assert text(why(bench, 90, now=95, span=SECOND_US)) == (
        "job was not due at 12:01:30: it is every 1m. Of its firings the one before was at "
        "12:01:00 and the next is at 12:02:00."
    )


def test_a_minute_means_the_first_firing_in_it_and_a_second_the_one_in_it(bench: Bench) -> None:
    bench.add(interval=20, start=from_us(s(5)))
    assert why(bench, 60, now=0).scheduled_us == s(65)
    assert why(bench, 85, now=0, span=SECOND_US).scheduled_us == s(85)
    assert why(bench, 86, now=0, span=SECOND_US).scheduled_us is None
    scheduler = bench.scheduler()
    for at in (5, 25, 45):
        scheduler.finish(scheduler.turn(at).started[0], at + 1)
    assert why(bench, 0, now=50).run_id == 1


# -- clock changes --------------------------------------------------------------------------------


def berlin(text: str) -> int:
    zone = zone_info("Europe/Berlin")
    return to_us(datetime.fromisoformat(text).replace(tzinfo=zone))


@pytest.fixture
def spring(bench: Bench) -> Database:
    """A job at half past two in Berlin, which on 28 March 2027 does not come."""
    bench.add(cron="30 2 * * *", cron_offset="Europe/Berlin", at=0)
    return bench.database


def test_a_minute_that_the_clock_skipped_is_told(spring: Database) -> None:
    at_us = berlin("2027-03-28T03:00")
    decision = decide(
        evidence.gather(spring, "job", Asked(at_us, MINUTE_US), s(0)), zone_info("Europe/Berlin")
    )
    assert (decision.decision, decision.scheduled_us) == ("pending", at_us)
    assert decision.text.endswith(
        "It came when it did because the clock of Europe/Berlin was put forward at "
        "2027-03-28T03:00:00+02:00, from 02:00 to 03:00, over its minute, and a job at a fixed "
        "time then fires at the first instant after."
    )


def test_the_moment_that_would_have_been_it_points_to_the_firing_that_stands_for_it(
    spring: Database,
) -> None:
    at_us = berlin("2027-03-28T03:30")
    decision = decide(evidence.gather(spring, "job", Asked(at_us, MINUTE_US), s(10**8)))
    assert (decision.decision, decision.reason) == ("not-due", "no-firing")
    assert "was at 2027-03-28T01:00:00+00:00" in decision.text
    assert "That one is late by the clock: the clock of Europe/Berlin was put" in decision.text
    later = decide(evidence.gather(spring, "job", Asked(at_us + 3600 * SECOND_US, 1), s(10**8)))
    assert "late by the clock" not in later.text


def test_on_any_other_day_nothing_is_said_of_clocks(spring: Database) -> None:
    at_us = berlin("2027-03-29T02:30")
    decision = decide(evidence.gather(spring, "job", Asked(at_us, MINUTE_US), s(0)))
    assert decision.scheduled_us == at_us
    assert "clock" not in decision.text


def test_a_minute_that_comes_twice_fires_the_first_time(bench: Bench) -> None:
    bench.add(cron="30 2 * * *", cron_offset="Europe/Berlin", at=0)
    first_us = berlin("2027-10-31T02:30")
    second = Asked(first_us + timedelta(hours=1) // timedelta(microseconds=1), MINUTE_US)
    assert (
        decide(
            evidence.gather(bench.database, "job", Asked(first_us, MINUTE_US), s(0))
        ).scheduled_us
        == first_us
    )
    decision = decide(evidence.gather(bench.database, "job", second, s(0)))
    assert (decision.decision, decision.reason) == ("not-due", "clock-change")
    assert decision.text.endswith(
        "the clock of Europe/Berlin showed 02:30 twice that day, and a job at a fixed time fires "
        "the first time only, which was at 2027-10-31T00:30:00+00:00."
    )


def test_a_job_at_the_very_end_of_a_gap_comes_at_its_own_time(bench: Bench) -> None:
    bench.add(cron="0 3 * * *", cron_offset="Europe/Berlin", at=0)
    at_us = berlin("2027-03-28T03:00")
    decision = decide(evidence.gather(bench.database, "job", Asked(at_us, MINUTE_US), s(0)))
    assert decision.scheduled_us == at_us
    assert "clock" not in decision.text


# -- what is forgotten ----------------------------------------------------------------------------


def test_where_the_record_was_pruned_it_says_so(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 2)
    bench.forget(50)
    decision = why(bench, 0, now=55)
    assert verdict(decision) == ("not-due", "pruned", None)
    assert text(decision) == (
        "What became of job at 12:00:00 is not on record any more: the record goes back to "
        "12:00:50."
    )
    assert decision.scheduled_us == NOON_US


def test_all_is_read_in_one_state_of_the_ledger_and_nothing_is_left_open(bench: Bench) -> None:
    bench.add()
    why(bench, 0, now=1)
    assert not bench.database.in_transaction

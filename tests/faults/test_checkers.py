"""The suite sees what it is there to see: each promise is broken once, by hand."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sqlsched import ScheduledTask
from sqlsched.instants import SECOND_US, from_us
from sqlsched.storage import additions
from sqlsched.storage.connection import open_for_writing
from tests.faults import __main__ as command
from tests.faults import report
from tests.faults.harness import Fleet
from tests.faults.kill import Message, Toll, outside_the_window, wrong_messages
from tests.faults.ledger import RULES, violations
from tests.faults.races import Entry, Note, hold_against
from tests.faults.registry import TABLE, Fault, Row

NOON_US = 1_800_014_400_000_000
RUN: dict[str, Any] = {
    "schedule_id": "job",
    "task_name": "m:f",
    "scheduled_us": NOON_US,
    "attempt": 1,
    "manual_key": 0,
    "trigger": "schedule",
    "status": "succeeded",
    "due_us": NOON_US,
    "held": 0,
    "owner": 1,
    "started_us": NOON_US,
    "finished_us": NOON_US + 90_000_000,
    "count": 1,
}
"""A run as it should be."""
LIVE: dict[str, Any] = {"started_us": None, "finished_us": None}
RECORD: dict[str, Any] = {
    "attempt": 0,
    "status": "missed",
    "reason": "coalesced",
    "owner": None,
    "started_us": None,
    "last_us": NOON_US + 60_000_000,
    "count": 2,
}
"""What makes it a record of two firings that never ran."""
LATER = {"scheduled_us": NOON_US + 60_000_000, "due_us": NOON_US + 60_000_000}
BROKEN: dict[str, list[dict[str, Any]] | str] = {
    "one attempt at one firing has two rows": [{}, {}],
    "a firing has a run, and is in a record of firings that never ran": [RECORD, LATER],
    "a firing is in two records of firings that never ran": [
        RECORD,
        RECORD | LATER | {"count": 1},
    ],
    "a record of firings that never ran does not say which": [RECORD | {"last_us": None}],
    "a run stands for several firings": [{"count": 2}],
    "a status is none": [{"status": "lost"}],
    "a run is live and has an end, or neither": [{"status": "running"}],
    "a run has a status that only a start gives, and no start": [{"started_us": None}],
    "a run started that has a status without a start": [{"status": "skipped", "reason": "x"}],
    "a run started before its time": [{"started_us": NOON_US - 1}],
    "a run ended before it started": [{"finished_us": NOON_US - 1}],
    "a run that was not let run has no reason": [{"status": "cancelled"}],
    "a run is on its way with nobody who serves": [LIVE | {"status": "claimed", "owner": 2}],
    "a run waits and has an owner": [LIVE | {"status": "waiting"}],
    "a run is held and does not wait": [{"held": 1}],
    "an attempt follows none that failed": [{"attempt": 2, "trigger": "retry"}],
    "a failed run is not tried again, though it may": [{"status": "failed"}],
    "a trigger does not fit its run": [{"manual_key": 7}],
    "a schedule that does not fire is waited for": "UPDATE schedules SET paused_us = 1",
    "a schedule that fires is not waited for": "UPDATE schedules SET wake_us = NULL",
    "max_runs was passed": "UPDATE schedules SET dispatched = 4",
    "a schedule counts other dispatches than the ledger has": (
        "UPDATE schedules SET dispatched = 1"
    ),
    "output belongs to no run": "INSERT INTO outputs VALUES (99, x'', x'', 0)",
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger that takes whatever it is given, with a schedule and one who serves it."""
    path = tmp_path / "app.db"
    with closing(open_for_writing(path, create=True)) as database:
        schedule = ScheduledTask(
            task_name="m:f",
            schedule_id="job",
            interval=60,
            start=from_us(NOON_US),
            max_runs=3,
            retries=1,
            overlap="skip",
        )
        additions.add(database, schedule, 0)
        database.execute("INSERT INTO owners VALUES (1, 'token', 1, 'boot', 1, 1, NULL, 0)")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("runs", "outputs"):
            connection.execute(f"CREATE TABLE plain AS SELECT * FROM {table}")  # noqa: S608 - ours
            connection.execute(f"DROP TABLE {table}")
            connection.execute(f"ALTER TABLE plain RENAME TO {table}")
        yield connection


def enter(connection: sqlite3.Connection, number: int, run: dict[str, Any]) -> None:
    row = {"run_id": number} | RUN | run
    marks = ", ".join(f":{name}" for name in row)
    insert = f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})"  # noqa: S608 - ours
    connection.execute(insert, row)


def test_a_ledger_as_it_should_be_breaks_no_rule(
    ledger: sqlite3.Connection, tmp_path: Path
) -> None:
    enter(ledger, 1, {"finished_us": NOON_US + 1})
    enter(ledger, 2, LATER | LIVE | {"status": "claimed"})
    later = dict.fromkeys(("scheduled_us", "due_us"), NOON_US + 120000000)
    enter(ledger, 3, RECORD | later | {"last_us": NOON_US + 180_000_000})
    ledger.execute("UPDATE schedules SET dispatched = 1")
    assert violations(tmp_path / "app.db") == []


@pytest.mark.parametrize("rule", RULES)
def test_a_ledger_that_breaks_a_rule_is_found_out(
    ledger: sqlite3.Connection, tmp_path: Path, rule: str
) -> None:
    broken = BROKEN[rule]
    if isinstance(broken, str):
        ledger.execute(broken)
    else:
        for number, run in enumerate(broken, 1):
            enter(ledger, number, run)
    assert rule in [found.rpartition(": ")[0] for found in violations(tmp_path / "app.db")]


# -- firings --------------------------------------------------------------------------------------


def test_firings_that_were_lost_doubled_or_invented_are_found(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.add("job", 1_800_014_400, 1_800_014_402)
    times = list(fleet.firings["job"])
    lines = [f"job {us} 1 0" for us in (times[0], times[0], times[2] + 1)]
    (tmp_path / "ran.txt").write_text("\n".join(lines))
    with closing(sqlite3.connect(fleet.path)) as connection, connection:
        for number, us in enumerate((times[0], times[1], times[2] + 1), 1):
            run = {"scheduled_us": us, "due_us": us}
            enter(connection, number, run)
    account = fleet.account()
    fleet.stop()
    assert account.doubled == [("job", times[0])]
    assert account.lost == [("job", times[1]), ("job", times[2])]
    assert ("job", times[2] + 1) in account.unaccounted
    assert len(account.violations("succeeded")) == 3


def test_a_schedule_with_max_runs_has_so_many_and_accounts_for_those_it_passed_over(
    tmp_path: Path,
) -> None:
    fleet = Fleet(tmp_path)
    fleet.add("job", 1_800_014_400, 1_800_014_404, max_runs=2)
    times = list(fleet.firings["job"])
    lines = [f"job {us} 1 0" for us in times[1:3]]
    (tmp_path / "ran.txt").write_text("\n".join(lines))
    with closing(sqlite3.connect(fleet.path)) as connection, connection:
        for us in times[1:3]:
            enter(connection, us, {"scheduled_us": us, "due_us": us})
    assert fleet.account().lost == [("job", times[0])]
    with closing(sqlite3.connect(fleet.path)) as connection, connection:
        passed_over = {"status": "skipped", "reason": "bounds", "started_us": None}
        enter(connection, 1, passed_over | {"scheduled_us": times[0]})
    account = fleet.account()
    assert (account.expected, account.lost, account.unaccounted) == (2, [], [])
    fleet.stop()


def test_runs_that_overlap_are_found(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.add("serial", 1_800_014_400, 1_800_014_404, overlap="skip")
    (tmp_path / "ran.txt").write_text("serial 1 1 10\nserial 2 1 20\nserial 3 1 30\n")
    (tmp_path / "over.txt").write_text("serial 1 1 20\nserial 3 1 40\n")
    assert fleet.overlaps() == []
    (tmp_path / "over.txt").write_text("serial 1 1 21\n")
    assert fleet.overlaps() == ["runs of serial overlapped"]
    fleet.stop()


def test_a_message_is_sent_again_only_by_the_dead_and_only_if_it_was_not_on_record() -> None:
    toll = Toll(pids={1: "after-send"})
    last = Message(9, "x", 5)
    inside, alive, recorded = (("job", second) for second in range(3))
    messages = {
        inside: [Message(1, "x", 1), last],
        alive: [Message(2, "x", 0), last],
        recorded: [Message(1, "x", 2), last],
    }
    assert outside_the_window(messages, toll) == {alive, recorded}
    crowd = {("job", second): [Message(1, "x", 0), last] for second in range(101)}
    assert outside_the_window(crowd, toll) == set(crowd)


def test_a_firing_has_one_task_id_and_no_other_has_it() -> None:
    first, second = ("job", 1), ("job", 2)
    assert wrong_messages({first: [Message(1, "x", 0)] * 2, second: [Message(1, "y", 0)]}) == []
    assert wrong_messages({first: [Message(1, "x", 0), Message(1, "y", 0)]})
    assert wrong_messages({first: [Message(1, "x", 0)], second: [Message(1, "x", 0)]})


# -- races ----------------------------------------------------------------------------------------


def note(at: int, state: str, every: int = 10, start: int = 5) -> Note:
    begun, ended, every_us, start_us = (each * SECOND_US for each in (at - 1, at, every, start))
    return Note("job", begun, ended, state, every_us, start_us)


def entry(second: int, *, last: int | None = None, **more: Any) -> Entry:
    us, last_us = second * SECOND_US, last and last * SECOND_US
    fields = {"attempt": 1, "last_us": last_us, "firings": 1, "status": "succeeded"} | more
    started = us if fields["attempt"] else None
    return Entry("job", us, manual_key=0, started_us=started, finished_us=us, reason="", **fields)


def test_a_ledger_that_fits_what_people_did_is_good() -> None:
    notes = [note(10, "on"), note(40, "paused"), note(60, "on", 10, 3), note(80, "gone")]
    record = entry(45, attempt=0, last=55, firings=2)
    entries = [entry(15), entry(25), entry(35), record, entry(63), entry(73)]
    verdict = hold_against(notes, entries)
    assert (verdict.expected, verdict.lost, verdict.problems) == (7, [], [])


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([entry(15), entry(25), entry(26)], "had no such firing"),
        ([entry(15), entry(25), entry(45)], "had no such firing"),
        ([entry(15), entry(25, attempt=0, last=35, firings=3)], "had no such firing"),
        ([entry(15), entry(15, attempt=0, last=25, firings=2)], "accounted for 2 times"),
    ],
)
def test_a_ledger_that_does_not_fit_is_found_out(entries: list[Entry], problem: str) -> None:
    verdict = hold_against([note(10, "on"), note(30, "gone")], entries)
    assert any(problem in found for found in verdict.problems)


def test_a_firing_that_is_nowhere_is_lost_and_one_while_paused_is_wrong() -> None:
    verdict = hold_against([note(10, "paused"), note(30, "gone")], [entry(15)])
    assert verdict.lost == [("job", 25 * SECOND_US)]
    assert verdict.problems == [f"job at {15 * SECOND_US} ran while it was paused"]


# -- the command ----------------------------------------------------------------------------------


def strike_well(directory: Path, count: int, seed: int) -> Row:
    return Row(
        count=count, expected=seed, figures=Counter({"files": len(list(directory.iterdir()))})
    )


def strike_badly(directory: Path, count: int, _seed: int) -> Row:
    (directory / "evidence").touch()
    return Row(count=count, violations=("it was broken",))


def strike_and_fall(_directory: Path, _count: int, _seed: int) -> Row:
    raise RuntimeError("the hammer broke")


GOOD = Fault("nothing breaks", "test_checkers:strike_well", 1000, "blows")
BAD = Fault("it breaks", "test_checkers:strike_badly", 1000, "blows")
BAD_HAMMER = Fault("the hammer breaks", "test_checkers:strike_and_fall", 1, "blows")


def test_a_fault_that_could_not_be_run_is_no_promise_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TABLE, "bad", BAD_HAMMER)
    monkeypatch.setitem(TABLE, "good", replace(GOOD, count=1))
    assert command.main(["--only", "bad", "good"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "the hammer broke" in said[2]
    assert said[-1].startswith("good")
    Path(said[3].rpartition(" ")[2]).rmdir()


def test_the_command_runs_what_is_registered_and_fails_if_a_promise_was_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TABLE, "good", GOOD)
    monkeypatch.setitem(TABLE, "bad", BAD)
    assert command.main(["--only", "good", "--scale", "0.01", "--seed", "7"]) == 0
    said = capsys.readouterr().out.splitlines()[1].split()
    assert said[:7] == ["good", "10", "blows", "7", "0", "0", "0"]
    assert command.main(["--only", "good", "bad", "--scale", "0.01"]) == 1
    said = capsys.readouterr().out.splitlines()[2:]
    assert "it was broken" in said[1]
    place = Path(said[2].rpartition(" ")[2])
    assert (place / "evidence").exists()
    (place / "evidence").unlink()
    place.rmdir()


def test_what_was_recorded_becomes_a_line_of_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "TABLE", {"good": GOOD})
    monkeypatch.setattr(report, "TABLE", {"good": GOOD})
    file = tmp_path / "results.json"
    for scale in ("0.5", "1"):
        command.main(["--scale", scale, "--seed", "7", "--record", str(file)])
    results = json.loads(file.read_text())
    assert report.table(results).splitlines()[2:] == [
        "| `good` | nothing breaks | 1,000 blows | 7 | **0** | **0** |"
    ]


@pytest.mark.parametrize("name", TABLE)
def test_every_fault_is_where_the_table_says(name: str) -> None:
    assert callable(TABLE[name].load())

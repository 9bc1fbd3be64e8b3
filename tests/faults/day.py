"""The scripted day: what is done, what must come of it, and what a fault may change of that."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from sqlsched.exceptions import StorageError
from sqlsched.storage import recovery
from sqlsched.storage.connection import open_for_writing
from tests.faults.player import Called, Played, Script, Step
from tests.faults.registry import Row

BEGIN = 1_893_456_000
"""2030-01-01, in seconds since 1970: it is the same day each time."""
END = 60
ALL = ("--overlap", "allow", "--coalesce", "all")

Run = tuple[str, int, int]
"""A schedule, a second of the day, and which attempt."""

RUNS: set[Run] = {
    *(("beat", 1, 1), ("beat", 2, 1), ("beat", 3, 1), ("once", 2, 1)),
    *(("flaky", 2, 1), ("flaky", 2, 2), ("later", 25, 1), ("later", 26, 1)),
}
"""What must run, once each. What `slow` runs depends on how long a fault lasts."""
SLOW = {("slow", 1), ("slow", 2), ("slow", 3)}


def day(scheduler: str = "local") -> tuple[Step, ...]:
    """Some schedules are added and run: one fails and is tried again, one overlaps itself. Another
    is paused, resumed and run; one is removed; and somebody looks at it all."""
    return (
        _add("beat", *_each_second(1, 3), *ALL),
        _add("once", "--at", _at(2)),
        _add("flaky", "--at", _at(2), "--retries", "1", "--retry-delay", "1s", task="flaky"),
        _add("slow", *_each_second(1, 3), task="slow"),
        _run(0, scheduler),
        _add("later", *_each_second(25, 26), *ALL, second=20),
        _add("gone", "--at", _at(50), second=20),
        _step(20, "pause", "later"),
        _step(21, "rm", "gone")._replace(done_before="no schedule has the id 'gone'"),
        _step(22, "resume", "later"),
        _run(22, scheduler),
        _step(END, "history", "--json"),
        _step(END, "list", "--all", "--json"),
    )


def _step(second: int, *arguments: str) -> Step:
    return Step(BEGIN + second, arguments)


def _add(name: str, *options: str, task: str = "note", second: int = 0) -> Step:
    arguments = ("--catchup-window", "unlimited", *options, f"tests.faults.app:{task}")
    return _step(second, "add", "--id", name, *arguments)


def _run(second: int, scheduler: str) -> Step:
    return _step(second, "run", f"tests.faults.app:{scheduler}", "--until-idle")


def _each_second(first: int, last: int) -> tuple[str, ...]:
    return ("--every", "1s", "--start", _at(first), "--end", _at(last))


def _at(second: int) -> str:
    return f"2030-01-01T00:00:{second:02}"


def row(problems: Sequence[str], messages: Counter[str], count: int, expected: int) -> Row:
    """What came of a number of faults, and in how many of them each message was seen."""
    lost, doubled = (
        [problem for problem in problems if f": {kind}: " in problem]
        for kind in ("lost", "doubled")
    )
    return Row(
        count=count,
        expected=expected,
        lost=len(lost),
        doubled=len(doubled),
        violations=tuple(problems),
        figures=messages,
    )


# -- what must hold -------------------------------------------------------------------------------


def problems(script: Script, played: Played) -> Iterator[str]:
    """All that is wrong with a day, however its disk behaved."""
    for number, step in enumerate(script.steps):
        calls = [call for call in played.calls if call.step == number]
        for call in calls:
            yield from (f"{step.command}: {problem}" for problem in _wrong(step, call))
        if not calls or calls[-1].code:
            yield f"{step.command} was never done: {calls[-1:]}"
            return
    yield from _account(script)


def _wrong(step: Step, call: Called) -> Iterator[str]:
    """What is wrong with what a command said."""
    lines = call.err.splitlines()
    if "Traceback" in call.err:
        yield f"a traceback: {call.err}"
    if "trying again" in call.err and "writing again" not in call.err:
        yield f"it did not say that it writes again: {call.err}"
    if not call.code:
        return
    errors = [line for line in lines if line.startswith("Error: ")]
    if call.code != 1 or call.out or errors != lines[-1:] or "day.db" not in errors[0]:
        yield f"not one clear line: {call}"
    if step.command == "run":
        if "serving" in call.err:
            yield f"it gave up: {call.err}"
    elif len(lines) > 1:
        yield f"more than one line: {call.err}"
    if call.copy:
        yield from _half_done(Path(call.copy) / "day.db")


def _half_done(database: Path) -> Iterator[str]:
    """What a command that failed has left is a database, or none."""
    if not database.exists() or not database.stat().st_size:
        return
    try:
        open_for_writing(database, create=True).close()
    except StorageError as error:
        yield f"left behind: {error}"
    yield from unsound(database)


def unsound(database: Path) -> Iterator[str]:
    """What SQLite finds wrong with a file."""
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    if found != [("ok",)]:
        yield f"not sound: {found}"


def _account(script: Script) -> Iterator[str]:
    """Hold the ledger and what the tasks wrote down against what should have been."""
    yield from unsound(script.database)
    ran = Counter(run for _, run in runs_in(script.marks.read_text()))
    ledger = list(ledger_of(script.database))
    yield from (f"doubled: {run}" for run, count in ran.items() if count > 1)
    yield from (f"lost: {run}" for run in sorted(RUNS - set(ran)))
    yield from (f"unexpected: {run}" for run in set(ran) - RUNS if run[0] != "slow")
    told = {(*run[:2], run[2] or 1) for run, status in ledger if status in ("succeeded", "failed")}
    yield from (f"not in the ledger: {run}" for run in set(ran) - told)
    yield from (f"never ran: {run}" for run in told - set(ran))
    accounted = {run[:2] for run, _ in ledger}
    yield from (f"unaccounted: {firing}" for firing in sorted(SLOW - accounted))
    for run, status in ledger:
        if status not in ("succeeded", "failed") and run[0] != "slow":
            yield f"in the ledger: {run} {status}"
    _clear_up(script.database)
    beside = {path.name.removeprefix("day.db") for path in script.place.iterdir()}
    yield from (f"left behind: {name}" for name in beside - {"", "-gate"})


def _clear_up(database: Path) -> None:
    """As the next scheduler does."""
    with closing(open_for_writing(database)) as opened:
        recovery.take_over(opened, [], (BEGIN + END) * 1_000_000)


def runs_in(marks: str) -> Iterator[tuple[str, Run]]:
    """What tasks wrote down: `began` or `sent`, and which run."""
    for line in marks.splitlines():
        what, *rest = line.split()
        if what in ("began", "sent"):
            name, second, attempt = rest
            yield what, (name, int(second) - BEGIN, int(attempt) if what == "began" else 1)


def ledger_of(database: Path) -> Iterator[tuple[Run, str]]:
    """Every firing that the ledger knows, and its status; attempt 0 is one that never ran."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            """SELECT schedule_id, scheduled_us / 1000000,
                   coalesce(last_us, scheduled_us) / 1000000, attempt, status FROM runs"""
        ).fetchall()
    for name, first, last, attempt, status in rows:
        for second in range(first, last + 1):
            yield (name, second - BEGIN, attempt), status

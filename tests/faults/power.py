"""Power failures: of a scripted day, only what was synced is left, or that and some of the rest.

Everything that reaches the disk is written down, with marks where a command was acknowledged and
where a task began. For a power failure at any point of that, the files are made anew as a disk may
have kept them, and the next `run` goes on from there.
"""

import errno
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlsched.exceptions import StorageError
from sqlsched.storage.connection import open_for_reading, open_for_writing
from tests.faults.day import BEGIN, END, RUNS, Run, day, ledger_of, row, runs_in, unsound
from tests.faults.disk import MARK, SYNC, SYNC_DIRECTORY, Platter, Record, read_records
from tests.faults.player import Played, Players, Script, Step
from tests.faults.registry import Row

SEEDS = 10
"""Power failures between a sync and the next, each of which leaves something else."""
ADDS = {step.arguments[2]: number for number, step in enumerate(day()) if step.command == "add"}
COMMANDS = [step.command for step in day()]
PAUSE, RM, RESUME = map(COMMANDS.index, ("pause", "rm", "resume"))
RUN_STEPS = [number for number, command in enumerate(COMMANDS) if command == "run"]
LIVE = {"waiting", "claimed", "sending", "running"}


@dataclass(frozen=True)
class Failure:
    """The power fails after so many operations; the seed decides what is left, None the least."""

    operations: int
    seed: int | None


def failures(records: Sequence[Record]) -> Iterator[Failure]:
    """One after each sync, with only what is certain; and some between it and the next."""
    syncs = [n for n, record in enumerate(records, 1) if record.kind in (SYNC, SYNC_DIRECTORY)]
    for sync, following in zip(syncs, [*syncs[1:], len(records)], strict=True):
        yield Failure(sync, None)
        for seed in range(SEEDS):
            yield Failure(random.Random(f"{sync} {seed}").randint(sync, following), seed)


def tasks(directory: Path, count: int, seed: int) -> Row:
    """Of a day whose tasks the scheduler runs itself."""
    with Players(directory) as players:
        return power_loss(players, directory, "local", count, seed)


def queue(directory: Path, count: int, seed: int) -> Row:
    """Of a day whose tasks are sent to a queue."""
    with Players(directory) as players:
        return power_loss(players, directory, "queue", count, seed)


def forgotten(directory: Path, count: int, seed: int) -> Row:
    """After a sync that failed, and with it was gone what it was to write; of `count` syncs."""
    with Players(directory) as players:
        return failed_syncs(players, directory, count, seed)


def power_loss(players: Players, directory: Path, scheduler: str, count: int, seed: int) -> Row:
    """Let the power fail at each sync of a day and `SEEDS` times after it; or `count` times."""
    whole = Script(directory / "whole", day(scheduler), record=True)
    return _after(players, whole, scheduler, count, seed)


def failed_syncs(players: Players, directory: Path, count: int, seed: int) -> Row:
    """The same, ten times after each sync of a day that fails, or `count` of them."""
    measured = Script(directory / "measured", day(), counted=SYNC)
    ((_, played),) = players.play([measured])
    numbers = range(1, played.count + 1)
    total = Row(count=0)
    for number in random.Random(seed).sample(numbers, min(count, len(numbers))):
        whole = Script(
            directory / f"sync{number}",
            day(),
            counted=SYNC,
            error=errno.EIO,
            first=number,
            last=number,
            attempts=3,
            record=True,
        )
        total += _after(players, whole, "local", 10, seed)
    return total


def _after(players: Players, whole: Script, scheduler: str, count: int, seed: int) -> Row:
    ((_, played),) = players.play([whole])
    assert not played.calls[-1].code, played
    records = list(read_records(whole.records))
    chosen = list(failures(records))
    if count < len(chosen):
        chosen = random.Random(seed).sample(chosen, count)
    chosen.sort(key=lambda failure: failure.operations)
    outages = [
        Outage(whole.directory / str(number), scheduler, failure, platter, marks)
        for number, (failure, platter, marks) in enumerate(_until(records, chosen))
    ]
    problems: list[str] = []
    went_on = players.play([outage.script for outage in outages])
    for outage, (_, played) in zip(outages, went_on, strict=True):
        found = [*outage.lost, *outage.after(played)]
        problems += [f"{outage}: {problem}" for problem in found]
        if not found:
            shutil.rmtree(outage.script.directory)
    return row(problems, Counter(), len(outages), len(outages) * len(RUNS))


def _until(
    records: Sequence[Record], chosen: Sequence[Failure]
) -> Iterator[tuple[Failure, Platter, str]]:
    """The disk at each of these failures, and what was marked until then."""
    platter, marks, done = Platter(), "", 0
    for failure in chosen:
        for record in records[done : failure.operations]:
            if record.kind == MARK:
                marks += record.data.decode()
            else:
                platter.add(record)
        done = failure.operations
        yield failure, platter, marks


class Outage:
    """What a power failure left, what of it was lost, and what came of it when it went on."""

    def __init__(
        self, directory: Path, scheduler: str, failure: Failure, platter: Platter, marks: str
    ) -> None:
        self._failure = failure
        self._is_queue = scheduler == "queue"
        self._done = {int(line.split()[1]) for line in marks.splitlines() if line[0] == "d"}
        self._marks = marks
        go_on = Step(BEGIN + END, ("run", f"tests.faults.app:{scheduler}", "--until-idle"))
        self.script = Script(directory, (go_on,))
        left = platter.left(None if failure.seed is None else random.Random(failure.seed))
        _put(self.script.place, left)
        _put(directory / "copy", left)
        self.script.marks.write_text(marks)
        self._sending: set[Run] = set()
        self.lost = list(self._look(directory / "copy" / self.script.database.name))

    def __str__(self) -> str:
        return f"{self.script.directory}, {self._failure}"

    def _look(self, database: Path) -> Iterator[str]:
        """What was acknowledged, or had begun, and is not in what was left."""
        try:
            open_for_reading(database).close()
        except StorageError as error:
            if self._done or "there is no database" not in str(error):
                yield f"cannot be read: {error}"
        try:
            open_for_writing(database, create=True).close()
        except StorageError as error:
            yield f"cannot be opened: {error}"
            return
        yield from unsound(database)
        yield from self._forgotten(paused_of(database))
        ledger = dict(ledger_of(database))
        self._sending = {run for run, status in ledger.items() if status == "sending"}
        for _, run in runs_in(self._marks):
            if ledger.get(run) in (None, "claimed", "waiting"):
                yield f"lost: {run} had begun, and is {ledger.get(run)}"
        for run in self._sending:
            if self._is_queue and _run_is_over(self._done, run):
                yield f"lost: {run} was sent, and is sending"

    def _forgotten(self, paused: dict[str, bool]) -> Iterator[str]:
        """What commands had acknowledged."""
        done, under_way = self._done, max(self._done, default=-1) + 1
        for name, number in ADDS.items():
            if number in done and name not in paused and not (name == "gone" and under_way >= RM):
                yield f"lost: {name} was added"
        if RM in done and "gone" in paused:
            yield "lost: gone was removed"
        if RESUME in done and paused["later"]:
            yield "lost: later was resumed"
        if PAUSE in done and under_way < RESUME and not paused["later"]:
            yield "lost: later was paused"

    def after(self, played: Played) -> Iterator[str]:
        """What ran twice, or never, once the next `run` had gone on to its end."""
        if any(call.code for call in played.calls):
            yield f"did not go on: {played.calls}"
            return
        yield from unsound(self.script.database)
        marks = self.script.marks.read_text()
        ran = Counter(run for _, run in runs_in(marks))
        for run, count in ran.items():
            if count > 1 and run not in self._sending:
                yield f"doubled: {run}"
        tasks = {line.split()[3]: line for line in marks.splitlines() if line.startswith("sent")}
        if len(set(tasks.values())) < len(tasks) or (self._is_queue and len(tasks) != len(ran)):
            yield f"another task id: {marks}"
        ledger = dict(ledger_of(self.script.database))
        yield from (f"not in the ledger: {run}" for run in set(ran) - set(ledger))
        yield from (f"left {status}: {run}" for run, status in ledger.items() if status in LIVE)
        for run in sorted(self._expected(ledger) - set(ran)):
            yield f"lost: {run} never ran"

    def _expected(self, ledger: dict[Run, str]) -> set[Run]:
        """What must have run by now, of what had been acknowledged."""
        paused = paused_of(self.script.database)
        runs = {run for run in RUNS if ADDS[run[0]] in self._done and not paused.get(run[0], False)}
        if self._is_queue or ledger.get(("flaky", 2, 1)) == "abandoned":
            runs.discard(("flaky", 2, 2))
        # Its start was on record, and it had not begun: it might have.
        return {run for run in runs if ledger.get(run) != "abandoned"}


def _run_is_over(done: set[int], run: Run) -> bool:
    """Whether the `run` that ran it had ended in order."""
    first, second = RUN_STEPS
    return (second if run[0] == "later" else first) in done


def paused_of(database: Path) -> dict[str, bool]:
    """The schedules that there are, done ones included, and whether each is paused."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT schedule_id, paused_us IS NOT NULL FROM schedules"
        return {name: bool(paused) for name, paused in connection.execute(query)}


def _put(place: Path, files: dict[str, bytes]) -> None:
    place.mkdir(mode=0o700, parents=True)
    for name, data in files.items():
        (place / name).write_bytes(data)
        (place / name).chmod(0o600)

"""Schedulers without an engine: turns by hand, over a real file, at times of one's choosing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlsched.instants import SECOND_US, from_us
from sqlsched.planner import Moment
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import additions, claims, owners, pruning, recovery
from sqlsched.storage.connection import Database, open_for_writing
from sqlsched.storage.turn import Finished, Owner, Request, Started, Turn

NOON_US = 1_800_014_400 * SECOND_US
"""2027-01-15T12:00:00Z."""


def s(seconds: float) -> int:
    """So many seconds after noon."""
    return NOON_US + round(seconds * SECOND_US)


class Scheduler:
    """One owner, with a connection of its own."""

    def __init__(self, path: Path, at: float) -> None:
        self.database = open_for_writing(path)
        self.entry, self.lock = owners.register(self.database, "boot", s(at))

    @property
    def owner(self) -> int:
        """Its number in the ledger."""
        return self.entry.owner

    def turn(
        self, at: float, *, room: int = 8, ahead: int = 8, since: float | None = None, **more: Any
    ) -> Turn:
        """One turn at so many seconds after noon; it has served since `since`, or since then."""
        moment = Moment(s(at), s(at if since is None else since))
        return claims.turn(
            self.database, Request(self.owner, self.entry.token, moment, room, ahead, **more)
        )

    def finish(
        self, run: Started, at: float, status: str = "succeeded", *, ahead: int = -1, **more: Any
    ) -> Turn:
        """A turn that records how a run ended, and by default claims nothing."""
        end = Finished(run.run_id, status, s(at))
        return self.turn(at, ahead=ahead, finished=[end], **more)

    def stop(self, at: float) -> None:
        """Leave in order."""
        owners.unregister(self.database, self.owner, s(at))
        self.lock.release()

    def die(self) -> None:
        """Leave as a killed process does: the lock is gone, the rows are as they were."""
        self.lock.release()
        self.database.close()


class Bench:
    """A database, the schedulers that serve it, and questions about what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database: Database = open_for_writing(path, create=True)
        self._schedulers: list[Scheduler] = []

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        for scheduler in self._schedulers:
            scheduler.die()
        self.database.close()

    def scheduler(self, at: float = 0) -> Scheduler:
        """Another scheduler enters."""
        self._schedulers.append(Scheduler(self.path, at))
        return self._schedulers[-1]

    def add(self, schedule_id: str = "job", *, at: float = -100, **fields: Any) -> None:
        """Store a schedule, by default one that fires each minute from noon on."""
        if not fields.keys() & {"cron", "time", "interval"}:
            fields |= {"interval": 60, "start": from_us(NOON_US)}
        schedule = ScheduledTask(task_name="m:f", schedule_id=schedule_id, **fields)
        additions.add(self.database, schedule, s(at))

    def take_over(self, dead: Sequence[Owner], at: float) -> list[int]:
        """Recovery, by whoever comes."""
        return recovery.take_over(self.database, dead, s(at))

    def forget(self, before: float) -> int:
        """Forget whatever ended before so many seconds after noon; how many runs it was."""
        pruning.forget_changes(self.database, s(before))
        return pruning.prune(self.database, pruning.Cut(s(before), s(before)), 0).pruned

    def ask(self, query: str, *values: object) -> list[Any]:
        """The first column, or all of several, of each row."""
        rows = self.database.execute(query, values).fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]

    def runs(self, schedule_id: str = "job") -> list[tuple[float, int, str]]:
        """(seconds after noon, attempt, status) of each row that stands for one run."""
        return [
            ((us - NOON_US) / SECOND_US, attempt, status)
            for us, attempt, status in self.ask(
                """SELECT scheduled_us, attempt, status FROM runs WHERE schedule_id = ?
                   AND attempt > 0 ORDER BY scheduled_us, attempt, run_id""",
                schedule_id,
            )
        ]

    def unrun(self, schedule_id: str = "job") -> list[tuple[float, float, int, str, str]]:
        """(first, last, count, status, reason) of each record of firings that never ran."""
        return [
            ((first - NOON_US) / SECOND_US, (last - NOON_US) / SECOND_US, *rest)
            for first, last, *rest in self.ask(
                """SELECT scheduled_us, last_us, count, status, reason FROM runs
                   WHERE schedule_id = ? AND attempt = 0 ORDER BY scheduled_us""",
                schedule_id,
            )
        ]

    def next(self, schedule_id: str = "job") -> float | None:
        """The next nominal firing, in seconds after noon."""
        found = self.ask("SELECT next_us FROM schedules WHERE schedule_id = ?", schedule_id)[0]
        return None if found is None else (found - NOON_US) / SECOND_US


def times(turn: Turn) -> list[float]:
    """The nominal times of what a turn started, in seconds after noon."""
    return [(run.scheduled_us - NOON_US) / SECOND_US for run in turn.started]


def ran(scheduler: Scheduler, at: float) -> int:
    """Start what is due and end it well; the last run's id."""
    started = scheduler.turn(at, since=at - 1).started
    for run in started:
        scheduler.finish(run, at + 1)
    return started[-1].run_id

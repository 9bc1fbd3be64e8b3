"""Adding schedules, one or a million: durable when it returns.

A few thousand at a time are looked up and inserted with one statement each; only those whose id
is there already are gone through one by one.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlsched.exceptions import DuplicateScheduleError, InvalidScheduleError, SqlschedError
from sqlsched.instants import to_us
from sqlsched.planner import Identity
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage import highest_time
from sqlsched.storage.changes import Added, never, remove_all, replace_one, wake
from sqlsched.storage.connection import Database, savepoint, transaction
from sqlsched.storage.schedules import CONTENT, IS_DONE, to_values

CHUNK = 500
"""Schedules that are stored with one statement."""

_CACHE_KIB = 48 * 1024
_PAGE = 4096
_NEW = (*CONTENT, "created_us", "anchor_us", "paused_us", "next_us", "wake_us")

_Row = tuple[Any, ...]
"""The values of `_NEW`."""
Refusal = Callable[[int, SqlschedError], None]
"""Told of a schedule that is not stored: its place, from 0, among those of the call, and why."""


@dataclass(slots=True)
class Count:
    """How many schedules were stored; the `changed` and `unchanged` were there before."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0

    def __iadd__(self, other: "Count") -> "Count":
        self.added += other.added
        self.changed += other.changed
        self.unchanged += other.unchanged
        return self

    @property
    def total(self) -> int:
        """All that now are as they were given."""
        return self.added + self.changed + self.unchanged


def add(
    database: Database, schedule: ScheduledTask, now_us: int, *, replace_other: bool = False
) -> Added:
    """Store a schedule. DuplicateScheduleError if its id has other content."""
    with transaction(database):
        count = Adding(database, now_us, replace_other=replace_other).store([schedule])
        found = database.execute(
            "SELECT next_us FROM schedules WHERE schedule_id = ?", (schedule.schedule_id,)
        )
        return Added(found.fetchone()[0], changed=not count.unchanged)


def add_all(
    database: Database,
    schedules: Iterable[ScheduledTask],
    now_us: int,
    *,
    replace_other: bool = False,
) -> None:
    """Store schedules, all of them or, if one is refused or the iteration fails, none."""
    schedules = iter(schedules)
    with adding(database, now_us, replace_other=replace_other) as stored:
        while chunk := list(islice(schedules, CHUNK)):
            stored.store(chunk)


@contextmanager
def adding(database: Database, now_us: int, *, replace_other: bool = False) -> Iterator["Adding"]:
    """One transaction for any number of schedules, with memory for the pages that they change."""
    (before,) = database.execute("PRAGMA cache_size").fetchone()
    database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    try:
        with transaction(database):
            yield Adding(database, now_us, replace_other=replace_other)
    finally:
        database.execute(f"PRAGMA cache_size = {before}")


def first_us(schedule: ScheduledTask, now_us: int) -> int:
    """The first firing of a schedule made now; InvalidScheduleError if it has none."""
    found = schedule.trigger(now_us).first_us(now_us)
    if found is None:
        raise never(schedule)
    return found


@dataclass(slots=True)
class _There:
    """What stands under an id."""

    values: tuple[Any, ...]
    seq: int
    source: str
    done: int


class Adding:
    """Stores schedules within one transaction, and knows which it has stored."""

    def __init__(self, database: Database, now_us: int, *, replace_other: bool) -> None:
        self._database = database
        self._now_us = now_us
        self._replace_other = replace_other
        query = "SELECT coalesce(max(seq), 0) FROM schedules"
        self._last_seq: int = database.execute(query).fetchone()[0]
        self._met: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(_PAGE))
        """Which of those that were there before have been given since, a byte for each `seq`, as
        a set of a million is large. New ones show by their `seq`."""

    def store(self, schedules: Sequence[ScheduledTask], refuse: Refusal | None = None) -> Count:
        """Store some more. Without `refuse`, a schedule that cannot be stored raises."""
        there = self._look_up(schedules)
        ran = self._ran(schedules)
        count, rows = Count(), dict[str, _Row]()
        for place, schedule in enumerate(schedules):
            try:
                stands = there.get(schedule.schedule_id)
                if schedule.schedule_id in rows or (stands and self._is_met(stands)):
                    raise _twice(schedule)
                if stands is None:
                    rows[schedule.schedule_id] = self._new(schedule, ran)
                elif self._settle(schedule, stands, count):
                    rows[schedule.schedule_id] = self._again(schedule, ran)
            except SqlschedError as error:
                if refuse is None:
                    raise
                refuse(place, error)
        self._insert(list(rows.values()))
        count.added += len(rows)
        return count

    def _look_up(self, schedules: Sequence[ScheduledTask]) -> dict[str, _There]:
        """What stands under the ids of these."""
        rows = self._database.execute(
            f"""SELECT {", ".join(CONTENT)}, seq, source, {IS_DONE} FROM schedules AS s
                WHERE schedule_id IN (SELECT value FROM json_each(?))""",
            (json.dumps([schedule.schedule_id for schedule in schedules]),),
        )
        return {row[0]: _There(row[:-3], *row[-3:]) for row in rows}

    def _is_met(self, there: _There) -> bool:
        """Whether what stands there was given before; it counts as given from now on."""
        page, place = divmod(there.seq, _PAGE)
        met = there.seq > self._last_seq or self._met[page][place]
        self._met[page][place] = True
        return bool(met)

    def _settle(self, schedule: ScheduledTask, there: _There, count: Count) -> bool:
        """Leave or change what stands there; True if it is done, and makes room for a new one."""
        if there.source:
            raise DuplicateScheduleError(
                f"a schedule with the id {schedule.schedule_id!r} comes from {there.source} "
                "already; use another id"
            )
        recurring = schedule.time is None
        if there.values == to_values(schedule) and not (there.done and recurring):
            count.unchanged += 1
            return False
        if there.done:
            return True
        if not self._replace_other:
            raise DuplicateScheduleError(
                f"a schedule with the id {schedule.schedule_id!r} and other content exists; "
                "use --replace, or another id"
            )
        with savepoint(self._database):
            replace_one(self._database, schedule, self._now_us, "replaced")
        count.changed += 1
        return False

    def _again(self, schedule: ScheduledTask, ran: set[Identity]) -> _Row:
        row = self._new(schedule, ran)
        remove_all(self._database, [schedule.schedule_id], self._now_us)
        return row

    def _new(self, schedule: ScheduledTask, ran: set[Identity]) -> _Row:
        """The row of a schedule made now."""
        now_us = self._now_us
        next_us = first_us(schedule, now_us)
        if schedule.time is not None and (schedule.schedule_id, next_us) in ran:
            raise DuplicateScheduleError(
                f"{schedule.schedule_id!r} has had a firing at that time already, and no firing "
                "runs twice; use another id, or another time"
            )
        paused_us = wake_us = None
        if schedule.paused:
            paused_us = now_us
        else:
            wake_us = wake(schedule.schedule_id, schedule, now_us, next_us)
        return (*to_values(schedule), now_us, now_us, paused_us, next_us, wake_us)

    def _ran(self, schedules: Sequence[ScheduledTask]) -> set[Identity]:
        """Which of the one-shots among these could never run: their id and time have been a
        firing before."""
        firings = [(s.schedule_id, to_us(s.time)) for s in schedules if s.time is not None]
        if not firings:
            return set()
        rows = self._database.execute(
            """SELECT schedule_id, scheduled_us FROM json_each(?) AS firing
               JOIN runs ON schedule_id = json_extract(firing.value, '$[0]')
                   AND scheduled_us = json_extract(firing.value, '$[1]')
               WHERE attempt = 1 AND manual_key = 0""",
            (json.dumps(firings),),
        )
        return set(rows.fetchall())

    def _insert(self, rows: Sequence[_Row]) -> None:
        """Insert rows; columns that all of them leave NULL are not mentioned, which is quicker."""
        columns = zip(_NEW, zip(*rows, strict=True), strict=True) if rows else ()
        used = {name: values for name, values in columns if values.count(None) < len(rows)}
        if used:
            highest_time.note(self._database, self._now_us)
            marks = ", ".join("?" * len(used))
            self._database.executemany(
                f"INSERT INTO schedules ({', '.join(used)}) VALUES ({marks})",
                zip(*used.values(), strict=True),
            )


class _GivenTwiceError(InvalidScheduleError, DuplicateScheduleError):
    """Nobody can tell which of the two is meant, whatever is stored already."""


def _twice(schedule: ScheduledTask) -> _GivenTwiceError:
    return _GivenTwiceError(
        f"the id {schedule.schedule_id!r} stands twice among those to add; give each its own"
    )

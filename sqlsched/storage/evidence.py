"""Reading what `why` decides by: one schedule, one moment, and all that the ledger has on both."""

import json
from collections.abc import Iterator
from typing import Any

from sqlsched.exceptions import ScheduleNotFoundError
from sqlsched.explain.evidence import Act, Asked, Evidence, Pause, Presence, Run, Service, Version
from sqlsched.serialization import shorten
from sqlsched.storage import owners, runs, schedules
from sqlsched.storage.connection import Database
from sqlsched.storage.schedules import CONTENT, StoredSchedule, UnreadableScheduleError
from sqlsched.storage.starts import is_going

_RUN = f"{', '.join(f'runs.{name}' for name in Run.__slots__ if name != 'pid')}, owners.pid"
_RUNS = f"SELECT {_RUN} FROM runs LEFT JOIN owners USING (owner)"
_SHARED = "SELECT shared FROM schedules WHERE schedule_id = ?"
_DEEP = 16
"""Records of firings that never ran that are looked through: they hardly ever overlap."""


def find(database: Database, given: str) -> str:
    """The schedule that `given` is or begins: one that is there, or was; ScheduleNotFoundError."""
    known = """SELECT 1 FROM runs WHERE schedule_id = ?1
               UNION ALL SELECT 1 FROM changes WHERE schedule_id = ?1 LIMIT 1"""
    if database.execute(known, (given,)).fetchone():
        return given
    return schedules.find(database, given)


def gather(database: Database, schedule_id: str, asked: Asked | None, now_us: int) -> Evidence:
    """All that bears on what a schedule did at a moment; None is the latest that was decided.

    UnreadableScheduleError if its row, or the record of a change, was damaged by other means.
    """
    database.execute("BEGIN")  # one state of the ledger for all questions
    try:
        return _Gathering(database, schedule_id, now_us).gather(asked)
    finally:
        database.execute("ROLLBACK")


class _Gathering:
    """The questions, in their order."""

    def __init__(self, database: Database, schedule_id: str, now_us: int) -> None:
        self._database = database
        self._id = schedule_id
        self._now_us = now_us
        self._current = self._read_current()
        self._services = owners.services(database)

    def gather(self, asked: Asked | None) -> Evidence:
        asked, firing = self._latest() if asked is None else (asked, self._firing_in(asked))
        scheduled_us = firing[0] if firing else None
        moment_us = asked.at_us if scheduled_us is None else scheduled_us
        version = self._version_at(moment_us)
        attempts = [] if firing is None else self._attempts(*firing)
        unrun = None if attempts or scheduled_us is None else self._unrun(scheduled_us)
        forgotten_us = max(runs.forgotten_us(self._database), runs.pruned_us(self._database))
        is_current = version is not None and version.ended is None and self._current is not None
        return Evidence(
            schedule_id=self._id,
            now_us=self._now_us,
            asked=asked,
            scheduled_us=scheduled_us,
            version=version,
            removed=self._removed(moment_us),
            is_current=is_current,
            next_us=self._current.next_us if self._current else None,
            dispatched=self._current.dispatched if self._current else 0,
            shared=bool((self._one(_SHARED, self._id) or (0,))[0]),
            pause=self._pause(moment_us, version),
            attempts=attempts,
            unrun=unrun,
            other=self._other(attempts[-1] if attempts else unrun, version),
            last=self._last(moment_us),
            going=self._going(attempts),
            then=self._presence(attempts[0].due_us if attempts else moment_us, forgotten_us),
            now=self._presence(self._now_us, 0),
            forgotten_us=forgotten_us,
        )

    # -- what is meant --------------------------------------------------------------------------

    def _latest(self) -> tuple[Asked, tuple[int, int] | None]:
        """The firing that was decided about last, or is due; else the one to come."""
        row = self._one(
            """SELECT iif(attempt = 0, coalesce(last_us, scheduled_us), scheduled_us), manual_key
               FROM runs WHERE schedule_id = ? AND scheduled_us <= ?
               ORDER BY scheduled_us DESC, attempt DESC LIMIT 1""",
            *(self._id, self._now_us),
        )
        found: tuple[int, int] | None = None if row is None else (row[0], row[1])
        due_us = self._due()
        if due_us is not None and (found is None or due_us > found[0]):
            found = (due_us, 0)
        return Asked(self._now_us if found is None else found[0], 1), found

    def _due(self) -> int | None:
        """The latest firing of the schedule that nobody has decided about; or its first one, if
        nothing ever was."""
        current = self._current
        if current is None or current.next_us is None:
            return None
        if current.next_us > self._now_us:
            has_run = runs.has_history(self._database, self._id)
            return None if has_run else current.next_us
        return max(current.trigger.previous_us(self._now_us + 1) or 0, current.next_us)

    def _firing_in(self, asked: Asked) -> tuple[int, int] | None:
        """The firing that is meant by a moment: one on record, else one by its trigger of then."""
        span = (self._id, asked.at_us, asked.end_us)
        row: tuple[int, int] | None = self._one(
            """SELECT scheduled_us, manual_key FROM runs
               WHERE schedule_id = ? AND scheduled_us >= ? AND scheduled_us < ? AND attempt > 0
               ORDER BY manual_key != 0, scheduled_us LIMIT 1""",
            *span,
        )
        if row is not None and not row[1]:
            return row
        for moment_us in (asked.at_us, asked.end_us - 1):
            version = self._version_at(moment_us)
            firing_us = version.firing_in(asked) if version else None
            if firing_us is not None:
                return (firing_us, 0)
        overdue = self._current and self._current.next_us
        if overdue and asked.at_us <= overdue < asked.end_us:
            return (overdue, 0)  # a one-shot may have been added after its time
        unrun: tuple[int, int] | None = self._one(
            """SELECT scheduled_us, 0 FROM runs WHERE schedule_id = ? AND scheduled_us >= ?
               AND scheduled_us < ? AND attempt = 0 ORDER BY scheduled_us LIMIT 1""",
            *span,
        )
        return unrun or row

    # -- what the schedule was ------------------------------------------------------------------

    def _read_current(self) -> StoredSchedule | None:
        try:
            return schedules.get(self._database, self._id)
        except ScheduleNotFoundError:
            return None

    def _version_at(self, us: int) -> Version | None:
        """The schedule as it was at an instant, or soonest after."""
        row = self._one(
            """SELECT what, at_us, who, note, before FROM changes
               WHERE schedule_id = ? AND at_us >= ? AND before IS NOT NULL
               ORDER BY at_us, change_id LIMIT 1""",
            *(self._id, us),
        )
        if row is not None:
            return _read_version(self._id, Act(*row[:4]), row[4])
        there = self._current
        return None if there is None else Version(there.schedule, there.created_us, there.anchor_us)

    def _removed(self, us: int) -> Act | None:
        row = self._one(
            """SELECT what, at_us, who, note FROM changes
               WHERE schedule_id = ? AND at_us < ? AND what = 'removed'
               ORDER BY at_us DESC, change_id DESC LIMIT 1""",
            *(self._id, us),
        )
        return None if row is None else Act(*row)

    def _pause(self, us: int, version: Version | None) -> Pause | None:
        """The pause in force at an instant."""
        began = self._began(us)
        ended = self._one(
            """SELECT what, at_us, who, note FROM changes WHERE schedule_id = ? AND at_us >= ?
               AND what IN ('paused', 'resumed', 'removed') ORDER BY at_us, change_id LIMIT 1""",
            *(self._id, us),
        )
        act = None if ended is None else Act(*ended)
        resumed = act if act is not None and act.what == "resumed" else None
        if began:
            note = next((one.note for one in began if one.note), None)
            return Pause(began[-1].at_us, began[-1].who, note, resumed)
        there = self._current
        if resumed is None and act is None and there is not None and there.paused_us is not None:
            return Pause(there.paused_us, None, None, None) if there.paused_us <= us else None
        if resumed is not None and version is not None and version.created_us <= us:
            return Pause(version.created_us, None, None, resumed)
        return None

    def _began(self, us: int) -> list[Act]:
        """What paused it and gave it notes since it was resumed or made, latest first."""
        acts = []
        for row in self._database.execute(
            """SELECT what, at_us, who, note FROM changes WHERE schedule_id = ? AND at_us <= ?
               AND what IN ('paused', 'resumed', 'removed') ORDER BY at_us DESC, change_id DESC""",
            (self._id, us),
        ):
            if row[0] != "paused":
                break
            acts.append(Act(*row))
        return acts

    # -- what ran -------------------------------------------------------------------------------

    def _attempts(self, scheduled_us: int, manual_key: int) -> list[Run]:
        query = f"""{_RUNS} WHERE schedule_id = ? AND scheduled_us = ? AND manual_key = ?
                    AND attempt > 0 ORDER BY attempt"""
        return list(self._runs(query, self._id, scheduled_us, manual_key))

    def _unrun(self, scheduled_us: int) -> Run | None:
        query = f"""SELECT * FROM ({_RUNS} WHERE schedule_id = ? AND scheduled_us <= ?
                        AND attempt = 0 ORDER BY scheduled_us DESC LIMIT {_DEEP})
                    WHERE last_us >= ?"""
        return next(self._runs(query, self._id, scheduled_us, scheduled_us), None)

    def _other(self, run: Run | None, version: Version | None) -> Run | None:
        """The run that another one is about."""
        if run is None:
            return None
        if run.because_of is not None:
            return next(self._runs(f"{_RUNS} WHERE run_id = ?", run.because_of), None)
        if run.held:
            query = f"{_RUNS} WHERE schedule_id = ? AND {is_going('runs')} AND held = 0 LIMIT 1"
            return next(self._runs(query, self._id), None)
        if run.reason != "coalesced" or version is None or run.last_us is None:
            return None
        trigger = version.trigger
        if version.schedule.coalesce == "earliest":
            into_us = trigger.previous_us(run.scheduled_us)
        else:
            into_us = trigger.next_us(run.last_us)
        return None if into_us is None else next(iter(self._attempts(into_us, 0)), None)

    def _last(self, us: int) -> Run | None:
        query = f"""{_RUNS} WHERE schedule_id = ? AND scheduled_us < ? AND attempt = 1
                    AND manual_key = 0 AND runs.started_us IS NOT NULL
                    ORDER BY scheduled_us DESC LIMIT 1"""
        return next(self._runs(query, self._id, us), None)

    def _going(self, attempts: list[Run]) -> int:
        """How many runs go in the process that has claimed the last of these."""
        if not attempts or attempts[-1].status != "claimed":
            return 0
        row = self._one(
            f"""SELECT count(*) FROM runs AS r WHERE {is_going("r")} AND status != 'waiting'
                AND owner = (SELECT owner FROM runs WHERE run_id = ?)""",
            attempts[-1].run_id,
        )
        return int(row[0]) if row else 0

    # -- who was running ------------------------------------------------------------------------

    def _presence(self, us: int, forgotten_us: int) -> Presence:
        """Who was running at an instant, and who before and after."""
        services = self._services
        there = [s for s in services if s.since_us <= us and _end(s) >= us]
        before = [s for s in services if _end(s) < us]
        after = [s for s in services if s.since_us > us]
        return Presence(
            there,
            max(before, key=_end, default=None),
            min(after, key=lambda service: service.since_us, default=None),
            on_record=us >= forgotten_us,
        )

    # -- asking ---------------------------------------------------------------------------------

    def _one(self, query: str, *values: Any) -> Any:
        return self._database.execute(query, values).fetchone()

    def _runs(self, query: str, *values: Any) -> Iterator[Run]:
        return (Run(*row) for row in self._database.execute(query, values))


def _end(service: Service) -> int:
    return 2**62 if service.until_us is None else service.until_us


def _read_version(schedule_id: str, ended: Act, before: str) -> Version:
    """The schedule that a change ended."""
    try:
        found: dict[str, Any] = dict.fromkeys(CONTENT) | json.loads(before)
        schedule = schedules.to_schedule(found, paused=False)
        return Version(schedule, int(found["created_us"]), int(found["anchor_us"]), ended)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UnreadableScheduleError(
            f"the record of what schedule {shorten(schedule_id)} was before a change was changed "
            f"by other means and cannot be read: {error}"
        ) from error

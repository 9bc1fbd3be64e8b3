"""Schedules as code: what a file lists is what is there, and no more than that is touched.

A schedule that a file lists is kept by its group from then on. Another group, or another source,
cannot take it; `add` and `edit` can change it until the file is synced again.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from sqlsched.exceptions import DuplicateScheduleError, SqlschedError
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage.additions import CHUNK, Adding
from sqlsched.storage.changes import pause_within, remove_all, replace_one, resume_within
from sqlsched.storage.connection import Database, savepoint, transaction
from sqlsched.storage.copies import Snapshot, snapshot
from sqlsched.storage.schedules import CONTENT, to_values


@dataclass(slots=True)
class Synced:
    """What `sync` did, by schedule id. If any was `refused`, nothing was done."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Schedules of the group that are not listed any more, and stay without `prune`."""
    refused: list[tuple[str, SqlschedError]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Preview:
    """What `sync` would do, and the schedules that it would add, change or remove, as they are
    `before` it and `after`."""

    synced: Synced
    before: Snapshot
    after: Snapshot


class _There(NamedTuple):
    """What stands under an id."""

    values: tuple[Any, ...]
    source: str
    is_paused: bool
    group: str | None
    declared_paused: int


class _UndoneError(Exception):
    """What was written is not to stay."""


def sync(
    database: Database,
    schedules: Iterable[ScheduledTask],
    now_us: int,
    *,
    group: str = "",
    prune: bool = False,
) -> Synced:
    """Add and change schedules so that they are as listed, all or, if one is refused, none.

    What is listed unchanged keeps its next firing and its state, done or not. A pause is somebody
    else's affair, unless the list has begun, or ceased, to say it since it was synced last.
    `prune` removes the group's schedules that are not listed.
    """
    result = Synced()
    with suppress(_UndoneError), transaction(database):
        _Syncing(database, now_us, group, result).run(schedules, prune)
        if result.refused:
            raise _UndoneError
    return result


def preview(
    database: Database,
    schedules: Iterable[ScheduledTask],
    now_us: int,
    *,
    group: str = "",
    prune: bool = False,
) -> Preview:
    """What `sync` would do: it is done, looked at, and undone."""
    result = Synced()
    before = after = Snapshot()
    with suppress(_UndoneError), transaction(database):
        with suppress(_UndoneError), savepoint(database):
            _Syncing(database, now_us, group, result).run(schedules, prune)
            after = snapshot(database, result.added + result.changed)
            raise _UndoneError
        before = snapshot(database, result.changed + result.removed)
        raise _UndoneError
    return Preview(result, before, after)


class _Syncing:
    """One sync, within a transaction."""

    def __init__(self, database: Database, now_us: int, group: str, result: Synced) -> None:
        self._database = database
        self._now_us = now_us
        self._group = group
        self._result = result

    def run(self, schedules: Iterable[ScheduledTask], prune: bool) -> None:
        """Bring the database to what is listed."""
        adding = Adding(self._database, self._now_us, replace_other=False)
        listed: set[str] = set()
        schedules = iter(schedules)
        while chunk := list(islice(schedules, CHUNK)):
            listed.update(schedule.schedule_id for schedule in chunk)
            there = self._look_up(chunk)
            self._add(adding, [s for s in chunk if s.schedule_id not in there])
            for schedule in chunk:
                if schedule.schedule_id in there:
                    self._settle(schedule, there[schedule.schedule_id])
            self._take_over([s for s in chunk if self._is_other(there.get(s.schedule_id), s)])
        gone = [schedule_id for schedule_id in self._kept() if schedule_id not in listed]
        if prune:
            remove_all(self._database, gone, self._now_us)
        (self._result.removed if prune else self._result.left).extend(gone)

    def _look_up(self, schedules: Sequence[ScheduledTask]) -> dict[str, _There]:
        rows = self._database.execute(
            f"""SELECT {", ".join(CONTENT)}, source, paused_us IS NOT NULL, synced,
                    declared_paused FROM schedules
                WHERE schedule_id IN (SELECT value FROM json_each(?))""",
            (json.dumps([schedule.schedule_id for schedule in schedules]),),
        )
        return {row[0]: _There(row[:-4], *row[-4:]) for row in rows}

    def _add(self, adding: Adding, schedules: Sequence[ScheduledTask]) -> None:
        refused: dict[int, SqlschedError] = {}
        adding.store(schedules, refused.__setitem__)
        for place, schedule in enumerate(schedules):
            if place in refused:
                self._result.refused.append((schedule.schedule_id, refused[place]))
            else:
                self._result.added.append(schedule.schedule_id)

    def _settle(self, schedule: ScheduledTask, there: _There) -> None:
        """Leave or change what stands there."""
        try:
            self._check_keeper(schedule, there)
            with savepoint(self._database):
                changed = self._change(schedule, there)
        except SqlschedError as error:
            self._result.refused.append((schedule.schedule_id, error))
        else:
            where = self._result.changed if changed else self._result.unchanged
            where.append(schedule.schedule_id)

    def _change(self, schedule: ScheduledTask, there: _There) -> bool:
        changed = there.values != to_values(schedule)
        if changed:
            replace_one(self._database, schedule, self._now_us, "edited")
        if schedule.paused != there.declared_paused and schedule.paused != there.is_paused:
            set_pause = pause_within if schedule.paused else resume_within
            set_pause(self._database, [schedule.schedule_id], self._now_us)
            changed = True
        return changed

    def _check_keeper(self, schedule: ScheduledTask, there: _There) -> None:
        if there.source:
            raise DuplicateScheduleError(
                f"a schedule with the id {schedule.schedule_id!r} comes from {there.source} "
                "already; use another id"
            )
        if there.group not in (None, self._group):
            raise DuplicateScheduleError(
                f"{schedule.schedule_id!r} is of {_title(there.group)}, and is not taken into "
                f"{_title(self._group)}; remove it there, or use another id"
            )

    def _is_other(self, there: _There | None, schedule: ScheduledTask) -> bool:
        """Whether its row says something else about who keeps it, and of pausing."""
        return there is None or there[-2:] != (self._group, int(schedule.paused))

    def _take_over(self, schedules: Sequence[ScheduledTask]) -> None:
        self._database.executemany(
            "UPDATE schedules SET synced = ?, declared_paused = ? WHERE schedule_id = ?",
            [(self._group, int(s.paused), s.schedule_id) for s in schedules],
        )

    def _kept(self) -> list[str]:
        """What the group keeps, from now or from before."""
        rows = self._database.execute(
            "SELECT schedule_id FROM schedules WHERE synced = ? AND source = '' ORDER BY seq",
            (self._group,),
        )
        return [row[0] for row in rows]


def _title(group: str | None) -> str:
    return f"the group {group!r}" if group else "the group of files that name none"

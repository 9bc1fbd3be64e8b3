"""Reading what a chart shows: runs and firings to come, schedule by schedule, and who was there."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlsched.explain.timeline import Bar, Gap, Row, Window, ticks
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.storage.connection import Database
from sqlsched.storage.owners import services
from sqlsched.storage.runs import forgotten_us
from sqlsched.storage.schedules import CONTENT, to_schedule

_END = "iif(started_us IS NULL, coalesce(last_us, scheduled_us), coalesce(finished_us, :now_us))"
_BARS = f"""
    SELECT schedule_id, run_id, status, coalesce(started_us, scheduled_us) AS first_us,
        {_END} AS end_us, count
    FROM runs WHERE first_us < :to_us AND end_us >= :from_us
    AND (:ids IS NULL OR schedule_id IN (SELECT value FROM json_each(:ids)))"""
_LISTED = """
    SELECT schedule_id FROM schedules WHERE next_us IS NOT NULL
    AND (:ids IS NULL OR schedule_id IN (SELECT value FROM json_each(:ids)))"""
_STATE = ("anchor_us", "paused_us", "dispatched", "next_us")


def rows(
    database: Database, window: Window, size: int, ids: Sequence[str] | None = None
) -> Iterator[Row]:
    """A row for each schedule that fires yet or has something in the window, in the order of ids.

    Each is to be drawn before the next is asked for. `size` is how many firings to come are told
    apart at most.
    """
    # The plus keeps SQLite from reading the whole history in the order of an index.
    bars = groupby(
        database.execute(f"{_BARS} ORDER BY +schedule_id, first_us", _values(window, ids)),
        key=itemgetter(0),
    )
    columns = ", ".join((*CONTENT, *_STATE))
    listed = database.execute(
        f"SELECT {columns} FROM schedules WHERE schedule_id IN ({_LISTED}) ORDER BY schedule_id",
        _values(window, ids),
    )
    there, drawn = next(listed, None), next(bars, None)
    while there or drawn:
        if drawn is None or (there is not None and there[0] < drawn[0]):
            yield _row(there, (), window, size)
            there = next(listed, None)
        elif there is None or drawn[0] < there[0]:
            yield Row(drawn[0], False, _bars(drawn[1]), ())
            drawn = next(bars, None)
        else:
            yield _row(there, _bars(drawn[1]), window, size)
            there, drawn = next(listed, None), next(bars, None)


def count(database: Database, window: Window, ids: Sequence[str] | None = None) -> int:
    """How many rows there are."""
    query = f"SELECT count(*) FROM (SELECT schedule_id FROM ({_BARS}) UNION {_LISTED})"
    return int(database.execute(query, _values(window, ids)).fetchone()[0])


def longest_id(database: Database, window: Window, ids: Sequence[str] | None = None) -> int:
    """How many characters the longest id of the rows has."""
    query = f"""SELECT max(length(schedule_id)) FROM (
        SELECT schedule_id FROM ({_BARS}) UNION ALL {_LISTED})"""
    return int(database.execute(query, _values(window, ids)).fetchone()[0] or 0)


def gaps(database: Database, window: Window) -> list[Gap]:
    """When nobody was running, up to now, as far as the record goes."""
    found = []
    end_us: int | None = None
    since_us = max(window.from_us, forgotten_us(database))
    until_us = min(window.to_us, window.now_us)
    for service in sorted(services(database), key=lambda service: service.since_us):
        if end_us is not None and end_us < service.since_us:
            found.append(Gap(end_us, service.since_us))
        ended_us = window.now_us if service.until_us is None else service.until_us
        end_us = ended_us if end_us is None else max(end_us, ended_us)
    if end_us is not None and end_us < window.now_us:
        found.append(Gap(end_us, window.now_us))
    return [
        Gap(max(gap.first_us, since_us), min(gap.last_us, until_us))
        for gap in found
        if gap.last_us > since_us and gap.first_us < until_us
    ]


def _values(window: Window, ids: Sequence[str] | None) -> dict[str, Any]:
    return {
        "from_us": window.from_us,
        "to_us": window.to_us,
        "now_us": window.now_us,
        "ids": None if ids is None else json.dumps(list(ids)),
    }


def _bars(found: Iterator[tuple[Any, ...]]) -> Iterator[Bar]:
    return (Bar(*row[1:]) for row in found)


def _row(there: tuple[Any, ...] | None, bars: Any, window: Window, size: int) -> Row:
    assert there is not None
    schedule_id, state = there[0], there[len(CONTENT) :]
    anchor_us, paused_us, dispatched, next_us = state
    is_paused = paused_us is not None
    schedule = _schedule(there)
    if schedule is None:
        return Row(schedule_id, is_paused, bars, ())
    left = None if schedule.max_runs is None else schedule.max_runs - dispatched
    found = ticks(schedule.trigger(anchor_us), next_us, window, size, left)
    return Row(schedule_id, is_paused, bars, found)


def _schedule(there: tuple[Any, ...]) -> ScheduledTask | None:
    """None for one whose row somebody damaged: nobody can tell when it would fire."""
    try:
        return to_schedule(dict(zip(CONTENT, there, strict=False)), paused=False)
    except (ValueError, OverflowError):
        return None

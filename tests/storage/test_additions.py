"""Adding many schedules at once: all or nothing, by the same rules as one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sqlsched import ScheduledTask, SqliteScheduleSource
from sqlsched.exceptions import DuplicateScheduleError, InvalidScheduleError, SqlschedError
from sqlsched.instants import from_us
from sqlsched.storage import additions, schedules
from sqlsched.storage.additions import Count
from sqlsched.storage.schedules import Selection

from .bench import Bench, s


def task(schedule_id: str, **fields: Any) -> ScheduledTask:
    if not fields.keys() & {"cron", "time"}:
        fields = {"interval": 60} | fields
    return ScheduledTask(task_name="m:f", schedule_id=schedule_id, **fields)


def there(bench: Bench) -> list[Any]:
    return bench.ask("SELECT schedule_id FROM schedules ORDER BY seq")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "CHUNK", 3)


def test_many_are_stored_in_their_order(bench: Bench) -> None:
    ids = [f"x{number}" for number in range(10)]
    additions.add_all(bench.database, map(task, ids), s(0))
    assert there(bench) == ids


def test_those_that_differ_in_what_they_set_are_stored_whole(bench: Bench) -> None:
    given = [
        task("a", note="n", args=[1], labels={"k": "v"}),
        task("b", cron="@daily", cron_offset="Asia/Kolkata", retries=0),
        task("c", time=from_us(s(5)), paused=True, catchup_window="none"),
    ]
    additions.add_all(bench.database, given, s(0))
    assert [row.schedule for row in schedules.stored(bench.database, Selection())] == given
    assert bench.ask("SELECT next_us FROM schedules WHERE schedule_id != 'b'") == [s(60), s(5)]
    assert bench.ask("SELECT schedule_id FROM schedules WHERE wake_us IS NULL") == ["c"]


def test_a_refused_one_takes_all_with_it(bench: Bench) -> None:
    bench.add("a")
    given = [task("b"), task("c"), task("d"), task("e"), task("a", note="other")]
    with pytest.raises(DuplicateScheduleError, match="'a' and other content"):
        additions.add_all(bench.database, given, s(0))
    assert there(bench) == ["a"]


def test_an_iterable_that_fails_takes_all_with_it(bench: Bench) -> None:
    def failing() -> Iterator[ScheduledTask]:
        yield from map(task, "abcde")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        additions.add_all(bench.database, failing(), s(0))
    assert there(bench) == []


def test_the_same_again_is_a_no_op_and_other_content_replaces_if_asked(bench: Bench) -> None:
    additions.add_all(bench.database, map(task, "abc"), s(0))
    additions.add_all(bench.database, map(task, "abcd"), s(30))
    assert bench.ask("SELECT next_us FROM schedules") == [s(60), s(60), s(60), s(90)]
    additions.add_all(bench.database, [task("b", note="new")], s(30), replace_other=True)
    assert bench.ask("SELECT note FROM schedules WHERE note IS NOT NULL") == ["new"]
    assert there(bench) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("given", ["aba", "abcda", "bb", "cdebb"])
def test_an_id_given_twice_is_refused_new_or_not(bench: Bench, given: str) -> None:
    additions.add(bench.database, task("b"), s(0))
    with pytest.raises(InvalidScheduleError, match="stands twice") as raised:
        additions.add_all(bench.database, map(task, given), s(0))
    assert isinstance(raised.value, DuplicateScheduleError)
    assert there(bench) == ["b"]


def test_a_done_one_that_is_given_twice_is_refused(bench: Bench) -> None:
    additions.add_all(bench.database, map(task, "ab"), s(0))
    bench.database.execute("UPDATE schedules SET next_us = NULL, wake_us = NULL")
    with pytest.raises(InvalidScheduleError, match="'b' stands twice"):
        additions.add_all(bench.database, [task(x) for x in "ncbdeb"], s(0))
    additions.add_all(bench.database, map(task, "ab"), s(10))
    assert bench.ask("SELECT next_us FROM schedules") == [s(70), s(70)]


def test_the_refused_are_told_by_their_place_and_the_others_are_stored(bench: Bench) -> None:
    bench.add("a")
    refused: dict[int, SqlschedError] = {}
    given = [task("b"), task("a", note="x"), task("c", end=from_us(s(0))), task("b"), task("d")]
    with additions.adding(bench.database, s(0)) as adding:
        count = adding.store(given, refused.__setitem__)
    assert count == Count(added=2)
    assert [type(refused[place]) for place in (1, 2)] == [
        DuplicateScheduleError,
        InvalidScheduleError,
    ]
    assert sorted(refused) == [1, 2, 3]
    assert there(bench) == ["a", "b", "d"]


def test_a_change_that_is_refused_takes_back_no_claim(bench: Bench) -> None:
    bench.add("a")
    bench.database.execute(
        """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status, due_us)
           VALUES ('a', 'm:f', 5, 1, 'schedule', 'claimed', 5)"""
    )
    refused: dict[int, SqlschedError] = {}
    with additions.adding(bench.database, s(0), replace_other=True) as adding:
        adding.store([task("a", end=from_us(s(0)))], refused.__setitem__)
    assert isinstance(refused[0], InvalidScheduleError)
    assert bench.ask("SELECT status FROM runs") == ["claimed"]


def test_a_copy_of_another_sources_is_left_alone(bench: Bench) -> None:
    bench.add("a")
    bench.database.execute("UPDATE schedules SET source = 'redis'")
    for replace_other in (False, True):
        with pytest.raises(DuplicateScheduleError, match="comes from redis already"):
            additions.add_all(bench.database, [task("a")], s(0), replace_other=replace_other)


def test_a_one_shot_that_has_run_is_refused_among_many(bench: Bench) -> None:
    bench.add("a", time=from_us(s(0)))
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    bench.database.execute("DELETE FROM schedules")
    given = [task("b", time=from_us(s(0))), task("a", time=from_us(s(0)))]
    with pytest.raises(DuplicateScheduleError, match="'a' has had a firing at that time already"):
        additions.add_all(bench.database, given, s(2))
    assert there(bench) == []


def test_the_memory_for_pages_is_given_back(bench: Bench) -> None:
    before = bench.ask("PRAGMA cache_size")
    additions.add_all(bench.database, map(task, "ab"), s(0))
    assert bench.ask("PRAGMA cache_size") == before


# -- through the source ---------------------------------------------------------------------------


async def test_a_source_takes_a_generator(tmp_path: Path) -> None:
    source = SqliteScheduleSource(tmp_path / "test.db")
    await source.add_schedules(task(f"x{number}") for number in range(10))
    assert [found.schedule_id for found in await source.get_schedules()] == [
        f"x{number}" for number in range(10)
    ]
    await source.shutdown()


async def test_a_source_stores_all_or_none(tmp_path: Path) -> None:
    source = SqliteScheduleSource(tmp_path / "test.db")
    await source.add_schedule(task("a"))
    given = [*map(task, "bcdef"), task("a", note="other")]
    with pytest.raises(DuplicateScheduleError):
        await source.add_schedules(given)
    assert len(await source.get_schedules()) == 1
    await source.add_schedules(given, replace=True)
    assert len(await source.get_schedules()) == 6
    await source.add_schedules([])
    await source.shutdown()

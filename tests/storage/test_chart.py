"""What a chart is drawn from: runs in a window, firings to come, and when nobody was there."""

from typing import Any

import pytest

from sqlsched.explain.timeline import Gap, Window
from sqlsched.instants import from_us
from sqlsched.storage import changes, chart

from .bench import Bench, s

WINDOW = Window(s(0), s(600), s(300))


def rows(bench: Bench, window: Window = WINDOW, *ids: str) -> list[tuple[Any, ...]]:
    """Id, bars and ticks of each row."""
    return [
        (row.schedule_id, list(row.bars), list(row.ticks))
        for row in chart.rows(bench.database, window, 10, ids or None)
    ]


def bars(bench: Bench, window: Window = WINDOW) -> list[tuple[str, float, float, int]]:
    """Status, start, end and count of the bars of the first row."""
    found = rows(bench, window)[0][1]
    return [
        (bar.status, (bar.first_us - s(0)) / 1e6, (bar.last_us - s(0)) / 1e6, bar.count)
        for bar in found
    ]


def test_a_run_goes_from_its_start_to_its_end_or_to_now(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0.5, since=0).started[0], 20)
    scheduler.turn(60)
    assert bars(bench) == [("succeeded", 0.5, 20, 1), ("running", 60, 300, 1)]


def test_firings_that_never_ran_go_from_the_first_to_the_last(bench: Bench) -> None:
    bench.add()
    bench.scheduler().turn(250)
    assert bars(bench)[0] == ("missed", 0, 180, 4)


def test_what_lies_outside_the_window_is_left_out(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler()
    for minute in range(4):
        scheduler.finish(scheduler.turn(60 * minute).started[0], 60 * minute + 10)
    window = Window(s(65), s(180), s(300))
    assert [bar[1] for bar in bars(bench, window)] == [60, 120]


def test_rows_come_in_the_order_of_ids_and_those_that_are_gone_are_among_them(
    bench: Bench,
) -> None:
    for name in ("c", "a", "b"):
        bench.add(name)
    bench.scheduler().turn(0)
    changes.remove(bench.database, ["b"], s(1))
    bench.add("d", start=from_us(s(900)), interval=60)
    found = rows(bench)
    assert [(name, len(drawn), bool(due)) for name, drawn, due in found] == [
        *(("a", 1, True), ("b", 1, False), ("c", 1, True), ("d", 0, False)),
    ]
    assert chart.count(bench.database, WINDOW) == 4
    assert [row[0] for row in rows(bench, WINDOW, "c", "b")] == ["b", "c"]
    assert chart.count(bench.database, WINDOW, ["c", "b"]) == 2


def test_firings_to_come_are_those_nobody_has_decided_about(bench: Bench) -> None:
    bench.add(max_runs=3)
    scheduler = bench.scheduler()
    scheduler.finish(scheduler.turn(0).started[0], 1)
    assert rows(bench)[0][2] == [s(60), s(120)]


def test_a_paused_schedule_is_marked_so(bench: Bench) -> None:
    bench.add()
    changes.pause(bench.database, ["job"], s(90))
    (row,) = chart.rows(bench.database, WINDOW, 10)
    assert row.is_paused
    assert next(iter(row.ticks)) == s(0)


def test_a_damaged_schedule_has_no_firings_and_spoils_nothing(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    bench.database.execute("UPDATE schedules SET args = 'no json' WHERE schedule_id = 'a'")
    assert [(name, bool(due)) for name, _, due in rows(bench)] == [("a", False), ("b", True)]


def test_the_longest_id_is_found_among_all_rows(bench: Bench) -> None:
    bench.add("a")
    bench.add("longer")
    bench.scheduler().turn(0)
    changes.remove(bench.database, ["longer"], s(1))
    assert chart.longest_id(bench.database, WINDOW) == 6
    assert chart.longest_id(bench.database, WINDOW, ["a"]) == 1
    assert chart.longest_id(bench.database, Window(s(5000), s(6000), s(0)), ["longer"]) == 0


@pytest.mark.parametrize(
    ("window", "found"),
    [
        (WINDOW, [(50, 100), (200, 300)]),
        (Window(s(70), s(250), s(300)), [(70, 100), (200, 250)]),
        (Window(s(110), s(190), s(300)), []),
        (Window(s(310), s(400), s(300)), []),
    ],
)
def test_gaps_lie_between_those_who_were_running(
    bench: Bench, window: Window, found: list[tuple[float, float]]
) -> None:
    bench.scheduler(0).stop(50)
    bench.scheduler(10).stop(40)
    bench.scheduler(100).stop(200)
    assert chart.gaps(bench.database, window) == [Gap(s(a), s(b)) for a, b in found]


def test_while_somebody_is_running_there_is_no_gap_and_once_he_has_died_there_is(
    bench: Bench,
) -> None:
    scheduler = bench.scheduler(10)
    assert chart.gaps(bench.database, WINDOW) == []
    scheduler.turn(120, heartbeat=True)
    scheduler.lock.release()
    assert chart.gaps(bench.database, WINDOW) == [Gap(s(120), s(300))]


def test_of_what_was_forgotten_no_gap_is_claimed(bench: Bench) -> None:
    bench.add()
    scheduler = bench.scheduler(10)
    scheduler.finish(scheduler.turn(0).started[0], 1)
    scheduler.stop(20)
    bench.scheduler(5).lock.release()
    bench.forget(60)
    bench.scheduler(200)
    assert chart.gaps(bench.database, WINDOW) == [Gap(s(60), s(200))]

"""Figures of runs: counts, rates, and percentiles by nearest rank, checked against plain Python."""

import random
from math import ceil

import pytest

from sqlsched.storage import changes
from sqlsched.storage.stats import Stats, stats

from .bench import Bench, s


def enter(bench: Bench, status: str, scheduled: float = 0, **columns: object) -> None:
    """A run that is in the ledger already; times in seconds after noon."""
    row = {
        "schedule_id": "job",
        "task_name": "m:f",
        "scheduled_us": s(scheduled),
        "attempt": 1,
        "trigger": "schedule",
        "status": status,
        "due_us": s(scheduled),
        "started_us": s(scheduled),
        "finished_us": s(scheduled + 1),
        "manual_key": 0,
    } | columns
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    query = f"INSERT INTO runs ({names}) VALUES ({marks})"  # noqa: S608 - names from above
    bench.database.execute(query, tuple(row.values()))


def only(bench: Bench, **options: object) -> Stats:
    (found,) = stats(bench.database, **options)  # type: ignore[arg-type]
    return found


def nearest_rank(values: list[int], percent: int) -> int:
    return sorted(values)[ceil(percent * len(values) / 100) - 1]


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 100, 101, 250])
def test_percentiles_are_by_nearest_rank(bench: Bench, count: int) -> None:
    chance = random.Random(count)
    took = [chance.randrange(10**7) for _ in range(count)]
    late = [chance.randrange(10**6) for _ in range(count)]
    for number in range(count):
        start = s(number) + late[number]
        enter(bench, "succeeded", number, started_us=start, finished_us=start + took[number])
    assert only(bench)[4:] == (
        *(nearest_rank(took, 50), nearest_rank(took, 95)),
        *(nearest_rank(late, 50), nearest_rank(late, 99)),
    )


def test_each_schedule_is_ranked_by_itself(bench: Bench) -> None:
    for number in range(40):
        name = f"job{number % 4}"
        end = s(number) + 1000 * (number % 4)
        enter(bench, "succeeded", number, schedule_id=name, finished_us=end)
    found = [(row.schedule_id, row.runs, row.duration_p50_us) for row in stats(bench.database)]
    assert found == [(f"job{n}", 10, 1000 * n) for n in range(4)]


def test_what_succeeded_failed_or_neither_is_counted(bench: Bench) -> None:
    statuses = ("succeeded", "sent", "failed", "timed_out", "abandoned", "cancelled")
    for number, status in enumerate(statuses):
        enter(bench, status, number)
    enter(bench, "running", 10, finished_us=None)
    enter(bench, "skipped", 11, started_us=None)
    found = only(bench)
    assert found[:4] == ("job", 7, 2, 3)
    assert found.success_rate == 0.4


def test_durations_are_of_runs_that_ended_by_themselves_or_their_timeout(bench: Bench) -> None:
    for number, status in enumerate(("sent", "cancelled", "abandoned")):
        enter(bench, status, number)
    assert only(bench).duration_p50_us is None
    enter(bench, "timed_out", 10, finished_us=s(15))
    assert only(bench).duration_p95_us == 5_000_000


def test_lateness_counts_from_when_it_was_due_and_is_that_of_firings(bench: Bench) -> None:
    enter(bench, "succeeded", due_us=s(20), started_us=s(20.5))  # jitter of twenty seconds
    enter(bench, "succeeded", attempt=2, due_us=s(30), started_us=s(90))
    enter(bench, "succeeded", 7, manual_key=5, trigger="manual", started_us=s(99))
    enter(bench, "succeeded", 8, trigger="backfill", started_us=s(99))
    found = only(bench)
    assert (found.runs, found.lateness_p50_us, found.lateness_p99_us) == (4, 500_000, 500_000)


def test_a_clock_that_was_put_back_makes_nothing_early(bench: Bench) -> None:
    enter(bench, "succeeded", started_us=s(-60), finished_us=s(1))
    assert only(bench).lateness_p50_us == 0


def test_a_schedule_that_has_not_run_has_a_row_without_figures(bench: Bench) -> None:
    bench.add()
    assert only(bench) == Stats("job", 0, 0, 0, None, None, None, None)
    assert only(bench).success_rate is None


def test_a_schedule_that_is_gone_keeps_its_row_and_a_done_one_without_runs_has_none(
    bench: Bench,
) -> None:
    bench.add()
    bench.scheduler().turn(0)
    changes.remove(bench.database, ["job"], s(1))
    assert only(bench).runs == 1
    assert list(stats(bench.database, since_us=s(60))) == []


def test_they_are_narrowed_to_a_schedule_and_a_time(bench: Bench) -> None:
    for number in range(4):
        enter(bench, "succeeded", 60 * number, schedule_id=f"job{number % 2}")
    assert only(bench, schedule_id="job0").runs == 2
    assert only(bench, schedule_id="job0", since_us=s(120)).runs == 1
    assert [row.runs for row in stats(bench.database, since_us=s(120))] == [1, 1]

"""What a scheduler does, as Prometheus reads it."""

import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from urllib.request import urlopen

import pytest

from sqlsched.engine.scheduler import Options
from sqlsched.metrics import Metrics
from tests.engine.conftest import World
from tests.engine.conftest import world as world

Sqlsched = Callable[..., CompletedProcess[str]]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_outcomes_lateness_and_the_last_success_are_counted(world: World) -> None:
    metrics = Metrics()
    world.failures_left = 1
    await world.add("t:flaky", schedule_id="job", cron="* * * * *")
    await world.run(timedelta(minutes=3), options=Options(observer=metrics))
    assert value(metrics, "sqlsched_firings_total") == 3
    assert value(metrics, "sqlsched_runs_total", status="failed") == 1
    assert value(metrics, "sqlsched_runs_total", status="succeeded") == 2
    assert value(metrics, "sqlsched_lateness_seconds_count") == 3
    assert value(metrics, "sqlsched_lateness_seconds_bucket", le="0.005") == 3
    last = value(metrics, "sqlsched_last_success_timestamp_seconds", schedule_id="job")
    assert last == world.calls[-1][1].timestamp()


async def test_what_did_not_run_is_counted_with_its_reason(world: World) -> None:
    metrics = Metrics()
    await world.add("t:nap", args=[90], cron="* * * * *")
    await world.run(timedelta(minutes=4), options=Options(observer=metrics))
    labels = {"status": "skipped", "reason": "overlap"}
    assert value(metrics, "sqlsched_unrun_firings_total", **labels) == 2


async def test_how_much_is_on_its_way_is_asked_for_when_it_is_read(world: World) -> None:
    metrics, seen = Metrics(), list[tuple[float | None, float | None]]()

    async def look() -> None:
        names = ("sqlsched_runs_going", "sqlsched_runs_waiting")
        seen.append((value(metrics, names[0]), value(metrics, names[1])))

    world.task("look", look)
    for _ in range(3):
        await world.add("t:look", cron="1 12 * * *", max_runs=1)
    await world.run(options=Options(observer=metrics, concurrency=1))
    assert seen == [(1, 2), (1, 1), (1, 0)]


def test_metrics_are_served_on_the_loopback_interface() -> None:
    metrics = Metrics()
    metrics.remember({"job": 5_000_000})
    metrics.serve("0")
    try:
        with urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    finally:
        metrics.close()
    assert 'sqlsched_last_success_timestamp_seconds{schedule_id="job"} 5.0' in text


@pytest.mark.parametrize("address", ["", "x", "host:", "127.0.0.1:99999", ":-1"])
def test_what_is_no_address_is_refused(address: str, sqlsched: Sqlsched) -> None:
    done = sqlsched("run", "--once", "--metrics", address)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"Error: --metrics {address!r}: give PORT, or HOST:PORT"
    )


def test_without_the_extra_the_error_names_it(
    sqlsched: Sqlsched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "sqlsched.metrics", raising=False)
    done = sqlsched("run", "--once", "--metrics", "0")
    assert done.returncode == 1
    assert "pip install 'sqlsched[metrics]'" in done.stderr


def test_the_program_serves_them_while_it_runs(sqlsched: Sqlsched, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "scrape.py").write_text(
        "import urllib.request\n"
        "def scrape():\n"
        f"    with urllib.request.urlopen('http://127.0.0.1:{port}') as answer:\n"
        "        print(answer.read().decode())\n"
    )
    assert sqlsched("add", "--at", "2026-01-01", "--id", "job", "scrape:scrape").returncode == 0
    assert sqlsched("run", "--once", "--metrics", str(port)).returncode == 0
    printed = sqlsched("logs", "--last", "job").stdout
    assert "sqlsched_runs_going 1.0" in printed
    assert "sqlsched_firings_total 1.0" in printed

"""`Metrics`: what a scheduler does, as Prometheus reads it. Needs the extra `metrics`."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlsched.exceptions import InvalidScheduleError, SqlschedError
from sqlsched.instants import SECOND_US
from sqlsched.observer import Observer
from sqlsched.serialization import shorten

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
except ImportError as error:
    raise ImportError(
        "sqlsched.metrics needs prometheus-client: pip install 'sqlsched[metrics]'"
    ) from error

LOOPBACK = "127.0.0.1"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)


class Metrics(Observer):
    """Counts, and serves what it counted over HTTP, at /metrics, from `serve` until `close`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._firings = Counter(
            "sqlsched_firings", "Runs that were given to the broker", registry=registry
        )
        self._runs = Counter(
            "sqlsched_runs", "Runs that ended, by their outcome", ["status"], registry=registry
        )
        self._unrun = Counter(
            *("sqlsched_unrun_firings", "Firings that did not run, and why"),
            ["status", "reason"],
            registry=registry,
        )
        self._lateness = Histogram(
            *("sqlsched_lateness_seconds", "From the instant that a run was due to its start"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._going = Gauge("sqlsched_runs_going", "Runs on their way", registry=registry)
        self._waiting = Gauge(
            *("sqlsched_runs_waiting", "Runs that are claimed and have not started"),
            registry=registry,
        )
        self._last_success = Gauge(
            *("sqlsched_last_success_timestamp_seconds", "When a run of a schedule last succeeded"),
            ["schedule_id"],
            registry=registry,
        )
        self._server: tuple[Any, Any] | None = None

    def serve(self, address: str) -> None:
        """Serve HTTP at `HOST:PORT`, or at `PORT` of the loopback interface.

        InvalidScheduleError for what is no address, SqlschedError if it cannot be had.
        """
        host, port = _address(address)
        try:
            self._server = start_http_server(port, host, registry=self.registry)
        except OSError as error:
            raise SqlschedError(f"--metrics {address}: {error.strerror}") from error

    @property
    def port(self) -> int:
        """Where it serves."""
        assert self._server is not None
        return int(self._server[0].server_port)

    def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()

    def remember(self, last_success_us: Mapping[str, int]) -> None:
        """What succeeded before this process began, by schedule."""
        for schedule_id, us in last_success_us.items():
            self._last_success.labels(schedule_id).set(us / SECOND_US)

    def begin(self, going: Callable[[], int], waiting: Callable[[], int]) -> None:
        self._going.set_function(going)
        self._waiting.set_function(waiting)

    def sent(self, schedule_id: str, late_us: int) -> None:  # noqa: ARG002 - too many to label by
        self._firings.inc()
        self._lateness.observe(max(0, late_us) / SECOND_US)

    def ended(self, schedule_id: str, status: str, finished_us: int) -> None:
        self._runs.labels(status).inc()
        if status == "succeeded":
            self._last_success.labels(schedule_id).set(finished_us / SECOND_US)

    def unrun(self, schedule_id: str, status: str, reason: str, count: int) -> None:  # noqa: ARG002
        self._unrun.labels(status, reason).inc(count)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if port.isascii() and port.isdigit() and int(port) < 65536:
        return host.strip("[]") or LOOPBACK, int(port)
    raise InvalidScheduleError(f"--metrics {shorten(text)}: give PORT, or HOST:PORT")

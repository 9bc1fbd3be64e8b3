"""Who watches `sqlsched run`: metrics, if they are asked for."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlsched.exceptions import SqlschedError
from sqlsched.observer import Observer
from sqlsched.storage import runs
from sqlsched.storage.connection import open_for_reading


@contextmanager
def observing(metrics_at: str | None, database: Path) -> Iterator[Observer]:
    """Metrics served at an address, or nobody."""
    if metrics_at is None:
        yield Observer()
        return
    try:
        from sqlsched.metrics import Metrics
    except ImportError as error:
        raise SqlschedError(str(error)) from None
    metrics = Metrics()
    with closing(open_for_reading(database)) as ledger:
        metrics.remember(runs.last_successes(ledger))
    metrics.serve(metrics_at)
    with closing(metrics):
        yield metrics

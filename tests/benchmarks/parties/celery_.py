"""celery beat with its PersistentScheduler, which sends to a broker in memory."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler, Service
from celery.schedules import crontab

from tests.benchmarks.party import Figures, main, settle, window

CONFIGURATION = "beat alone, PersistentScheduler (a shelve file), broker memory://, no worker"


def _cost(n: int, seconds: float, directory: Path, each: dict[str, Any]) -> Figures:
    app = Celery("bench", broker="memory://")
    month = (datetime.now(UTC).month + 3) % 12 + 1
    when = crontab(minute="0", hour="4", day_of_month="1", month_of_year=str(month))
    entries = {f"s{number}": {"task": "task", "schedule": when} for number in range(n)}
    app.conf.beat_schedule = entries | each
    service = Service(
        app, scheduler_cls=PersistentScheduler, schedule_filename=str(directory / "beat")
    )
    threading.Thread(target=service.start, daemon=True).start()
    settle()
    return window(seconds)


def idle(n: int, seconds: float, directory: Path) -> Figures:
    return _cost(n, seconds, directory, {})


def each_second(n: int, seconds: float, directory: Path) -> Figures:
    return _cost(n, seconds, directory, {"each": {"task": "task", "schedule": 1.0}})


if __name__ == "__main__":
    main({"idle": idle, "each_second": each_second})

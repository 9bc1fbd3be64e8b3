"""cronsim, of the same expressions."""

from datetime import datetime
from pathlib import Path
from typing import Any

from cronsim import CronSim

from tests.benchmarks.expressions import measured
from tests.benchmarks.party import Figures, main

CONFIGURATION = "next(CronSim(expression, now))"


def cron(_n: int, _seconds: float, _directory: Path) -> Figures:
    now = datetime(2026, 1, 1)  # noqa: DTZ001 - only to parse

    def following(text: str, after: datetime) -> Any:
        return next(CronSim(text, after))

    whole = measured(lambda text: CronSim(text, now), lambda *_: None)
    return measured(str, following) | {"parse": whole["parse"]}


if __name__ == "__main__":
    main({"cron": cron})

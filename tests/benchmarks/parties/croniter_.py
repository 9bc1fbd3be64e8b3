"""croniter, of the same expressions."""

from datetime import datetime
from pathlib import Path
from typing import Any

from croniter import croniter

from tests.benchmarks.expressions import measured
from tests.benchmarks.party import Figures, main

CONFIGURATION = "croniter(expression, now).get_next(datetime)"


def cron(_n: int, _seconds: float, _directory: Path) -> Figures:
    def following(fields: str, after: datetime) -> Any:
        return croniter(fields, after).get_next(datetime)

    whole = measured(croniter.expand, lambda *_: None)
    return measured(str, following) | {"parse": whole["parse"]}


if __name__ == "__main__":
    main({"cron": cron})

"""What is measured, of whom, and what is expected of us."""

from dataclasses import dataclass
from math import inf

PEERS = ("apscheduler", "huey", "taskiq", "celery")


@dataclass(frozen=True)
class Case:
    """One measurement, made of several parties in turn. See `party.Figures`."""

    name: str
    n: int
    parties: tuple[str, ...]
    seconds: float = 0.0
    often: bool = True
    """Whether it is repeated; what is only a point of the scaling picture is not."""


_ALL = ("sqlsched", *PEERS)
WINDOW = 6.0
CASES = (
    *(Case("idle", n, ("sqlsched",), WINDOW) for n in (1_000, 1_000_000)),
    Case("idle", 100_000, (*_ALL, "floor"), WINDOW),
    Case("each_second", 100_000, (*_ALL, "floor"), WINDOW),
    Case("burst", 10_000, ("sqlsched", "apscheduler", "huey", "taskiq", "floor")),
    Case("burst", 100_000, ("sqlsched", "taskiq", "floor")),
    Case("burst_by_1", 10_000, ("sqlsched",)),
    Case("burst_by_3", 10_000, ("sqlsched",)),
    Case("lateness", 100, ("sqlsched", "apscheduler", "huey", "taskiq", "floor")),
    Case("subprocess_lateness", 100, ("sqlsched",)),
    Case("starts", 0, ("sqlsched", "floor"), 3.0),
    Case("add", 100_000, ("sqlsched", "apscheduler", "huey", "floor")),
    Case("import", 100_000, ("sqlsched",)),
    Case("help", 0, ("sqlsched", "floor")),
    Case("list", 100, ("sqlsched", "floor")),
    Case("pyz", 0, ("sqlsched",)),
    Case("cron", 0, ("sqlsched", "croniter", "cronsim")),
    Case("commits", 500, ("floor",)),
    # Only for the scaling picture.
    Case("idle", 1_000, PEERS, WINDOW, often=False),
    Case("idle", 10_000, _ALL, WINDOW, often=False),
    Case("each_second", 1_000, _ALL, WINDOW, often=False),
    Case("each_second", 10_000, _ALL, WINDOW, often=False),
    Case("each_second", 1_000_000, ("sqlsched",), WINDOW, often=False),
    Case("burst", 1_000, ("sqlsched", "apscheduler", "huey", "taskiq"), often=False),
    Case("burst", 100_000, ("huey",), often=False),
    Case("burst", 1_000_000, ("sqlsched",), often=False),
)


@dataclass(frozen=True)
class Row:
    """A line of the table: one figure of one case."""

    title: str
    case: str
    n: int
    figure: str
    unit: str
    target: str
    """In words; `limit` is it in numbers."""
    limit: float
    of: tuple[str, str, int] | None = None
    """What ours is divided by before it is compared: a party, a case and its n."""
    at_least: bool = False


ROWS = (
    Row("idle CPU, 100,000 schedules", "idle", 100_000, "cpu", "s/min", "≤ 0.03", 0.03),
    Row(
        *("the same at 1,000,000", "idle", 1_000_000, "cpu", "s/min", "≤ 1.2 × that", 1.2),
        of=("sqlsched", "idle", 100_000),
    ),
    Row("memory, 1,000,000 schedules", "idle", 1_000_000, "rss", "MiB", "≤ 45", 45),
    Row("memory, 100,000 schedules", "idle", 100_000, "rss", "MiB", "≤ 45", 45),
    Row(
        *("one firing each second among 100,000", "each_second", 100_000, "cpu", "s/min"),
        *("≤ ½ of APScheduler", 0.5),
        of=("apscheduler", "each_second", 100_000),
    ),
    Row("burst of 10,000, last one on record", "burst", 10_000, "seconds", "s", "≤ 0.5", 0.5),
    Row("burst of 10,000, lost", "burst", 10_000, "lost", "", "0", 0),
    Row("burst of 100,000, last one on record", "burst", 100_000, "seconds", "s", "≤ 5", 5),
    Row("burst of 100,000, memory", "burst", 100_000, "rss", "MiB", "≤ 150", 150),
    Row(
        *("burst of 10,000 for three processes", "burst_by_3", 10_000, "seconds", "s"),
        *("≤ 1.3 × one", 1.3),
        of=("sqlsched", "burst_by_1", 10_000),
    ),
    Row("the same, run twice", "burst_by_3", 10_000, "twice", "", "0", 0),
    Row("lateness, p50", "lateness", 100, "p50", "ms", "≤ 1", 1),
    Row("lateness, max", "lateness", 100, "max", "ms", "≤ 10", 10),
    Row("lateness of a subprocess, p50", "subprocess_lateness", 100, "p50", "ms", "≤ 10", 10),
    Row(
        *("subprocess runs per second", "starts", 0, "rate", "/s", "≥ 2 × cold", 2),
        of=("floor", "starts", 0),
        at_least=True,
    ),
    Row(
        *("bulk add, durable", "add", 100_000, "rate", "/s", "≥ 50,000", 50_000),
        at_least=True,
    ),
    Row("`sqlsched import`", "import", 100_000, "rate", "/s", "≥ 50,000", 50_000, at_least=True),
    Row(
        *("`sqlsched --help`", "help", 0, "ms", "ms", "≤ 1.3 × click", 1.3),
        of=("floor", "help", 0),
    ),
    Row("`sqlsched list`", "list", 100, "ms", "ms", "≤ 3 × click", 3, of=("floor", "list", 100)),
    Row(
        *("`sqlsched.pyz --help`", "pyz", 0, "ms", "ms", "beside installed", inf),
        of=("sqlsched", "help", 0),
    ),
    Row("next fire time", "cron", 0, "next", "µs", "≤ 8", 8),
    Row("the sparsest next fire time", "cron", 0, "sparsest", "µs", "≤ 20", 20),
    Row("parse of a cron expression", "cron", 0, "parse", "µs", "≤ 60", 60),
)

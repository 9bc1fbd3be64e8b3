"""The expressions that parsing and the next fire time are measured with."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from tests.benchmarks.party import Figures

PLAIN = (
    *("* * * * *", "*/5 * * * *", "0 9 * * 1-5", "30 4 1 * *", "0 0 1 1 *", "15,45 8-18 * * *"),
    *(
        "0 */6 * * *",
        "5 0 * 8 *",
        "0 22 * * 1-5",
        "23 0-20/2 * * *",
        "0 0 1,15 * 3",
        "59 23 31 12 *",
    ),
)
SPARSE = "0 0 29 2 *"
AFTER = datetime(2097, 3, 1, 12, 34, 56, tzinfo=ZoneInfo("Europe/Berlin"))
"""Before 2100, which has no leap day."""
ROUNDS = 300


def measured(parse: Callable[[str], Any], following: Callable[[Any, datetime], Any]) -> Figures:
    """Microseconds: a parse, a next fire time, and that of the sparsest expression."""
    now = datetime(2026, 11, 24, 12, 34, 56, tzinfo=ZoneInfo("Europe/Berlin"))
    parsed = [parse(text) for text in PLAIN]
    sparse = parse(SPARSE)
    following(sparse, AFTER)
    each = [_us(lambda one=one: following(one, now), ROUNDS) for one in parsed]  # type: ignore[misc]
    return {
        "parse": sum(_us(lambda text=text: parse(text), 20) for text in PLAIN) / len(PLAIN),  # type: ignore[misc]
        "next": sum(each) / len(each),
        "sparsest": _us(lambda: following(sparse, AFTER), ROUNDS),
    }


def _us(call: Callable[[], Any], rounds: int) -> float:
    call()
    start = time.perf_counter()
    for _ in range(rounds):
        call()
    return (time.perf_counter() - start) / rounds * 1e6

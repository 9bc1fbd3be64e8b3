"""What every party of the benchmark shares: one process, one measurement, one line of JSON.

A party is a module of `parties/` that calls `main` with its measurements. Each is a function of

    n: how many schedules, firings or rows
    seconds: how long the window is, for what is measured over a window
    directory: an empty place for its files

and returns figures by name. Which names a measurement has: see `Figures`.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

Figures = dict[str, float]
"""idle, each_second: `cpu` (seconds of CPU a minute, all threads and children), `rss` (MiB)
burst: `seconds` from the instant until the last run is finished and on record, `lost`, `twice`
lateness: `p50`, `max`, milliseconds from the instant to the first line of the task
add: `rate`, durable rows a second"""

Measurement = Callable[[int, float, Path], Figures]

SETTLE_SECONDS = 2.0
"""From the start of a scheduler until it is measured."""


ROUND_SECONDS = 1.0
MOST_ROUNDS = 60
"""Who is still busy after so many rounds is measured as it is."""


def main(measurements: dict[str, Measurement]) -> None:
    """Make the one measurement that the command line names, and print its figures."""
    name, n, seconds, directory = sys.argv[1:5]
    print(json.dumps(measurements[name](int(n), float(seconds), Path(directory))), flush=True)
    sys.stdout.flush()
    os._exit(0)  # whatever threads a party has left behind


def window(seconds: float, cpu: Callable[[], float] = time.process_time) -> Figures:
    """CPU a minute and memory of this process, over a window that begins when it has settled."""
    time.sleep(min(SETTLE_SECONDS, seconds))
    before, start = cpu(), time.monotonic()
    time.sleep(seconds)
    used, took = cpu() - before, time.monotonic() - start
    return {"cpu": used * 60 / took, "rss": rss_mib()}


def settle() -> None:
    """Wait until this process has made ready: some take long to read many schedules."""
    for _ in range(MOST_ROUNDS):
        before = time.process_time()
        time.sleep(ROUND_SECONDS)
        if time.process_time() - before < ROUND_SECONDS / 2:
            return


async def window_async(seconds: float) -> Figures:
    """The same on an event loop that serves meanwhile."""
    return await asyncio.to_thread(window, seconds)


def apart(call: Callable[[], object]) -> None:
    """Call in a process of its own, so that preparing something costs this one no memory."""
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError("the preparation failed")


def rss_mib(pid: int | str = "self") -> float:
    """Memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, by its threads' run time, in nanoseconds' precision."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def late(times: list[float]) -> Figures:
    """Milliseconds late, of which there are many."""
    times.sort()
    return {"p50": times[len(times) // 2], "max": times[-1]}

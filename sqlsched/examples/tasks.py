"""Tasks for the examples: any function, plain or async, of any module."""

import asyncio

from sqlsched import current_run


def greet(name: str = "world") -> None:
    """Print a greeting; what a task prints is kept with its run."""
    print(f"hello, {name}")


async def fetch(url: str) -> None:
    """Pretend to fetch something."""
    await asyncio.sleep(0.1)
    print(f"fetched {url}")


def flaky() -> None:
    """Fail at the first attempt, succeed at the second."""
    run = current_run()
    if run is not None and run.attempt == 1:
        raise RuntimeError("the first attempt always fails")
    print("worked this time")

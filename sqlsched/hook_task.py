"""What the process of a hook that is a task does: call it with the run, which is on its stdin."""

import asyncio
import inspect
import json
import sys
from typing import Any

from sqlsched.exceptions import BrokerError
from sqlsched.importing import import_task


def main(path: str) -> None:
    """Import the task and call it with the run, as a dict; an async one is awaited."""
    document = json.load(sys.stdin)
    try:
        function = import_task(path)
    except BrokerError as error:
        sys.exit(str(error))
    result = function(document)
    if inspect.isawaitable(result):
        asyncio.run(_wait_for(result))


async def _wait_for(result: Any) -> None:
    await result

"""Telling a cancellation that somebody asked for from one that code of a user raised itself."""

import asyncio


def is_asked_for() -> bool:
    """Whether somebody cancels the current task; if not, its CancelledError came from within, and
    is a failure as others are."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

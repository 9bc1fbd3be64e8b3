"""A ledger that cannot be written to: the write is tried again, after ever longer waits."""

import logging

from sqlsched.exceptions import StorageError
from sqlsched.instants import SECOND_US

log = logging.getLogger("sqlsched")

LONGEST_WAIT_S = 30


class Trouble:
    """Writes that failed, one after another; true if there were any."""

    def __init__(self) -> None:
        self._failures = 0
        self.retry_us = 0
        """When to try again."""

    def __bool__(self) -> bool:
        return self._failures > 0

    def note(self, now_us: int, error: StorageError) -> None:
        """A write failed. It is tried again, whatever it takes; the sends it records are not."""
        delay_s = min(2**self._failures, LONGEST_WAIT_S)
        if self._failures == 0 or delay_s == LONGEST_WAIT_S:
            log.error("%s; trying again, next in %d s", error, delay_s)
        self._failures += 1
        self.retry_us = now_us + delay_s * SECOND_US

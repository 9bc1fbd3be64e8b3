"""How long a scheduler remembers: old runs are forgotten between firings."""

import logging
from collections.abc import Callable

from sqlsched.engine.settings import Settings
from sqlsched.exceptions import StorageError
from sqlsched.instants import MINUTE_US, SECOND_US
from sqlsched.storage import pruning
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.ledger import Ledger

log = logging.getLogger("sqlsched")

BELIEVED_AFTER_US = 60 * MINUTE_US
"""How long a clock that was put forward is doubted."""
_ROUND_US = 60 * MINUTE_US
"""How often all is gone through again: what had not ended yet, or failed, was passed over."""


class Retention:
    """Forgets what is older than `Settings.keep_us`, or `keep_failed_us` if it went badly.

    It goes through the ledger from the oldest row on, and remembers how far it came.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._after = 0
        self._round_us = self._swept_us = 0
        self._wait_us = MINUTE_US

    def is_due(self, now_us: int) -> bool:
        """Whether to sweep: once a minute, or each second while there is more to forget."""
        return not 0 <= now_us - self._swept_us < self._wait_us

    def doubt(self, now_us: int) -> None:
        """The clock was put forward, perhaps wrongly: history is not judged by it at once."""
        self._swept_us, self._wait_us = now_us, BELIEVED_AFTER_US

    async def sweep(self, now_us: int, in_the_way: Callable[[], bool]) -> None:
        """Forget some rows, and go on until nothing old is left or something is in the way."""
        self._swept_us, self._wait_us = now_us, MINUTE_US
        if not 0 <= now_us - self._round_us < _ROUND_US:
            self._after, self._round_us = 0, now_us
        cut = pruning.Cut(now_us - self._settings.keep_us, now_us - self._settings.keep_failed_us)
        if max(cut.before_us, cut.bad_before_us) <= 0:
            return  # all is to be kept: there is no time before 1970
        try:
            while more := await self._step(cut):
                if in_the_way():
                    break
            else:
                await self._ledger.run(pruning.forget_changes, cut.before_us)
            self._wait_us = SECOND_US if more else MINUTE_US
        except DamagedDatabaseError:
            raise
        except StorageError as error:
            log.warning("old runs are kept for now: %s", error)

    async def _step(self, cut: pruning.Cut) -> bool:
        swept = await self._ledger.run(pruning.prune, cut, self._after)
        if swept.last_old is None:
            return False
        self._after = swept.last_old
        return True

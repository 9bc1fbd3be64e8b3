"""The other schedulers of this database: noticing that one died, and taking over its runs."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlsched import processes
from sqlsched.exceptions import StorageError
from sqlsched.storage import owners, peers, recovery
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.ledger import Ledger
from sqlsched.storage.turn import Owner

if TYPE_CHECKING:
    from sqlsched.storage.files import OwnerLock

log = logging.getLogger("sqlsched")


class Peers:
    """This scheduler's entry among the others, and its eye on them."""

    def __init__(self, ledger: Ledger, *, resend: bool = True) -> None:
        self._ledger = ledger
        self._resend = resend
        self._boot_id = processes.boot_id()
        self._others: Sequence[Owner] = ()
        self._lock: OwnerLock | None = None
        self.owner, self.token = 0, ""

    async def join(self, now_us: int) -> None:
        """Enter this scheduler among those that serve the database, and look who is there."""
        entry, self._lock = await self._ledger.run(owners.register, self._boot_id, now_us)
        self.owner, self.token = entry.owner, entry.token
        self._others = await self._ledger.run(peers.others, self.owner)

    async def leave(self, now_us: int) -> None:
        """Give back what was claimed, and go.

        If that cannot be put on record, whoever comes next does it, as if this one had died.
        """
        try:
            await self._ledger.run(owners.unregister, self.owner, now_us)
        except DamagedDatabaseError:
            raise
        except StorageError as error:
            log.warning("the next to serve this database clears up after this one: %s", error)
        finally:
            if self._lock is not None:
                self._lock.release()

    @property
    def alone(self) -> bool:
        """Whether nobody else serves the database, as far as is known."""
        return not self._others

    def observe(self, others: Sequence[Owner]) -> None:
        """Take note of who else serves the database."""
        self._others = others

    def somebody_died(self) -> bool:
        """Whether one of the others holds its lock no more. Microseconds to ask."""
        return any(not owners.is_alive(self._ledger.path, other) for other in self._others)

    async def take_over(self, now_us: int) -> None:
        """End what the dead left running, give back what they had claimed, and record it."""
        path = self._ledger.path
        self._others = await self._ledger.run(peers.others, self.owner)  # some left in order
        dead = [other for other in self._others if not owners.is_alive(path, other)]
        for orphan in await self._ledger.run(recovery.orphans, dead):
            if orphan.boot_id == self._boot_id:
                processes.kill_leftovers(orphan.pid, orphan.pid_started)
        abandoned = await self._ledger.run(recovery.take_over, dead, now_us, resend=self._resend)
        self._others = [other for other in self._others if other not in dead]
        for other in dead:
            log.warning("process %d, which served this database, died", other.pid)
        for run_id in abandoned:
            log.warning("run %d is abandoned: the process that ran it died", run_id)

"""`CreatedSchedule`: what `schedule_by_cron`, `_time` and `_interval` give back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlsched.scheduled_task import ScheduledTask

if TYPE_CHECKING:
    from sqlsched.abc import RunOutcome, ScheduleSource
    from sqlsched.kicker import Kicker


@dataclass(frozen=True, slots=True)
class CreatedSchedule:
    """A schedule that `source` has stored. `kicker` is what made it, and sends it."""

    task: ScheduledTask
    source: "ScheduleSource"
    kicker: "Kicker[Any]"

    @property
    def schedule_id(self) -> str:
        """What the source, and the command line, know it by."""
        return self.task.schedule_id

    async def kiq(self) -> "RunOutcome | None":
        """Send it now, beside its schedule and outside any ledger; see `Kicker.kiq`."""
        return await self.kicker.kiq(*self.task.args, **self.task.kwargs)

    async def unschedule(self) -> None:
        """Remove it from its source; ScheduleNotFoundError if it is not there any more."""
        await self.source.delete_schedule(self.schedule_id)

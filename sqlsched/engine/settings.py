"""How a loop is to run."""

from dataclasses import dataclass, replace

from sqlsched.instants import SECOND_US


@dataclass(frozen=True, slots=True)
class Settings:
    """How a loop is to run."""

    once: bool = False
    until_idle: bool = False
    until_us: int | None = None
    not_before_us: int | None = None
    catchup_window: int | str | None = None
    keep_us: int = 90 * 86_400 * SECOND_US
    keep_failed_us: int = 90 * 86_400 * SECOND_US
    early: bool = True
    """Whether one wakes up before a firing to claim it, so that it starts on the instant."""

    def with_options(
        self,
        catchup_window: int | str | None,
        keep_seconds: int,
        keep_failed_seconds: int | None,
        *,
        early: bool = True,
    ) -> "Settings":
        """The same, with what the command line adds; failed runs are kept as others by default."""
        failed_seconds = keep_seconds if keep_failed_seconds is None else keep_failed_seconds
        return replace(
            self,
            catchup_window=catchup_window,
            keep_us=keep_seconds * SECOND_US,
            keep_failed_us=failed_seconds * SECOND_US,
            early=early,
        )

    def with_first_run(self, not_before_us: int) -> "Settings":
        """The same, running no recurring firing from before an instant."""
        return replace(self, not_before_us=not_before_us)

    def set_back(self, now_us: int) -> "Settings":
        """The same, once the clock was put back: the first run is over, or comes now."""
        if self.not_before_us is None:
            return self
        return replace(self, not_before_us=min(self.not_before_us, now_us))

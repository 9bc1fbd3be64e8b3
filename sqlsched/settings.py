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

    def with_options(
        self, catchup_window: int | str | None, keep_seconds: int, keep_failed_seconds: int | None
    ) -> "Settings":
        """The same, with what the command line adds; failed runs are kept as others by default."""
        keep_us = keep_seconds * SECOND_US
        failed_us = keep_us if keep_failed_seconds is None else keep_failed_seconds * SECOND_US
        return replace(
            self, catchup_window=catchup_window, keep_us=keep_us, keep_failed_us=failed_us
        )

    def with_first_run(self, not_before_us: int) -> "Settings":
        """The same, running no recurring firing from before an instant."""
        return replace(self, not_before_us=not_before_us)

"""`Observer`: who watches a scheduler run, without a part in it. Every method does nothing here."""

from collections.abc import Callable


class Observer:
    """Is told of what a scheduler does, as it does it. Called on the event loop: be quick."""

    def begin(self, going: Callable[[], int], waiting: Callable[[], int]) -> None:
        """A scheduler serves from now on; these tell how many runs are on their way in it, and how
        many are claimed and have not started."""

    def sent(self, schedule_id: str, late_us: int) -> None:
        """A run was given to the broker, so long after it was due."""

    def ended(self, schedule_id: str, status: str, finished_us: int) -> None:
        """A run that was given to the broker has ended."""

    def unrun(self, schedule_id: str, status: str, reason: str, count: int) -> None:
        """So many firings of a schedule did not run."""

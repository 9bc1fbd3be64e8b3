"""`Supervisor`: whoever started a scheduler's process and wants to be told how it is."""

from collections.abc import Callable


class Supervisor:
    """Nobody: it is told everything and does nothing. What tells somebody overrides all three.

    A call takes microseconds and never raises: no scheduler fails because nobody listens.
    """

    def ready(self, text: str) -> None:
        """The scheduler is up; `text` says what it does."""

    def alive(self, elapsed_s: float, describe: Callable[[], str]) -> None:
        """The loop turns. Called within each second, on the monotonic clock; `describe` says, to
        people, how it is."""

    def stopping(self) -> None:
        """Nothing more is started, and what runs may end."""


NOBODY = Supervisor()

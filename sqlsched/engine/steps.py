"""Noticing that the wall clock was set, or that the machine was suspended."""

from sqlsched.clock import Clock
from sqlsched.instants import SECOND_US

STEP_US = SECOND_US // 2
"""A clock that gains or loses more than this against the monotonic one was set."""


class Steps:
    """The wall clock held against the monotonic one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._skew_us = self._measure()

    def since_us(self) -> int:
        """By how much the clock was set since the last `take_us`: forward, or (negative) back."""
        step_us = self._measure() - self._skew_us
        return step_us if abs(step_us) > STEP_US else 0

    def take_us(self) -> int:
        """The same, which is taken note of."""
        step_us = self.since_us()
        self._skew_us += step_us
        return step_us

    def give_back(self, step_us: int) -> None:
        """It is to be noticed again."""
        self._skew_us -= step_us

    def _measure(self) -> int:
        return self._clock.now_us() - round(self._clock.monotonic() * SECOND_US)

"""Every fault that has a long form: one line each. `python -m tests.faults` runs them.

A fault is a function of a directory to work in, how many times to strike (or for how many
seconds), and the seed of all that is random in it; it returns a `Row`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a fault. `violations` are the promises that were broken, a sentence each."""

    count: int
    """How many times it struck, or for how many seconds."""
    expected: int = 0
    """Firings that there should have been, computed without the program."""
    lost: int = 0
    doubled: int = 0
    """Firings that ran more often than is promised."""
    abandoned: int = 0
    """Runs that ended so: nobody knows how far they got."""
    violations: tuple[str, ...] = ()
    figures: Counter[str] = field(default_factory=Counter)
    """What else was counted, or is worth knowing."""

    def __add__(self, other: "Row") -> "Row":
        return Row(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.violations)


@dataclass(frozen=True)
class Fault:
    """Where a fault is, and how it is run at full length."""

    function: str
    """`module:function`, within this package."""
    count: int
    unit: str
    """What is counted: `kills`, or `s`."""

    def load(self) -> Callable[[Path, int, int], Row]:
        """The function; its module is imported for it alone."""
        module, _, name = self.function.partition(":")
        found: Callable[[Path, int, int], Row] = getattr(
            import_module(f"tests.faults.{module}"), name
        )
        return found

    def strike(self, directory: Path, count: int, seed: int) -> Row:
        """Run it."""
        return self.load()(directory, count, seed)


TABLE = {
    "share": Fault("share:share", 60, "s"),
    "kill": Fault("kill:local", 6_000, "kills"),
    "kill-queue": Fault("kill:queue", 2_000, "kills"),
    "kill-queue-once": Fault("kill:queue_at_most_once", 2_000, "kills"),
    "kill-making": Fault("making:making", 500, "kills"),
    "stop": Fault("signals:stop", 500, "stops"),
    "term": Fault("signals:term", 400, "signals"),
    "races": Fault("races:races", 600, "s"),
    "disk-full": Fault("trouble:full", 10_000, "faults"),
    "disk-broken": Fault("trouble:broken", 10_000, "faults"),
    "disk-read-only": Fault("trouble:read_only", 10_000, "faults"),
    "disk-locked": Fault("trouble:locked", 10_000, "faults"),
    "power": Fault("power:tasks", 10_000, "failures"),
    "power-queue": Fault("power:queue", 10_000, "failures"),
    "power-forgotten": Fault("power:forgotten", 1_000, "failures"),
    "swap": Fault("swap:swapped", 140, "events"),
    "clock": Fault("tests_as_faults:clock", 10_000, "steps"),
    "clock-zones": Fault("tests_as_faults:zones", 2, "changes"),
    "children": Fault("tests_as_faults:children", 30, "rounds"),
    "fuzz-words": Fault("tests_as_faults:words", 20_000, "calls"),
    "fuzz-databases": Fault("tests_as_faults:databases", 20_000, "files"),
    "soak": Fault("soak:soak", 3_600, "s"),
}

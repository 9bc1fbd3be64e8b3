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
    """What is done, where that is, and how it is run at full length."""

    what: str
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
    "kill": Fault(
        "`kill -9` of four to eight `run`s, at random and before and after commits and starts",
        *("kill:local", 6_000, "kills"),
    ),
    "kill-queue": Fault(
        "the same, sending to a queue: what was on its way is sent again, with the same task id",
        *("kill:queue", 2_000, "kills"),
    ),
    "kill-queue-once": Fault(
        "the same with `--delivery at-most-once`: it is `abandoned`",
        *("kill:queue_at_most_once", 2_000, "kills"),
    ),
    "kill-making": Fault("`kill -9` while a database is made", "making:making", 500, "kills"),
    "stop": Fault("SIGSTOP and SIGCONT", "signals:stop", 500, "stops"),
    "term": Fault("SIGTERM, once and twice", "signals:term", 400, "signals"),
    "share": Fault("three `run`s on one database", "share:share", 60, "s"),
    "races": Fault(
        "`add`, `edit`, `pause`, `resume`, `rm`, `import`, `trigger`, `cancel` and pruning, racing "
        "four `run`s that come and go",
        *("races:races", 600, "s"),
    ),
    "disk-full": Fault("no room at a write of a scripted day", "trouble:full", 10_000, "faults"),
    "disk-broken": Fault("an I/O error at a write of it", "trouble:broken", 10_000, "faults"),
    "disk-read-only": Fault(
        "a file system that becomes read-only", "trouble:read_only", 10_000, "faults"
    ),
    "disk-locked": Fault("a lock that another program holds", "trouble:locked", 10_000, "faults"),
    "power": Fault(
        "power loss after each sync of a day, and at ten moments until the next",
        *("power:tasks", 10_000, "failures"),
    ),
    "power-queue": Fault("the same, sending to a queue", "power:queue", 10_000, "failures"),
    "power-forgotten": Fault(
        "a sync that fails and forgets what it was to write, then power loss",
        *("power:forgotten", 1_000, "failures"),
    ),
    "swap": Fault(
        "the database deleted, replaced, overwritten, restored or damaged while it runs, or its "
        "log taken away",
        *("swap:swapped", 140, "events"),
    ),
    "clock": Fault(
        "the clock set by ± 1 s to ± 400 days, suspended, started in 1970",
        *("tests_as_faults:clock", 10_000, "steps"),
    ),
    "clock-zones": Fault(
        "the next two clock changes of every time zone", "tests_as_faults:zones", 2, "changes"
    ),
    "children": Fault(
        "tasks that ignore SIGTERM, fork daemons, hold, fill or close the pipe, never end a line, "
        "need too much memory, die; their scheduler killed",
        *("tests_as_faults:children", 30, "children"),
    ),
    "fuzz-words": Fault(
        "calls with fuzzed words and files", "tests_as_faults:words", 20_000, "calls"
    ),
    "fuzz-databases": Fault(
        "damaged databases, each read and served", "tests_as_faults:databases", 20_000, "files"
    ),
    "soak": Fault(
        "three `run`s and a thousand schedules; memory, descriptors and files stay flat",
        *("soak:soak", 3_600, "s"),
    ),
}

"""What a change makes of the firings to come: which are new, and which are gone."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from sqlsched.simulation import Outcome, Progress, Scenario, simulated
from sqlsched.storage.copies import OnBad, Snapshot

_Firing = tuple[int, str]
"""A nominal time, and the id of a schedule."""


@dataclass(slots=True)
class Difference:
    """How many firings there are after a change that there were not before, and so on."""

    firings_added: int = 0
    firings_removed: int = 0
    new_overlaps: int = 0

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(
            self.firings_added + other.firings_added,
            self.firings_removed + other.firings_removed,
            self.new_overlaps + other.new_overlaps,
        )


def differences(
    before: Snapshot,
    after: Snapshot,
    scenario: Scenario,
    *,
    progress: Callable[[str], AbstractContextManager[Progress]],
    on_bad: OnBad,
) -> dict[str, Difference]:
    """By schedule, what differs between two states of some schedules when a scenario is played.

    `progress` is told which state is being played, "before" or "after".
    """
    with ExitStack() as stack:

        def play(taken: Snapshot, state: str) -> Outcome:
            with progress(state) as advance:
                playing = simulated(taken, scenario, progress=advance, on_bad=on_bad)
                return stack.enter_context(playing)

        was, will_be = play(before, "before"), play(after, "after")
        result: defaultdict[str, Difference] = defaultdict(Difference)
        for (_, schedule_id), is_new in _compare(
            _firings(was, scenario), _firings(will_be, scenario)
        ):
            if is_new:
                result[schedule_id].firings_added += 1
            else:
                result[schedule_id].firings_removed += 1
        for (_, schedule_id), is_new in _compare(was.overlaps(), will_be.overlaps()):
            result[schedule_id].new_overlaps += is_new
        return dict(result)


def _firings(outcome: Outcome, scenario: Scenario) -> Iterator[_Firing]:
    """Those to come: what is overdue at the beginning is not."""
    for found in outcome.firings():
        if found.scheduled_us >= scenario.from_us:
            yield found.scheduled_us, found.schedule_id


def _compare(before: Iterable[_Firing], after: Iterable[_Firing]) -> Iterator[tuple[_Firing, bool]]:
    """What is only in one of two series, each in order; True for what is only `after`."""
    both = heapq.merge(((firing, False) for firing in before), ((f, True) for f in after))
    for firing, found in groupby(both, key=itemgetter(0)):
        sides = [side for _, side in found]
        if len(sides) == 1:
            yield firing, sides[0]

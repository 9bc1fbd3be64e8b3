"""Runs that this process has claimed and not started: armed for their time, or waiting for room."""

import heapq
from collections import deque
from collections.abc import Collection, Iterable

from sqlsched.storage.claims import FOREVER_US
from sqlsched.storage.turn import Armed

BATCH = 512
"""How many firings one turn claims beyond its room, or decides about: some milliseconds' work."""

AHEAD_FACTOR = 16
"""How many firings are claimed and not started, as a multiple of the concurrency."""
ALONE_AHEAD = 16_384
"""The same for a process that nobody could help."""


class Backlog:
    """Claimed runs in the order in which they are to be started."""

    def __init__(self) -> None:
        self._armed: list[tuple[int, int]] = []
        """Heap of (due_us, run_id): not yet due, or not yet decided about."""
        self._roomless: deque[int] = deque()
        """Due, and decided: they start as soon as there is room."""

    def __len__(self) -> int:
        return len(self._armed) + len(self._roomless)

    def room_ahead(self, concurrency: int, alone: bool) -> int:
        """How many more may be claimed before their time: whole batches, as each has its price."""
        limit = max(AHEAD_FACTOR * concurrency, ALONE_AHEAD if alone else 0)
        batch = min(BATCH, limit // 2)
        return batch if limit - len(self) >= batch else 0

    def arm(self, runs: Iterable[Armed]) -> None:
        """Add runs that were claimed."""
        for run in runs:
            heapq.heappush(self._armed, (run.due_us, run.run_id))

    def wait_for_room(self, run_ids: Iterable[int]) -> None:
        """Add runs that are due and found no room."""
        self._roomless += run_ids

    def rearm(self, runs: Iterable[Armed]) -> None:
        """Begin anew with what is claimed: times have changed."""
        self._roomless.clear()
        self._armed = [(run.due_us, run.run_id) for run in runs]
        heapq.heapify(self._armed)

    def revoke(self, run_ids: Collection[int]) -> None:
        """Forget runs whose claim was taken back."""
        if run_ids:
            self._armed = [entry for entry in self._armed if entry[1] not in run_ids]
            heapq.heapify(self._armed)

    def start_us(self, room: int) -> int:
        """When one of them is to be started, or told that it may not be."""
        if self._roomless and room > 0:
            return 0
        return self._armed[0][0] if self._armed else FOREVER_US

    def take(self, until_us: int, room: int) -> list[int]:
        """What is to be decided now: what there is room for, and what is due by `until_us`."""
        due: list[int] = []
        while self._roomless and len(due) < room:
            due.append(self._roomless.popleft())
        while self._armed and self._armed[0][0] <= until_us and len(due) < room + BATCH:
            due.append(heapq.heappop(self._armed)[1])
        return due

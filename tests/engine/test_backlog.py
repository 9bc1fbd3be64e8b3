"""Claimed runs that wait for their time, or for room."""

from sqlsched.engine.backlog import BATCH, Backlog
from sqlsched.storage.claims import FOREVER_US
from sqlsched.storage.turn import Armed


def backlog(*due_us: int) -> Backlog:
    """Armed runs 0, 1, 2, … that are due at these times."""
    made = Backlog()
    made.arm(Armed(run_id, us) for run_id, us in enumerate(due_us))
    return made


def test_runs_come_in_the_order_of_their_times_and_not_before() -> None:
    made = backlog(30, 10, 20)
    assert made.start_us(1) == 10
    assert made.take(until_us=20, room=1) == [1, 2]
    assert made.take(until_us=29, room=1) == []
    assert (len(made), made.start_us(0)) == (1, 30)


def test_what_waits_for_room_comes_first_and_only_into_room() -> None:
    made = backlog(10)
    made.wait_for_room([7, 8, 9])
    assert made.start_us(0) == 10
    assert made.start_us(1) == 0
    assert made.take(until_us=5, room=2) == [7, 8]
    assert made.take(until_us=10, room=0) == [0]
    assert made.take(until_us=10, room=5) == [9]
    assert (len(made), made.start_us(5)) == (0, FOREVER_US)


def test_a_crowd_is_taken_in_bounded_batches() -> None:
    made = backlog(*range(3 * BATCH))
    assert len(made.take(until_us=FOREVER_US, room=4)) == BATCH + 4
    assert len(made) == 2 * BATCH - 4


def test_a_claim_that_was_taken_back_is_not_started() -> None:
    made = backlog(10, 20, 30)
    made.revoke([0, 2])
    assert made.take(until_us=99, room=9) == [1]


def test_rearming_begins_anew() -> None:
    made = backlog(10, 20)
    made.wait_for_room([7])
    made.rearm([Armed(1, 50), Armed(0, 40)])
    assert (made.start_us(1), len(made)) == (40, 2)
    assert made.take(until_us=50, room=5) == [0, 1]

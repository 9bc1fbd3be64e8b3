"""Sets of numbers in an integer answer like sets."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sqlsched.bits import count_between, first_from, last_until, pack

NUMBERS = st.integers(0, 1440)


@settings(deadline=None)  # machines stall
@given(st.sets(NUMBERS), NUMBERS, NUMBERS)
def test_a_packed_set_answers_like_a_set(numbers: set[int], start: int, end: int) -> None:
    bits, end = pack(numbers), max(start, end)
    assert first_from(bits, start) == min((n for n in numbers if n >= start), default=-1)
    assert last_until(bits, end) == max((n for n in numbers if n <= end), default=-1)
    assert count_between(bits, start, end) == len([n for n in numbers if start <= n < end])

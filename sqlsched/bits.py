"""Sets of small numbers in one integer: bit n says whether n is in it.

A day's minutes take 220 bytes so, a year's days 76, and what comes next is a few operations away.
"""

from collections.abc import Iterable


def pack(numbers: Iterable[int]) -> int:
    """The set of these numbers, none below 0."""
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return bits


def first_from(bits: int, start: int) -> int:
    """The smallest number of the set that is not below `start`; -1 if there is none."""
    rest = bits >> start
    return start + (rest & -rest).bit_length() - 1 if rest else -1


def last_until(bits: int, end: int) -> int:
    """The largest number of the set that is not above `end`; -1 if there is none."""
    return (bits & ((2 << end) - 1)).bit_length() - 1


def count_between(bits: int, start: int, end: int) -> int:
    """How many numbers of the set lie in [start, end)."""
    return (bits >> start & ((1 << end - start) - 1)).bit_count()

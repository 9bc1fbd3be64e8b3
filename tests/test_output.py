"""What a run prints, in bounded memory."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlsched.output import HEAD_BYTES, KEEP_BYTES, OutputBuffer, render


def filled(*pieces: bytes) -> OutputBuffer:
    buffer = OutputBuffer()
    for piece in pieces:
        buffer.write(piece)
    return buffer


def test_little_output_is_kept_whole() -> None:
    assert filled(b"one\n", b"", b"two\n").text() == "one\ntwo\n"
    assert filled().text() == ""


def test_exactly_as_much_as_is_kept_loses_nothing() -> None:
    data = bytes(range(32, 96)) * (KEEP_BYTES // 64)
    assert filled(data).text() == data.decode()


def test_of_much_output_the_head_and_the_tail_are_kept_and_the_gap_is_counted() -> None:
    buffer = filled(b"a" * HEAD_BYTES, b"b" * 1000, b"c" * HEAD_BYTES)
    assert buffer.text() == "a" * HEAD_BYTES + "\n[… 1000 bytes left out …]\n" + "c" * HEAD_BYTES
    assert buffer.total_bytes == KEEP_BYTES + 1000


def test_one_write_beyond_all_bounds_is_cut_like_many() -> None:
    data = b"".join(b"%07d\n" % n for n in range(50_000))
    at_once, in_lines = filled(data), filled(*data.splitlines(keepends=True))
    assert at_once.text() == in_lines.text()
    assert at_once.tail == data[-HEAD_BYTES:]


def test_bytes_that_are_no_utf_8_are_replaced_also_where_a_character_was_cut() -> None:
    assert filled(b"a\xffb").text() == "a\ufffdb"
    assert render("é".encode()[:1], "é".encode()[1:], 4) == "\ufffd\n[… 2 bytes left out …]\n\ufffd"


@pytest.mark.parametrize("line", [b"x", b"x" * 99 + b"\n", b"x" * 5000])
def test_memory_stays_bounded_however_the_output_is_cut_up(line: bytes) -> None:
    buffer = filled(*[line] * (2 * KEEP_BYTES // len(line)))
    tracemalloc.start()
    try:
        for _ in range(max(400, 2_000_000 // (20 * len(line)))):
            buffer.write(line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * KEEP_BYTES


@given(st.lists(st.binary(max_size=20_000), max_size=20), st.integers(1, 5))
def test_however_it_was_written_the_first_and_the_last_bytes_are_kept(
    pieces: list[bytes], times: int
) -> None:
    data = b"".join(pieces * times)
    buffer = filled(*pieces * times)
    assert buffer.head == data[:HEAD_BYTES]
    assert buffer.tail == data[HEAD_BYTES:][-HEAD_BYTES:]
    assert buffer.total_bytes == len(data)

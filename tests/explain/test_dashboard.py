"""A frame of `watch`: what is in it, and that it fits, whatever the size."""

import re

import pytest

from sqlsched.explain.dashboard import Coming, Ended, Going, Screen, Snapshot, frame, update
from sqlsched.explain.evidence import Service

NOW_US = 1_800_014_400 * 1_000_000
"""2027-01-15T12:00:00Z."""


def t(seconds: float) -> int:
    """So many seconds from now."""
    return NOW_US + round(seconds * 1_000_000)


BUSY = Snapshot(
    path="shop.db",
    serving=[Service(7, t(-90061), None), Service(8, t(-5), None)],
    going=[
        Going(12, "invoices", "shop:bill", "running", 1, t(-125), 7),
        Going(13, "mail", "shop:send", "sending", 2, t(0), None),
    ],
    ended=[
        Ended(11, "ping", "failed", None, "ValueError: \x1b[31mno\nroute", t(-10), t(-8.5), 1),
        Ended(10, "nightly", "missed", "outside-catchup-window", None, None, t(-70), 4),
    ],
    coming=[Coming("ping", "curl example.org", t(4.2)), Coming("late", "m:f", t(-30))],
    counts={"running": 2, "claimed": 0, "waiting": 3},
)


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


def test_the_whole_frame() -> None:
    assert frame(BUSY, NOW_US, 10, Screen(78)) == [
        "sqlsched shop.db                                       2027-01-15 12:00:00 UTC",
        "served by pid 7 for 1d1h, pid 8 for 5s; 2 running, 3 waiting",
        "",
        "RUNNING",
        "  invoices  run 12  since 11:57:55  2m5s  by pid 7  shop:bill",
        "  mail      run 13  since 12:00:00  0s              being sent attempt 2 shop…",
        "",
        "ENDED",
        r"  ping     run 11  8s ago     failed  after 1.5 s  ValueError: \x1b[31mno rou…",
        "  nightly  run 10  1m10s ago  missed               4 firings outside-catchup-…",
        "",
        "NEXT",
        "  ping  in 4s     2027-01-15 12:00:04  curl example.org",
        "  late  30s late  2027-01-15 11:59:30  m:f",
    ]


def test_nobody_running_is_said_with_since_when() -> None:
    gone = Snapshot(path="shop.db", last=Service(9, t(-100), t(-60)))
    assert frame(gone, NOW_US, 5, Screen(80))[1] == "nobody is running; pid 9 was, 1m ago"
    never = frame(Snapshot(path="shop.db"), NOW_US, 5, Screen(80))
    assert never[1] == "nobody is running, and nobody ever was"
    assert never.count("  nothing") == 3


def test_what_has_no_row_is_counted() -> None:
    going = [Going(n, f"job{n}", "m:f", "running", 1, t(-n), 7) for n in range(3)]
    busy = Snapshot(path="x", going=going, counts={"running": 70})
    lines = frame(busy, NOW_US, 2, Screen(80))
    assert lines[3] == "RUNNING (2 of 70)"
    assert lines[6] == ""


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 9, 12, 24, 50])
@pytest.mark.parametrize("width", [1, 2, 10, 23, 24, 25, 40, 79, 200])
def test_a_frame_fits_a_terminal_of_any_size(width: int, height: int) -> None:
    for has_unicode in (True, False):
        for has_colour in (True, False):
            screen = Screen(width, height, has_unicode, has_colour)
            lines = plain(frame(BUSY, NOW_US, 10, screen))
            assert 0 < len(lines) <= height
            assert max(map(len, lines)) <= width
            assert has_unicode or all(line.isascii() for line in lines)


def test_each_section_has_a_row_even_where_there_is_little_room() -> None:
    lines = frame(BUSY, NOW_US, 10, Screen(80, 11))
    assert [line.split()[0] for line in lines[2:] if line] == [
        *("RUNNING", "invoices", "ENDED", "ping", "NEXT", "ping"),
    ]


def test_colour_tells_what_went_wrong_and_only_where_it_is_wanted() -> None:
    coloured = "\n".join(frame(BUSY, NOW_US, 10, Screen(80, None, True, True)))
    assert re.search(r"\x1b\[31m +failed", coloured)
    assert "\x1b" not in "\n".join(frame(BUSY, NOW_US, 10, Screen(80)))


def test_what_would_steer_the_terminal_is_shown_and_not_sent() -> None:
    assert not any("\x1b[31mno" in line for line in frame(BUSY, NOW_US, 10, Screen(200)))


def test_an_update_starts_at_the_top_and_clears_what_is_left_over() -> None:
    assert update(["ab", "c"]) == "\x1b[Hab\x1b[K\r\nc\x1b[K\x1b[J"


def test_a_clock_that_was_put_back_makes_no_negative_times() -> None:
    lines = "\n".join(frame(BUSY, t(-1000), 10, Screen(100)))
    assert not re.search(r"-\d+[smhd]", lines)

"""The chart of `timeline`, by what it draws: rows in, lines or a picture out."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sqlsched.explain.timeline import MARKS, Bar, Gap, Row, Style, Window, lines, ticks
from sqlsched.explain.timeline_svg import Picture
from sqlsched.instants import MINUTE_US
from sqlsched.timezones import zone_info
from sqlsched.trigger import Trigger

NOON_US = 1_800_014_400 * 1_000_000
"""2027-01-15T12:00:00Z."""
PICTURE = Path(__file__).with_name("timeline.svg")
SVG = "{http://www.w3.org/2000/svg}"


def m(minutes: float) -> int:
    """So many minutes after noon."""
    return NOON_US + round(minutes * MINUTE_US)


HOUR = Window(m(0), m(60), m(30))


def cron(text: str) -> Trigger:
    return Trigger(text, None, None, None, None, None, 0)


def row(
    name: str = "job", bars: Iterable[Bar] = (), due: Iterable[int] = (), *, paused: bool = False
) -> Row:
    return Row(name, paused, bars, due)


def draw(
    *rows: Row,
    gaps: Iterable[Gap] = (),
    window: Window = HOUR,
    width: int = 65,
    longest: int = 3,
    **style: Any,
) -> list[str]:
    """A chart whose columns are a minute each."""
    return list(lines(rows, gaps, window, longest, Style(width, **style)))


def chart(*rows: Row, **options: Any) -> list[str]:
    """The lines of the rows alone, without their labels."""
    drawn = draw(*rows, **options)
    return [line[5:] for line in drawn[3 : 3 + len(rows)]]


# -- the rows -------------------------------------------------------------------------------------


def test_a_run_is_a_bar_from_its_start_to_its_end() -> None:
    bars = [Bar(1, "succeeded", m(2), m(5)), Bar(2, "failed", m(7), m(7.5))]
    assert chart(row(bars=bars))[0][:10] == "  ███  ✗  "


def test_what_ends_with_a_column_does_not_reach_into_the_next() -> None:
    assert chart(row(bars=[Bar(1, "succeeded", m(2), m(3))]))[0][:5] == "  █  "
    assert chart(row(bars=[Bar(1, "succeeded", m(2), m(3) + 2)]))[0][:5] == "  ██ "


def test_what_began_before_or_ends_after_is_cut() -> None:
    bars = [Bar(1, "succeeded", m(-9), m(1)), Bar(2, "running", m(59), m(99))]
    drawn = chart(row(bars=bars))[0]
    assert (drawn[0], drawn[1], drawn[59], len(drawn)) == ("█", " ", "▶", 60)


def test_firings_to_come_are_ticks_and_those_of_a_paused_schedule_look_otherwise() -> None:
    plain, paused = chart(row(due=[m(40), m(50)]), row(due=[m(40)], paused=True))
    assert plain == " " * 30 + "┊" + " " * 9 + "╷" + " " * 9 + "╷"
    assert paused == " " * 30 + "┊" + " " * 9 + "╎"


def test_when_nobody_was_running_every_row_is_shaded_where_it_is_empty() -> None:
    first, second = chart(
        row(bars=[Bar(1, "succeeded", m(3), m(6))]), row(), gaps=[Gap(m(4), m(8))]
    )
    assert first[:10] == "   ███░░  "
    assert second[:10] == "    ░░░░  "


def test_of_what_falls_into_one_place_the_worst_is_seen() -> None:
    bars = [Bar(n, status, m(1), m(1.2)) for n, status in enumerate(("failed", "succeeded"))]
    assert chart(row(bars=bars))[0][1] == "✗"
    assert chart(row(bars=bars[::-1]))[0][1] == "✗"


def test_missed_firings_are_drawn_from_the_first_to_the_last() -> None:
    assert chart(row(bars=[Bar(1, "missed", m(2), m(5), 4)]))[0][:7] == "  ○○○  "


@pytest.mark.parametrize(
    ("status", "glyph"),
    [("claimed", "┄"), ("waiting", "┄"), ("sending", "▶"), ("sent", "▄"), ("what?", "?")],
)
def test_each_status_of_the_ledger_has_a_mark(status: str, glyph: str) -> None:
    assert chart(row(bars=[Bar(1, status, m(1), m(1))]))[0][1] == glyph


def test_no_two_marks_look_the_same_in_either_alphabet() -> None:
    for glyphs in ([mark.glyph for mark in MARKS.values()], [m.plain for m in MARKS.values()]):
        assert len(set(glyphs)) == len(MARKS)
    assert all(mark.plain.isascii() for mark in MARKS.values())


def test_ascii_is_all_that_there_is_where_no_more_can_be_shown() -> None:
    bars = [Bar(1, "succeeded", m(2), m(5)), Bar(2, "missed", m(7), m(8))]
    drawn = draw(
        row("a" * 40, bars, [m(40)]), gaps=[Gap(m(10), m(12))], longest=40, has_unicode=False
    )
    assert all(line.isascii() for line in drawn)
    assert "###" in drawn[3]


def test_colour_is_only_where_it_is_wanted_and_changes_no_place() -> None:
    bars = [Bar(1, "succeeded", m(2), m(5))]
    plain, coloured = draw(row(bars=bars)), draw(row(bars=bars), has_colour=True)
    assert "\x1b[32m███\x1b[0m" in coloured[3]
    assert "\x1b" not in "".join(plain)
    stripped = [line.replace("\x1b[0m", "").replace("\x1b[32m", "") for line in coloured]
    assert [line.replace("\x1b[90m", "") for line in stripped] == plain


# -- around them ----------------------------------------------------------------------------------


def test_the_whole_chart() -> None:
    drawn = draw(
        row("job", [Bar(1, "succeeded", m(5), m(10))], [m(45)]),
        row("two", [Bar(2, "timed_out", m(1), m(3))]),
        gaps=[Gap(m(15), m(20))],
    )
    assert drawn == [
        "2027-01-15T12:00:00+00:00 to 2027-01-15T13:00:00+00:00, a column is 1m",
        "     12:00     12:10     12:20     12:30     12:40     12:50",
        "     ┬─────────┬─────────┬─────────┬─────────┬─────────┬─────────",
        "job       █████     ░░░░░          ┊              ╷",
        "two   TT            ░░░░░          ┊",
        "",
        "     ░ nobody was running   ┊ now   ╷ to come   █ succeeded",
        "     T timed out",
    ]


def test_no_line_is_wider_than_it_may_be() -> None:
    bars = [Bar(n, status, m(n), m(n)) for n, status in enumerate(MARKS) if status != "now"]
    for width in (40, 41, 63, 80, 200):
        drawn = draw(row("x" * 64, bars, [m(50)]), width=width, longest=64)
        assert max(map(len, drawn[1:])) <= width


def test_a_long_id_is_cut_and_a_short_one_leaves_room() -> None:
    assert draw(row("x" * 64), longest=64)[3].startswith("x" * 23 + "… ")
    assert draw(row("a"), longest=1)[3][:3] == "a  "


@pytest.mark.parametrize(
    ("window", "names"),
    [
        (Window(m(0), m(1), 0), ["12:00:00", "12:00:10", "12:00:20"]),
        (Window(m(7), m(67), 0), ["12:10", "12:20", "12:30"]),
        (Window(m(0), m(24 * 60), 0), ["12:00", "16:00", "20:00"]),
        (Window(m(0), m(9 * 24 * 60), 0), ["2027-01-16", "2027-01-18", "2027-01-20"]),
    ],
)
def test_the_axis_is_marked_at_round_times(window: Window, names: list[str]) -> None:
    assert draw(window=window)[1].split()[:3] == names


def test_the_axis_is_on_the_clock_of_the_zone_clock_changes_included() -> None:
    window = Window(1_806_192_000_000_000, 1_806_192_000_000_000 + 240 * MINUTE_US, 0)
    zone = zone_info("Europe/Berlin")  # 2027-03-28T01:00+01:00, an hour before the clocks change
    drawn = list(lines([], [], window, 3, Style(65, zone)))
    assert drawn[0].startswith("2027-03-28T01:00:00+01:00 to 2027-03-28T06:00:00+02:00")
    assert drawn[1].split() == ["01:00", "03:00", "04:00", "05:00"]


def test_a_chart_of_nothing_is_a_chart() -> None:
    assert draw()[-1].strip() == "┊ now"


# -- firings to come ------------------------------------------------------------------------------


def test_of_firings_in_one_part_of_the_window_the_first_is_found() -> None:
    found = list(ticks(cron("* * * * *"), m(31), HOUR, 6, None))
    assert found == [m(31), m(40), m(50)]


def test_firings_before_the_window_are_passed_over() -> None:
    assert next(ticks(cron("*/7 * * * *"), m(-60), HOUR, 60, None)) == m(0)


def test_no_more_firings_are_found_than_max_runs_leaves() -> None:
    assert list(ticks(cron("*/10 * * * *"), m(10), HOUR, 60, 2)) == [m(10), m(20)]
    assert list(ticks(cron("* * * * *"), m(31), HOUR, 6, 10)) == [m(31), m(40)]


def test_a_schedule_without_a_next_firing_has_none() -> None:
    assert list(ticks(cron("* * * * *"), None, HOUR, 6, None)) == []


def test_each_part_starts_where_the_one_before_ends() -> None:
    window = Window(m(0), m(60) + 7, 0)
    for part in range(61):
        start = window.start_of(part, 61)
        assert (window.place(start, 61), window.place(start - 1, 61)) == (part, part - 1)


# -- the picture ----------------------------------------------------------------------------------


def example() -> str:
    """A picture with one of everything, which is in the README."""
    rows = [
        row(
            "invoices",
            [
                Bar(1, "succeeded", m(0), m(7)),
                Bar(6, "succeeded", m(10), m(15)),
                Bar(9, "skipped", m(13), m(13)),
                Bar(16, "running", m(27), m(30)),
            ],
            [m(40), m(50)],
        ),
        row(
            "mail",
            [
                *(Bar(2 + 4 * n, "succeeded", m(5 * n), m(5 * n + 0.5)) for n in range(3)),
                Bar(14, "missed", m(16), m(21), 6),
                Bar(17, "failed", m(25), m(26)),
            ],
            [m(minute) for minute in range(31, 60, 3)],
        ),
        row(
            "orders",
            [
                Bar(3, "sent", m(4), m(4)),
                Bar(12, "sent", m(14), m(14)),
                Bar(18, "sent", m(24), m(24)),
            ],
            [m(34), m(44), m(54)],
        ),
        row(
            "report", [Bar(4, "timed_out", m(2), m(4)), Bar(15, "abandoned", m(12), m(16))], [m(42)]
        ),
        row(
            "stocktaking",
            [Bar(5, "succeeded", m(3), m(9)), Bar(20, "cancelled", m(23), m(25))],
            [m(33), m(43), m(53)],
            paused=True,
        ),
    ]
    picture = Picture(HOUR, max(len(r.schedule_id) for r in rows))
    return "".join(picture.draw(rows, [Gap(m(16), m(22))], len(rows)))


def shapes(svg: str, tag: str, css: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(svg.encode())  # noqa: S314 - our own picture
    return [found for found in root.iter(SVG + tag) if css in found.get("class", "").split()]


def one(*bars: Bar, name: str = "job", gaps: Iterable[Gap] = ()) -> str:
    return "".join(Picture(HOUR, 8).draw([row(name, bars)], gaps, 1))


def test_the_picture_in_the_readme_is_the_one_that_is_drawn() -> None:
    assert PICTURE.read_text() == example()


def test_a_bar_of_the_picture_is_as_long_as_its_run_and_says_which_it_is() -> None:
    svg = one(Bar(7, "succeeded", m(0), m(15)), Bar(8, "failed", m(30), m(60)))
    (good,), (bad,) = shapes(svg, "rect", "succeeded")[:1], shapes(svg, "rect", "failed")[:1]
    assert float(bad.get("width", 0)) == pytest.approx(2 * float(good.get("width", 0)), abs=0.2)
    assert float(bad.get("x", 0)) > float(good.get("x", 0)) + float(good.get("width", 0))
    assert "run 7 succeeded, 2027-01-15T12:00:00+00:00, 15m" in svg
    assert "run 8 failed, 2027-01-15T12:30:00+00:00, 30m" in svg


def test_what_has_no_place_of_its_own_is_drawn_together() -> None:
    svg = one(*(Bar(n, "succeeded", m(0) + n, m(0) + n) for n in range(50_000)))
    assert len(shapes(svg, "rect", "succeeded")) == 2  # one, and that of the legend
    assert "succeeded: from run 0 at 2027-01-15T12:00:00+00:00 to run 49999 at" in svg
    assert len(svg) < 8000


def test_a_firing_that_never_ran_is_a_ring_and_several_are_two_with_a_line() -> None:
    assert len(shapes(one(Bar(1, "missed", m(5), m(5))), "circle", "missed")) == 2
    several = one(Bar(1, "missed", m(5), m(25), 5))
    assert len(shapes(several, "circle", "missed")) == 3
    assert "5 missed, from 2027-01-15T12:05:00+00:00 to 2027-01-15T12:25:00+00:00" in several


def test_when_nobody_was_running_is_hatched_and_said() -> None:
    svg = one(gaps=[Gap(m(10), m(20))])
    assert len(shapes(svg, "rect", "gap")) == 2
    assert "nobody was running from 2027-01-15T12:10:00+00:00 to 2027-01-15T12:20" in svg


def test_text_in_the_picture_is_escaped() -> None:
    svg = one(name="<a&b>")
    assert "&lt;a&amp;b&gt;" in svg
    ElementTree.fromstring(svg.encode())  # noqa: S314


def test_nothing_reaches_beyond_the_picture() -> None:
    svg = one(Bar(1, "running", m(-90), m(90)), Bar(2, "failed", m(60) - 1, m(60)))
    for shape in shapes(svg, "rect", "running") + shapes(svg, "rect", "failed"):
        assert float(shape.get("x", 0)) >= 0
        assert float(shape.get("x", 0)) + float(shape.get("width", 0)) <= 1000


def test_the_picture_is_light_and_dark() -> None:
    svg = example()
    assert "@media (prefers-color-scheme: dark)" in svg
    light, dark = svg.partition("</style>")[0].split("@media")
    for kind in ("succeeded", "failed", "missed", "ground", "tick"):
        assert f".{kind}" in light
        assert f".{kind}" in dark
    assert not set(re.findall("#[0-9a-f]{6}", light)) & set(re.findall("#[0-9a-f]{6}", dark))


if __name__ == "__main__":
    PICTURE.write_text(example())

"""A chart of past runs and firings to come: the model, and its picture in characters.

Pure: rows come in, lines go out, one at a time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, tzinfo
from itertools import groupby

from sqlsched.durations import format_duration
from sqlsched.explain import time_axis
from sqlsched.instants import SECOND_US, from_us
from sqlsched.trigger import Trigger

LONGEST_LABEL = 24
"""Characters of a schedule's id that are shown."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is shown: from one instant to another, and where now is."""

    from_us: int
    to_us: int
    now_us: int

    def place(self, us: int, size: int) -> int:
        """Where an instant lies among `size` equal parts of it; less than 0 or `size` and more
        outside."""
        return (us - self.from_us) * size // (self.to_us - self.from_us)

    def start_of(self, part: int, size: int) -> int:
        """The first instant of a part."""
        return self.from_us - (-part * (self.to_us - self.from_us) // size)


@dataclass(frozen=True, slots=True)
class Bar:
    """A run from its start to its end, or firings that never ran, from the first to the last."""

    run_id: int
    status: str
    first_us: int
    last_us: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule: what is on record of it, and which firings are to come, both in order."""

    schedule_id: str
    is_paused: bool
    bars: Iterable[Bar]
    ticks: Iterable[int]


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which nobody was running."""

    first_us: int
    last_us: int


def ticks(
    trigger: Trigger, next_us: int | None, window: Window, size: int, left: int | None
) -> Iterator[int]:
    """The first firing to come in each of `size` parts of the window, from `next_us` on; of at
    most `left` firings in all."""
    if next_us is None:
        return
    cursor = next_us if next_us >= window.from_us else trigger.next_us(window.from_us - 1)
    while cursor is not None and cursor < window.to_us:
        if left is not None and trigger.count(next_us, cursor) > left:
            return
        yield cursor
        following = window.start_of(window.place(cursor, size) + 1, size)
        cursor = trigger.next_us(max(cursor, following - 1))


@dataclass(frozen=True, slots=True)
class Mark:
    """How an outcome looks: its name, a character, one for plain ASCII, and an ANSI colour."""

    name: str
    glyph: str
    plain: str
    colour: str


# In rising order: of what falls into one place, the last one here is seen.
MARKS = {
    "gap": Mark("nobody was running", "░", ".", "90"),
    "now": Mark("now", "┊", ":", "90"),
    "tick": Mark("to come", "╷", "|", "36"),
    "paused": Mark("paused", "╎", "!", "90"),
    "waiting": Mark("waiting", "┄", "~", "36"),
    "skipped": Mark("skipped", "·", "-", "33"),
    "sent": Mark("sent", "▄", "=", "32"),
    "succeeded": Mark("succeeded", "█", "#", "32"),
    "cancelled": Mark("cancelled", "/", "/", "33"),
    "missed": Mark("missed", "○", "o", "33"),
    "running": Mark("running", "▶", ">", "34"),
    "timed_out": Mark("timed out", "T", "T", "31"),
    "abandoned": Mark("abandoned", "?", "?", "35"),
    "failed": Mark("failed", "✗", "X", "31"),
}
_RANK = {name: rank for rank, name in enumerate(MARKS)}


def mark_of(status: str) -> str:
    """The mark that a status of the ledger has; one that nobody knows has that of abandoned."""
    mark = {"claimed": "waiting", "sending": "running"}.get(status, status)
    return mark if mark in MARKS else "abandoned"


@dataclass(frozen=True, slots=True)
class Style:
    """What the terminal can show."""

    width: int
    zone: tzinfo = UTC
    has_unicode: bool = True
    has_colour: bool = False

    def paint(self, marks: Iterable[str | None]) -> str:
        """Characters for marks; None is blank."""
        pieces = []
        for name, same in groupby(marks):
            length = sum(1 for _ in same)
            if name is None:
                pieces.append(" " * length)
            else:
                pieces.append(self._coloured(name, self.glyph(name) * length))
        return "".join(pieces).rstrip()

    def glyph(self, name: str) -> str:
        """The character of a mark."""
        return MARKS[name].glyph if self.has_unicode else MARKS[name].plain

    def _coloured(self, name: str, text: str) -> str:
        return f"\x1b[{MARKS[name].colour}m{text}\x1b[0m" if self.has_colour else text

    def legend(self, used: Iterable[str], indent: int) -> Iterator[str]:
        """What the characters mean, in lines as wide as the rest."""
        line, length = "", 0
        for name in used:
            text = f"{self.glyph(name)} {MARKS[name].name}"
            if line and indent + length + 3 + len(text) > self.width:
                yield " " * indent + line
                line, length = "", 0
            gap = "   " if line else ""
            line += f"{gap}{self.paint([name])} {MARKS[name].name}"
            length += len(gap) + len(text)
        yield " " * indent + line


def columns(longest_id: int, width: int) -> int:
    """How many columns of a chart are left for time, beside the ids."""
    return max(width - _label_width(longest_id) - 1, 10)


def _label_width(longest_id: int) -> int:
    return min(longest_id, LONGEST_LABEL) + 1


def lines(
    rows: Iterable[Row], gaps: Iterable[Gap], window: Window, longest_id: int, style: Style
) -> Iterator[str]:
    """The chart: a title, an axis of time, a line for each row, and a legend of what is in it."""
    label, size = _label_width(longest_id), columns(longest_id, style.width)
    ground = _ground(gaps, window, size)
    used = set(ground)
    yield _title(window, size, style)
    yield from _axis(window, label, size, style)
    for row in rows:
        cells = _cells(row, ground, window, size)
        used.update(cells)
        yield f"{_label(row, style):<{label}} {style.paint(cells)}".rstrip()
    yield ""
    yield from style.legend([name for name in MARKS if name in used], min(label + 1, size // 3))


def _title(window: Window, size: int, style: Style) -> str:
    start, end = (from_us(us).astimezone(style.zone) for us in (window.from_us, window.to_us))
    each = (window.to_us - window.from_us) / size / SECOND_US
    column = f"{each:.2f}s" if each < 10 else format_duration(round(each))
    return (
        f"{start.isoformat(timespec='seconds')} to {end.isoformat(timespec='seconds')}, "
        f"a column is {column}"
    )


def _axis(window: Window, label: int, size: int, style: Style) -> Iterator[str]:
    names, line = [" "] * size, ["─" if style.has_unicode else "-"] * size
    taken = 0
    for us, name in time_axis.ticks(window.from_us, window.to_us, size // 10, style.zone):
        place = window.place(us, size)
        if place >= taken and place + len(name) <= size:
            names[place : place + len(name)] = name
            line[place] = "┬" if style.has_unicode else "+"
            taken = place + len(name) + 1
    indent = " " * (label + 1)
    yield (indent + "".join(names)).rstrip()
    yield indent + "".join(line)


def _label(row: Row, style: Style) -> str:
    name = row.schedule_id
    if len(name) <= LONGEST_LABEL:
        return name
    return f"{name[: LONGEST_LABEL - 1]}…" if style.has_unicode else f"{name[: LONGEST_LABEL - 1]}~"


def _ground(gaps: Iterable[Gap], window: Window, size: int) -> list[str | None]:
    """What a row without anything looks like."""
    cells: list[str | None] = [None] * size
    for gap in gaps:
        _fill(cells, "gap", *_places(gap.first_us, gap.last_us, window, size))
    now = window.place(window.now_us, size)
    if 0 <= now < size:
        cells[now] = "now"
    return cells


def _cells(row: Row, ground: list[str | None], window: Window, size: int) -> list[str | None]:
    cells = list(ground)
    for bar in row.bars:
        _fill(cells, mark_of(bar.status), *_places(bar.first_us, bar.last_us, window, size))
    for us in row.ticks:
        place = window.place(us, size)
        _fill(cells, "paused" if row.is_paused else "tick", place, place)
    return cells


def _places(first_us: int, last_us: int, window: Window, size: int) -> tuple[int, int]:
    return window.place(first_us, size), window.place(max(first_us, last_us - 1), size)


def _fill(cells: list[str | None], name: str, first: int, last: int) -> None:
    rank = _RANK[name]
    for place in range(max(first, 0), min(last, len(cells) - 1) + 1):
        there = cells[place]
        if there is None or _RANK[there] < rank:
            cells[place] = name

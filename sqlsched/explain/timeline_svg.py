"""The chart of `timeline` as an SVG picture: plain shapes, light and dark, with a title on each."""

from collections.abc import Iterable, Iterator
from datetime import UTC, tzinfo
from html import escape

from sqlsched.explain import time_axis
from sqlsched.explain.timeline import LONGEST_LABEL, MARKS, Bar, Gap, Row, Window, mark_of
from sqlsched.explain.words import span
from sqlsched.instants import SECOND_US, from_us

WIDTH = 1000
"""Of the picture; it scales."""
_ROW, _TOP, _LEGEND = 26, 58, 74
_MARGIN = 20
_CHARACTER = 7.4
"""What a character of a label takes."""
_LEAST = 4.0
"""The width of the shortest run."""
_POINTS = frozenset({"skipped", "missed", "waiting"})
"""What never ran, and is drawn as a ring."""
_BAD = frozenset({"failed", "timed_out", "abandoned"})
_NEAR = 7.0
"""Rings, and firings to come, that are this close are drawn as one."""

_PLAIN = """
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.end { text-anchor: end; } .mid { text-anchor: middle; }
.hatch { stroke-opacity: .45; }
.now, .tick, .paused, .skipped, .missed, .waiting { stroke-width: 1.6; }
.paused { stroke-dasharray: 2 2; stroke-opacity: .7; } .skipped { stroke-dasharray: 2 1.6; }
.cross { stroke-width: 1.5; } .gap { fill: url(#hatch); }
"""
_PAINT = {
    ".ground, .skipped, .missed, .waiting": ("fill", "#ffffff", "#0d1117"),
    ".cross": ("stroke", "#ffffff", "#0d1117"),
    "text": ("fill", "#1f2328", "#f0f6fc"),
    "text.faint": ("fill", "#59636e", "#9198a1"),
    "text.nowtext": ("fill", "#0969da", "#58a6ff"),
    ".band": ("fill", "#f6f8fa", "#151b23"),
    ".grid": ("stroke", "#d1d9e0", "#3d444d"),
    ".hatch, .tick, .paused": ("stroke", "#818b98", "#8b949e"),
    ".now, .waiting": ("stroke", "#0969da", "#58a6ff"),
    ".running": ("fill", "#0969da", "#58a6ff"),
    ".succeeded": ("fill", "#2da44e", "#3fb950"),
    ".sent": ("fill", "#8ccf9b", "#2a7a3b"),
    ".failed": ("fill", "#cf222e", "#f85149"),
    ".timed_out": ("fill", "#e16f24", "#f0883e"),
    ".abandoned": ("fill", "#8250df", "#bc8cff"),
    ".cancelled": ("fill", "#9a6700", "#bb8009"),
    ".skipped, .missed": ("stroke", "#bf8700", "#d29922"),
}
"""What is painted how, on a light ground and on a dark one. Without variables of CSS, which many
programs that show SVG do not know."""


def _style() -> str:
    light, dark = (
        "\n".join(f"{what} {{ {paint[0]}: {paint[ground]}; }}" for what, paint in _PAINT.items())
        for ground in (1, 2)
    )
    return f"{_PLAIN}{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


class Picture:
    """Draws rows from top to bottom."""

    def __init__(self, window: Window, longest_id: int, zone: tzinfo = UTC) -> None:
        self._window = window
        self._zone = zone
        label = min(max(longest_id, 4), LONGEST_LABEL) * _CHARACTER
        self._left = _MARGIN + label + 16
        self._size = WIDTH - _MARGIN - self._left
        self._used = {"tick"}

    def draw(self, rows: Iterable[Row], gaps: Iterable[Gap], count: int) -> Iterator[str]:
        """The picture of `count` rows, in pieces."""
        height = _TOP + count * _ROW + _LEGEND
        yield from self._begin(height)
        yield from self._axis(count)
        drawn = [self._gap(gap, count) for gap in gaps]
        if drawn:
            self._used.add("gap")
        yield from drawn
        for number, row in enumerate(rows):
            yield from self._row(row, _TOP + number * _ROW)
        yield from self._now(count)
        yield from self._legend(height - 42)
        yield "</svg>\n"

    # -- around the rows ------------------------------------------------------------------------

    def _begin(self, height: int) -> Iterator[str]:
        start, end = (self._clock(us) for us in (self._window.from_us, self._window.to_us))
        title = f"{start} to {end}"
        yield (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">\n'
            f"<title>sqlsched, {title}</title>\n<style>{_style()}</style>\n"
            '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="7"/>'
            "</pattern></defs>\n"
            f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>\n'
            f'<text class="faint" x="{_MARGIN}" y="22">{title}</text>\n'
        )

    def _axis(self, count: int) -> Iterator[str]:
        bottom = _TOP + count * _ROW
        for number in range(0, count, 2):
            yield (
                f'<rect class="band" x="{_MARGIN / 2:g}" y="{_TOP + number * _ROW}" '
                f'width="{WIDTH - _MARGIN}" height="{_ROW}" rx="4"/>\n'
            )
        window = self._window
        for us, name in time_axis.ticks(window.from_us, window.to_us, 10, self._zone):
            x = self._x(us)
            yield f'<path class="grid" d="M{x:.1f} {_TOP - 6}V{bottom}"/>'
            yield f'<text class="faint mid" x="{x:.1f}" y="{_TOP - 12}">{name}</text>\n'

    def _gap(self, gap: Gap, count: int) -> str:
        x, end = self._x(gap.first_us), self._x(gap.last_us)
        title = f"nobody was running from {self._clock(gap.first_us)} to {self._clock(gap.last_us)}"
        return (
            f'<rect class="gap" x="{x:.1f}" y="{_TOP}" width="{max(end - x, 1):.1f}" '
            f'height="{count * _ROW}"><title>{title}</title></rect>\n'
        )

    def _now(self, count: int) -> Iterator[str]:
        if self._window.from_us <= self._window.now_us < self._window.to_us:
            x, bottom = self._x(self._window.now_us), _TOP + count * _ROW + 4
            yield f'<path class="now" d="M{x:.1f} {_TOP - 6}V{bottom}"/>'
            yield f'<text class="nowtext mid" x="{x:.1f}" y="{bottom + 12}">now</text>\n'

    def _legend(self, y: float) -> Iterator[str]:
        x = float(_MARGIN)
        for name in [name for name in MARKS if name in self._used]:
            text = MARKS[name].name
            wide = 36 + len(text) * _CHARACTER
            if x + wide > WIDTH:
                x, y = float(_MARGIN), y + 22
            yield self._sample(name, x, y)
            yield f'<text class="faint" x="{x + 18:.1f}" y="{y + 4:g}">{text}</text>\n'
            x += wide

    def _sample(self, name: str, x: float, y: float) -> str:
        if name in {"tick", "paused"}:
            return f'<path class="{name}" d="M{x + 6:.1f} {y - 5:g}V{y + 5:g}"/>'
        if name in _POINTS:
            return _ring(name, x + 6, y)
        bar = f'<rect class="{name}" x="{x:.1f}" y="{y - 5:g}" width="12" height="10" rx="2"/>'
        return bar + (_cross(x, x + 12, y) if name == "failed" else "")

    # -- a row ----------------------------------------------------------------------------------

    def _row(self, row: Row, top: float) -> Iterator[str]:
        middle = top + _ROW / 2
        name = row.schedule_id
        shown = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
        yield (
            f'<text class="end" x="{self._left - 14:.1f}" y="{middle + 4:g}">{escape(shown)}'
            f"<title>{escape(name)}</title></text>\n"
        )
        yield from self._ticks(row, middle)
        for status, start, end, bars in self._together(row.bars):
            yield self._bar(status, start, end, bars, middle)

    def _ticks(self, row: Row, middle: float) -> Iterator[str]:
        name = "paused" if row.is_paused else "tick"
        last = -_NEAR
        path = ""
        for us in row.ticks:
            x = self._x(us)
            if x - last >= _NEAR / 2:
                path += f"M{x:.1f} {middle - 5:g}v10"
                last = x
        if path:
            self._used.add(name)
            yield f'<path class="{name}" d="{path}"/>\n'

    def _together(self, bars: Iterable[Bar]) -> Iterator[tuple[str, float, float, list[Bar]]]:
        """Bars that touch and are of one kind as one; the first and the last of them."""
        open_: dict[str, tuple[float, float, list[Bar]]] = {}
        for bar in bars:
            status = mark_of(bar.status)
            start, end = self._x(bar.first_us), self._x(bar.last_us)
            end = max(end, start + (_NEAR if status in _POINTS else _LEAST))
            there = open_.get(status)
            if there is not None and start < there[1]:
                open_[status] = (there[0], max(there[1], end), [there[2][0], bar])
                continue
            if there is not None:
                yield status, *there
            open_[status] = (start, end, [bar])
        for status, there in open_.items():
            yield status, *there

    def _bar(self, status: str, start: float, end: float, bars: list[Bar], middle: float) -> str:
        self._used.add(status)
        title = f"<title>{escape(self._title(bars))}</title>"
        end = min(end, float(WIDTH - _MARGIN))
        if status in _POINTS:
            line = ""
            if end - start > _NEAR:
                line = f'<path class="{status}" d="M{start:.1f} {middle:g}H{end - _NEAR:.1f}"/>'
                line += _ring(status, end - _NEAR, middle)
            return f"<g>{line}{_ring(status, start, middle)}{title}</g>\n"
        tall = 20 if status in _BAD else 15  # to be told by more than colour
        shape = (
            f'<rect class="{status}" x="{start:.1f}" y="{middle - tall / 2:g}" '
            f'width="{end - start:.1f}" height="{tall}" rx="{min(3, (end - start) / 2):.1f}"/>'
        )
        cross = _cross(start, end, middle) if status == "failed" and end - start > 9 else ""
        return f"<g>{shape}{cross}{title}</g>\n"

    def _title(self, bars: list[Bar]) -> str:
        first, last = bars[0], bars[-1]
        name = MARKS[mark_of(first.status)].name
        if first is not last:
            return (
                f"{name}: from run {first.run_id} at {self._clock(first.first_us)} "
                f"to run {last.run_id} at {self._clock(last.first_us)}"
            )
        if first.status in _POINTS and first.count > 1:
            until = self._clock(first.last_us)
            return f"{first.count} {name}, from {self._clock(first.first_us)} to {until}"
        took = "" if first.status in _POINTS else f", {span(first.last_us - first.first_us)}"
        return f"run {first.run_id} {name}, {self._clock(first.first_us)}{took}"

    def _x(self, us: int) -> float:
        window = self._window
        share = (us - window.from_us) / (window.to_us - window.from_us)
        return self._left + min(max(share, 0.0), 1.0) * self._size

    def _clock(self, us: int) -> str:
        whole = us - us % SECOND_US
        return from_us(whole).astimezone(self._zone).isoformat(timespec="seconds")


def _ring(name: str, x: float, y: float) -> str:
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:g}" r="4"/>'


def _cross(start: float, end: float, y: float) -> str:
    x = (start + end) / 2
    return f'<path class="cross" d="M{x - 3:.1f} {y - 3:g}l6 6m0 -6l-6 6"/>'

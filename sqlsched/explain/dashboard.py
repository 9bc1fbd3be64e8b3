"""What `watch` shows: one frame, from what the ledger says and what time it is. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlsched.durations import format_duration
from sqlsched.explain.evidence import Service
from sqlsched.explain.timeline import MARKS, mark_of
from sqlsched.explain.words import span
from sqlsched.instants import SECOND_US, from_us

_LONGEST_ID = 30
_HEAD = 2
"""Lines at the top."""


class Going(NamedTuple):
    """A run that goes on."""

    run_id: int
    schedule_id: str
    what: str
    status: str
    attempt: int
    started_us: int
    pid: int | None


class Ended(NamedTuple):
    """A run, or firings that never ran, that came to its end lately."""

    run_id: int
    schedule_id: str
    status: str
    reason: str | None
    error: str | None
    started_us: int | None
    finished_us: int
    firings: int


class Coming(NamedTuple):
    """The next firing of a schedule."""

    schedule_id: str
    what: str
    wake_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the ledger said when it was last asked."""

    path: str
    serving: Sequence[Service] = ()
    last: Service | None = None
    """Who ran last, if nobody does."""
    going: Sequence[Going] = ()
    ended: Sequence[Ended] = ()
    coming: Sequence[Coming] = ()
    counts: dict[str, int] = field(default_factory=dict)
    """How many are `running`, `claimed` and `waiting` in all."""


@dataclass(frozen=True, slots=True)
class Screen:
    """How large a terminal is, and what it can show. `height` None is without end."""

    width: int
    height: int | None = None
    has_unicode: bool = True
    has_colour: bool = False

    def styled(self, text: str, code: str) -> str:
        """The text in a colour, or bold."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colour and text else text


def frame(snapshot: Snapshot, now_us: int, rows: int, screen: Screen) -> list[str]:
    """The lines of one frame, of at most `rows` rows a section; they fit the screen."""
    rows = _fitting(rows, screen)
    lines = [*_head(snapshot, now_us, screen)]
    running = [_going_row(run, now_us) for run in snapshot.going]
    lines += _section("RUNNING", running, snapshot.counts.get("running"), rows, screen)
    ended = [_ended_row(run, now_us) for run in snapshot.ended]
    lines += _section("ENDED", ended, None, rows, screen)
    coming = [_coming_row(firing, now_us) for firing in snapshot.coming]
    lines += _section("NEXT", coming, None, rows, screen)
    return lines if screen.height is None else lines[: screen.height]


def _fitting(rows: int, screen: Screen) -> int:
    """How many rows each of the three sections may have: under a title and a blank line."""
    if screen.height is None:
        return rows
    return max(1, min(rows, (screen.height - _HEAD - 6) // 3))


class _Cell(NamedTuple):
    text: str
    colour: str = ""


_Row = Sequence[_Cell]


def _head(snapshot: Snapshot, now_us: int, screen: Screen) -> Iterator[str]:
    clock = f"{from_us(now_us):%Y-%m-%d %H:%M:%S} UTC"
    room = screen.width - len(clock) - 1
    name = _clip(f"sqlsched {snapshot.path}", room, screen) if room > 0 else ""
    bold = screen.styled(name, "1")
    yield f"{bold}{' ' * (room - len(name) + 1)}{clock}" if room > 0 else clock[: screen.width]
    text, colour = _serving(snapshot, now_us), "32" if snapshot.serving else "31"
    counts = ", ".join(f"{count} {name}" for name, count in snapshot.counts.items() if count)
    text = _clip(text, screen.width, screen)
    rest = f"; {counts}" if counts else ""
    yield screen.styled(text, colour) + _clip(rest, screen.width - len(text), screen)


def _serving(snapshot: Snapshot, now_us: int) -> str:
    if snapshot.serving:
        return "served by " + ", ".join(
            f"pid {service.pid} for {_span(now_us - service.since_us)}"
            for service in snapshot.serving
        )
    if snapshot.last is None or snapshot.last.until_us is None:
        return "nobody is running, and nobody ever was"
    ago = _span(now_us - snapshot.last.until_us)
    return f"nobody is running; pid {snapshot.last.pid} was, {ago} ago"


def _section(
    title: str, rows: Sequence[_Row], count: int | None, most: int, screen: Screen
) -> Iterator[str]:
    yield ""
    total = len(rows) if count is None else count
    shown = rows[:most]
    more = f" ({len(shown)} of {total})" if total > len(shown) and count is not None else ""
    yield screen.styled(_clip(title + more, screen.width, screen), "1;90")
    if not rows:
        yield screen.styled(_clip("  nothing", screen.width, screen), "90")
    widths = [max(len(cell.text) for cell in column) for column in zip(*shown, strict=True)]
    for row in shown:
        yield _line(row, widths, screen)


def _line(row: _Row, widths: Sequence[int], screen: Screen) -> str:
    line, length = "", 0
    for cell, width in zip(row, [*widths[:-1], 0], strict=True):
        text = f"  {cell.text:<{width}}"
        text = _clip(text, screen.width - length, screen)
        length += len(text)
        line += screen.styled(text, cell.colour) if cell.colour else text
        if length >= screen.width:
            break
    return line if "\x1b" in line else line.rstrip()


def _going_row(run: Going, now_us: int) -> _Row:
    attempt = f"attempt {run.attempt}" if run.attempt > 1 else ""
    sending = "being sent" if run.status == "sending" else ""
    return (
        _Cell(_id(run.schedule_id)),
        _Cell(f"run {run.run_id}"),
        _Cell(f"since {from_us(run.started_us):%H:%M:%S}"),
        _Cell(_span(now_us - run.started_us), MARKS["running"].colour),
        _Cell("" if run.pid is None else f"by pid {run.pid}"),
        _Cell(_plain(" ".join(filter(None, (sending, attempt, run.what))))),
    )


def _ended_row(run: Ended, now_us: int) -> _Row:
    mark = MARKS[mark_of(run.status)]
    took = "" if run.started_us is None else f"after {span(run.finished_us - run.started_us)}"
    why = ": ".join(filter(None, (run.reason, run.error)))
    several = f"{run.firings} firings " if run.firings > 1 else ""
    return (
        _Cell(_id(run.schedule_id)),
        _Cell(f"run {run.run_id}"),
        _Cell(f"{_span(now_us - run.finished_us)} ago"),
        _Cell(mark.name, mark.colour),
        _Cell(took),
        _Cell(_plain(several + why)),
    )


def _coming_row(firing: Coming, now_us: int) -> _Row:
    left_us = firing.wake_us - now_us
    late = left_us <= -SECOND_US
    when = f"{_span(-left_us)} late" if late else f"in {_span(max(0, left_us))}"
    return (
        _Cell(_id(firing.schedule_id)),
        _Cell(when, MARKS["failed"].colour if late else MARKS["tick"].colour),
        _Cell(f"{from_us(firing.wake_us):%Y-%m-%d %H:%M:%S}"),
        _Cell(_plain(firing.what)),
    )


def _span(us: int) -> str:
    """Whole seconds; the two largest units of what is long."""
    seconds = max(0, us) // SECOND_US
    for unit in (86_400, 3600):
        if seconds >= unit:
            seconds -= seconds % (unit // 24 if unit == 86_400 else 60)
            break
    return format_duration(seconds)


def _id(text: str) -> str:
    return text if len(text) <= _LONGEST_ID else f"{text[: _LONGEST_ID - 2]}.."


def _plain(text: str) -> str:
    """One line of what a terminal takes for text."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _clip(text: str, width: int, screen: Screen) -> str:
    if not screen.has_unicode:
        text = text.encode("ascii", "replace").decode()
    if len(text) <= max(width, 0):
        return text
    mark = "…" if screen.has_unicode else "~"
    return text[: width - 1] + mark if width > 0 else ""


def update(lines: Iterable[str]) -> str:
    """What makes a terminal show these lines in place of what it shows, without a flicker."""
    home, to_line_end, to_screen_end = "\x1b[H", "\x1b[K", "\x1b[J"
    return home + f"{to_line_end}\r\n".join(lines) + to_line_end + to_screen_end

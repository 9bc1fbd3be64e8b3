"""The table and the pictures of a run of the benchmarks."""

import importlib
import json
import os
import platform
import sqlite3
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import PEERS, ROWS, Row
from tests.benchmarks.party import Figures

COLUMNS = ("sqlsched", *PEERS, "floor")
_COLOURS = {
    "sqlsched": "#0a7d4f",
    "apscheduler": "#c4552d",
    "huey": "#8a63b8",
    "taskiq": "#2f6fb3",
    "celery": "#a98b1c",
    "floor": "#888888",
}
_PACKAGES = ("apscheduler", "sqlalchemy", "huey", "taskiq", "celery", "croniter", "cronsim")


@dataclass(frozen=True)
class Results:
    """Medians by case and party, and where they were taken."""

    found: dict[str, dict[str, Figures]]
    machine: str
    runs: int
    scale: float

    def get(self, party: str, case: str, n: int, figure: str) -> float | None:
        return self.found.get(f"{case} {n}", {}).get(party, {}).get(figure)


def machine() -> str:
    """What the figures depend on, besides the programs."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, Linux {platform.release()}; Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def write(results: Results, directory: Path) -> list[Path]:
    """Write all files; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": json.dumps(vars(results), indent=1, sort_keys=True) + "\n",
        "results.md": table(results),
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    _draw(results, directory)
    return [directory / name for name in (*texts, "results.svg", "scaling.svg")]


# -- the table ----------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Markdown: a line for each row, then who was how configured, and where."""
    rows = [row for row in ROWS if results.get("sqlsched", row.case, row.n, row.figure) is not None]
    lines = [
        "| | sqlsched | target | APScheduler | huey | taskiq | celery beat | floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(results, row) for row in rows),
    ]
    disk = results.get("floor", "commits", 500, "rate")
    where = f"Medians of {results.runs} runs on {results.machine}"
    where += f"; the disk takes {disk:.0f} durable commits a second." if disk else "."
    if results.scale != 1:
        where += f" Every number of schedules was multiplied by {results.scale}."
    others = "; ".join(
        f"{name}: {_show(results, name, 'cron', 0, figure)} µs for {what}"
        for name in ("croniter", "cronsim")
        for figure, what in (("next", "a next fire time"), ("parse", "a parse"))
        if results.get(name, "cron", 0, figure) is not None
    )
    found = [name for name in COLUMNS if any(name in case for case in results.found.values())]
    parts = ["\n".join(lines), where, others, "\n".join(map(_configuration, found)), _versions()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(results: Results, row: Row) -> str:
    cells = [_show(results, name, row.case, row.n, row.figure) for name in COLUMNS]
    ours = f"**{cells[0]}** {row.unit}".strip()
    return f"| {row.title} | {ours} | {_verdict(results, row)} | {' | '.join(cells[1:])} |"


def _verdict(results: Results, row: Row) -> str:
    value = results.get("sqlsched", row.case, row.n, row.figure)
    assert value is not None
    ratio = ""
    if row.of is not None:
        base = results.get(row.of[0], row.of[1], row.of[2], row.figure)
        if not base:
            return row.target
        value /= base
        ratio = f" ({value:.2f})"
    met = value >= row.limit if row.at_least else value <= row.limit
    mark = "" if row.limit == inf else " ✓" if met else " ✗"
    return f"{row.target}{ratio}{mark}"


def _show(results: Results, party: str, case: str, n: int, figure: str) -> str:
    value = results.get(party, case, n, figure)
    return "–" if value is None else _text(value)


def _text(value: float) -> str:
    if value >= 1000 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _configuration(party: str) -> str:
    module: Any = importlib.import_module(f"tests.benchmarks.parties.{party}_")
    return f"- {party}: {module.CONFIGURATION}"


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + "."


# -- the pictures -------------------------------------------------------------------------------

_BARS = (
    ("idle CPU, 100,000 schedules, s/min", "idle", 100_000, "cpu"),
    ("memory, 100,000 schedules, MiB", "idle", 100_000, "rss"),
    ("burst of 10,000, s", "burst", 10_000, "seconds"),
    ("lateness, p50, ms", "lateness", 100, "p50"),
)
_CURVES = (
    ("idle, CPU s/min", "idle", "cpu"),
    ("one firing each second, CPU s/min", "each_second", "cpu"),
    ("a burst of all, s", "burst", "seconds"),
)
_SIZES = (1_000, 10_000, 100_000, 1_000_000)


def _draw(results: Results, directory: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "sqlsched", "font.size": 9}
    grey = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings |= dict.fromkeys(grey, "#777777")  # readable on white and on black
    mpl.rcParams.update(settings)
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(_BARS), 1, figsize=(7, 6), layout="constrained")
    for axis, bars in zip(axes, _BARS, strict=True):
        _draw_bars(axis, results, *bars)
    _save(figure, directory / "results.svg")
    figure, axes = pyplot.subplots(1, len(_CURVES), figsize=(10, 3.6), layout="constrained")
    for axis, curves in zip(axes, _CURVES, strict=True):
        _draw_curves(axis, results, *curves)
    if axes[0].lines:
        axes[0].legend(frameon=False, fontsize=8)
    _save(figure, directory / "scaling.svg")


def _draw_bars(axis: Any, results: Results, title: str, case: str, n: int, name: str) -> None:
    values = {party: results.get(party, case, n, name) for party in reversed(COLUMNS)}
    shown = {party: value for party, value in values.items() if value is not None}
    bars = axis.barh(list(shown), shown.values(), color=[_COLOURS[party] for party in shown])
    axis.bar_label(bars, [_text(value) for value in shown.values()], padding=3, fontsize=8)
    if any(value > 0 for value in shown.values()):
        axis.set_xscale("log")
    _finish(axis, title)


def _draw_curves(axis: Any, results: Results, title: str, case: str, name: str) -> None:
    for party in COLUMNS[:-1]:
        values = {n: results.get(party, case, n, name) for n in _SIZES}
        shown = {n: value for n, value in values.items() if value is not None and value > 0}
        if shown:
            line = axis.plot(shown.keys(), shown.values(), marker="o", markersize=4, label=party)
            line[0].set_color(_COLOURS[party])
    if axis.lines:
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.set_xlabel("schedules")
    _finish(axis, title)


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, transparent=True, metadata={"Date": None})
    text = path.read_text()
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")

"""The table says what was measured, and whether it is what was aimed at."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.cases import CASES, ROWS
from tests.benchmarks.party import Figures


def results(**found: dict[str, Figures]) -> report.Results:
    cases = {name.replace("__", " "): parties for name, parties in found.items()}
    return report.Results(cases, "2 cores", runs=5, scale=1.0)


def line(text: str, title: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {title}"))


@pytest.mark.parametrize(("seconds", "verdict"), [(0.5, "✓"), (0.51, "✗")])
def test_a_row_says_whether_its_target_is_met(seconds: float, verdict: str) -> None:
    ours = {"seconds": seconds, "lost": 0.0}
    found = results(burst__10000={"sqlsched": ours, "huey": {"seconds": 1.75, "lost": 0.0}})
    row = line(report.table(found), "burst of 10,000, last")
    assert f"≤ 0.5 {verdict}" in row
    assert "1.75" in row


def test_a_ratio_is_compared_and_shown(tmp_path: Path) -> None:
    found = results(starts__0={"sqlsched": {"rate": 150.0}, "floor": {"rate": 100.0}})
    assert "≥ 2 × cold (1.50) ✗" in line(report.table(found), "subprocess runs")
    report.write(found, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["found"] == found.found


def test_a_picture_shows_every_party_that_was_measured(tmp_path: Path) -> None:
    idle = {"sqlsched": {"cpu": 0.02, "rss": 28.0}, "celery": {"cpu": 0.4, "rss": 130.0}}
    report.write(results(idle__100000=idle), tmp_path)
    for name in ("results.svg", "scaling.svg"):
        text = (tmp_path / name).read_text()
        assert "celery" in text
        assert "huey" not in text


def test_every_row_of_the_table_is_measured() -> None:
    measured = {(case.name, case.n, party) for case in CASES for party in case.parties}
    wanted = {("sqlsched", row.case, row.n) for row in ROWS}
    wanted |= {row.of for row in ROWS if row.of}
    assert {(case, n, party) for party, case, n in wanted} <= measured

"""Everything that the README says of speed, measured beside its peers in one run.

python -m tests.benchmarks [--runs 5] [--scale 0.01] [--only idle …] [--out tests/benchmarks]

Each measurement is a process of its own (see `party.py`), and parties take turns. Writes
`results.json`, the table `results.md`, and the pictures `results.svg` and `scaling.svg`. Scaled
down it says whether everything can be measured, and its figures mean nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.cases import CASES, Case
from tests.benchmarks.party import Figures

LIMIT_SECONDS = 300
"""Who takes longer is left out."""
SHORT_SECONDS = 0.3
"""The windows of a run that is scaled down: to see that everything works."""
_ROOT = Path(__file__).parents[2]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write what was found."""
    options = _options(words)
    cases = [case for case in CASES if not options.only or case.name in options.only]
    if options.scale != 1:
        cases = [case for case in cases if case.often]
    with tempfile.TemporaryDirectory() as place:
        found = measure(cases, options.runs, options.scale, Path(place))
    results = report.Results(found, report.machine(), options.runs, options.scale)
    for path in report.write(results, options.out):
        print(path)
    missing = [
        f"{case.name} {case.n} of {party}"
        for case in cases
        for party in case.parties
        if party not in found.get(f"{case.name} {case.n}", {})
    ]
    if missing and options.scale != 1:  # at full size, some take too long
        sys.exit(f"not measured: {', '.join(missing)}")


def measure(
    cases: Sequence[Case], runs: int, scale: float, place: Path
) -> dict[str, dict[str, Figures]]:
    """The medians, by case (`burst 10000`) and party."""
    seen: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for run in range(runs):
        for case in cases:
            if case.often or run == 0:
                for party in case.parties:
                    figures = _measured(case, party, scale, place)
                    print(f"run {run + 1}: {case.name} {case.n} {party} {figures}", file=sys.stderr)
                    if figures is not None:
                        seen[f"{case.name} {case.n}", party].append(figures)
    found: dict[str, dict[str, Figures]] = defaultdict(dict)
    for (case_name, party), each in seen.items():
        found[case_name][party] = {
            figure: statistics.median(figures[figure] for figures in each) for figure in each[0]
        }
    return found


def _measured(case: Case, party: str, scale: float, place: Path) -> Figures | None:
    """One measurement; None if it failed or took too long."""
    n = max(1, round(case.n * scale)) if case.n else 0
    seconds = case.seconds if scale == 1 else min(case.seconds, SHORT_SECONDS)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        words = (f"tests.benchmarks.parties.{party}_", case.name, str(n), str(seconds), directory)
        env = os.environ | {"PYTHONPATH": str(_ROOT)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            done = subprocess.run(
                [sys.executable, "-m", *words],
                cwd=directory,
                env=env,
                stdout=subprocess.PIPE,
                timeout=LIMIT_SECONDS,
                check=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{case.name} {n} of {party} is left out: {error}", file=sys.stderr)
            return None
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of every number of schedules")
    parser.add_argument("--only", nargs="*", choices=sorted({case.name for case in CASES}))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()

"""The long form of the fault suite: real processes and files, broken in every way we know.

python -m tests.faults [--only kill …] [--scale 0.01] [--seed 1] [--record FILE]

Prints a line for each fault as it ends, and what was violated below it. Exit status 1 if a
promise was broken. `--scale` multiplies every count and duration. A failed fault's directory is
kept, and named; the others' are removed. What was recorded is the README's table; see `report`.
"""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.faults import report
from tests.faults.registry import TABLE, Fault, Row

_COLUMNS = (*("fault", "count", "expected", "lost", "doubled", "abandoned", "seconds", "figures"),)
_FORMAT = "{:<16} {:>14} {:>9} {:>6} {:>8} {:>10} {:>8}  {}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the faults; the exit status."""
    options = _options(words)
    print(_FORMAT.format(*_COLUMNS), flush=True)
    failed = []
    for name in options.only or TABLE:
        fault = TABLE[name]
        directory = Path(tempfile.mkdtemp(prefix=f"fault-{name}-"))
        count = max(1, round(fault.count * options.scale))
        begun = time.monotonic()
        row = _strike(fault, directory, count, options.seed)
        seconds = time.monotonic() - begun
        print(line(name, fault, row, seconds), flush=True)
        if options.record:
            report.record(options.record, name, row, seconds)
        for violation in row.violations:
            print(f"    {violation}", flush=True)
        if row.is_good:
            shutil.rmtree(directory)
        else:
            failed.append(name)
            print(f"    with --seed {options.seed}, in {directory}", flush=True)
    return 1 if failed else 0


def _strike(fault: Fault, directory: Path, count: int, seed: int) -> Row:
    try:
        return fault.strike(directory, count, seed)
    except Exception as error:
        traceback.print_exc()  # the others are still to be run
        return Row(count=count, violations=(f"it could not go on: {error!r}"[:300],))


def line(name: str, fault: Fault, row: Row, seconds: float) -> str:
    """A line of the table."""
    figures = ", ".join(f"{what} {number:,}" for what, number in sorted(row.figures.items()))
    return _FORMAT.format(
        *(name, f"{row.count:,} {fault.unit}", f"{row.expected:,}", row.lost, row.doubled),
        *(f"{row.abandoned:,}", f"{seconds:,.0f}", figures),
    ).rstrip()


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--only", nargs="+", choices=list(TABLE), metavar="NAME", help="of these")
    parser.add_argument("--scale", type=float, default=1.0, help="of counts and durations")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random")
    parser.add_argument("--record", type=Path, help="keep what came of each here, as JSON")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())

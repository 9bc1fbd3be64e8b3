"""What came of the long forms, kept as JSON, and the README's table of it."""

import json
from pathlib import Path
from typing import Any

from tests.faults.registry import TABLE, Row

RESULTS = Path(__file__).with_name("results.json")


def record(path: Path, name: str, row: Row, seconds: float) -> None:
    """Put a fault's outcome in the place of its last."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {
        "count": row.count,
        "expected": row.expected,
        "lost": row.lost,
        "doubled": row.doubled,
        "violations": len(row.violations),
        "seconds": round(seconds),
    }
    in_order = {each: known[each] for each in TABLE if each in known}
    path.write_text(json.dumps(in_order, indent=1) + "\n")


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a line for each fault."""
    lines = [
        "| `--only` | what is done | how often | firings | lost | doubled |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        fault = TABLE[name]
        often = f"{found['count']:,} {fault.unit}"
        firings = (f"{found['expected']:,}", f"**{found['lost']}**", f"**{found['doubled']}**")
        cells = (f"`{name}`", fault.what, often, *(firings if found["expected"] else "–––"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

"""The readers of text under atheris, which follows the branches that a text takes: extra `fuzz`.

Run by `guided`, as a process of its own: `python -m tests.faults.fuzz_guided [OPTION…] CORPUS`,
with the options of libFuzzer.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC
from importlib.util import find_spec
from pathlib import Path

from tests.faults.fuzz import EXAMPLES, Tally

KINDS = sorted(EXAMPLES)
LONGEST = 1024
"""Bytes; what has a limit of its own is refused well below."""
HANG_SECONDS = 5
"""By the clock on the wall, which on a busy machine is not the program's."""


def guided(directory: Path, count: int, seed: int) -> Tally:
    """Give the readers so many inputs; none where atheris is not installed."""
    if find_spec("atheris") is None:
        return Tally(0, figures=Counter({"atheris is not installed": 1}))
    corpus = directory / "corpus"
    corpus.mkdir()
    for kind, texts in EXAMPLES.items():
        for number, text in enumerate(texts):
            name = corpus / f"{kind}-{number}"
            name.write_bytes(bytes([KINDS.index(kind)]) + text.encode(errors="surrogatepass"))
    options = (f"-runs={count}", f"-seed={seed or 1}", f"-max_len={LONGEST}", "-verbosity=0")
    command = [sys.executable, "-m", __name__, *options, f"-timeout={HANG_SECONDS}", str(corpus)]
    paths = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
    ran = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        errors="replace",
    )
    tally = Tally(count, figures=Counter({"found": len(list(corpus.iterdir()))}))
    if ran.returncode:
        tally.violations.append((ran.stdout + ran.stderr)[-4000:])
    return tally


def main() -> None:
    """Fuzz until told to end."""
    import atheris

    with atheris.instrument_imports(include=["sqlsched"], enable_loader_override=False):
        readers = _readers()
    from sqlsched.exceptions import SqlschedError

    def try_it(data: bytes) -> None:
        if not data:
            return
        read = readers[KINDS[data[0] % len(KINDS)]]
        try:
            read(data[1:].decode(errors="surrogateescape"))
        except SqlschedError as error:
            message = str(error)
            assert message.isprintable(), message
            assert len(message) < LONGEST, message

    atheris.Setup(sys.argv, try_it)
    atheris.Fuzz()


def _readers() -> dict[str, Callable[[str], object]]:
    from sqlsched.cli.environment import parse_lines
    from sqlsched.cli.json_lines import from_line, to_line
    from sqlsched.cli.schedule_options import read_labels
    from sqlsched.durations import parse_duration
    from sqlsched.field_checks import check_schedule_id, check_task_path
    from sqlsched.instants import parse_time
    from sqlsched.scheduled_task import ScheduledTask
    from sqlsched.serialization import checked_array, checked_object, dumps, loads
    from sqlsched.timezones import checked_cron_offset, zone_info

    def cron(text: str) -> object:
        trigger = ScheduledTask(task_name="m:f", cron=text).trigger(0)
        times = [first := trigger.next_us(1_800_000_000_000_000)]
        return [*times, trigger.next_us(first)] if first else times

    def round_trip(line: str) -> None:
        data = line.encode(errors="surrogatepass")
        schedule = from_line(data)
        assert from_line(to_line(schedule).encode()) == schedule

    def same_again(text: str, check: Callable[[object, str], object]) -> None:
        value = check(loads(text, "it"), "it")
        assert loads(dumps(value), "it") == value

    return {
        "cron": cron,
        "zone": lambda text: zone_info(checked_cron_offset(text, "--tz")),
        "time": lambda text: parse_time(text, UTC),
        "duration": parse_duration,
        "array": lambda text: same_again(text, checked_array),
        "object": lambda text: same_again(text, checked_object),
        "id": check_schedule_id,
        "task": lambda text: check_task_path(text, "TASK"),
        "label": lambda text: read_labels((text,)),
        "number": lambda text: ScheduledTask(task_name=text, interval=60),
        "text": lambda text: ScheduledTask(task_name="m:f", interval=60, note=text),
        "line": round_trip,
        "variable": lambda text: parse_lines(text.encode(errors="surrogatepass"), Path("x")),
    }


if __name__ == "__main__":
    main()

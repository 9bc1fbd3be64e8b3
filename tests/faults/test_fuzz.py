"""What is fuzzed breaks nothing: a few hundred inputs here, the rest with `-m long`."""

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from sqlsched.exceptions import InvalidScheduleError
from tests.faults import fuzz
from tests.faults.fuzz import Tally
from tests.faults.fuzz_guided import guided
from tests.faults.program import HangError, call

SEED = 1


def is_good(tally: Tally) -> bool:
    """Prints what it came to, and what was wrong."""
    print(f"{tally.count} inputs: {dict(tally.figures)}")
    print("\n\n".join(tally.violations[:10]))
    return not tally.violations


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory, in memory where there is such: databases are made by the thousand."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


def test_words(place: Path) -> None:
    tally = fuzz.words(place, 200, SEED)
    assert is_good(tally)
    assert tally.figures["exit 0"]
    assert tally.figures["exit 2"]


def test_databases(place: Path) -> None:
    tally = fuzz.databases(place, 20, SEED)
    assert is_good(tally)
    assert tally.figures["exit 0"]
    assert tally.figures["exit 1"]


@pytest.mark.long
@pytest.mark.skipif(find_spec("atheris") is None, reason="the extra `fuzz` is not installed")
def test_500_000_guided_words(tmp_path: Path) -> None:
    assert is_good(guided(tmp_path, 500_000, SEED))


# -- the watch itself -----------------------------------------------------------------------------


def test_a_traceback_a_hang_and_a_wrong_status_are_noticed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_: str) -> None:
        while True:
            pass

    def fail(_: str) -> None:
        raise KeyError("what")

    def refuse(_: str) -> None:
        raise InvalidScheduleError("one")

    monkeypatch.chdir(place)
    monkeypatch.setattr("sqlsched.cli.manage.read_labels", fail)
    answer = call("rm", "--label", "a=b")
    assert (answer.code, answer.problem) == (-1, "a traceback")
    monkeypatch.setattr("sqlsched.cli.manage.read_labels", hang)
    monkeypatch.setattr("tests.faults.program.CPU_SECONDS", 0.05)
    with pytest.raises(HangError):
        call("rm", "--label", "a=b")
    monkeypatch.setattr("sqlsched.cli.manage.read_labels", refuse)
    assert call("rm", "--label", "a=b").problem is None
    monkeypatch.setattr("sqlsched.cli._fail", lambda *_: 7)
    assert call("rm", "--label", "a=b").problem == "exit status 7"
    monkeypatch.setattr("sqlsched.cli._fail", lambda *_: 1)
    assert call("rm", "--label", "a=b").problem == "exit status 1 with 0 errors"


def test_a_command_that_fails_on_a_word_is_found(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sqlsched.cli.look.parse_time", fail)
    assert any(
        "ZeroDivisionError" in violation for violation in fuzz.words(place, 60, 3).violations
    )

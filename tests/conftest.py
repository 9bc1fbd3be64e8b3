"""What every part of the suite may use: the program, called as its user calls it."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.cli import main


@pytest.fixture
def sqlsched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., CompletedProcess[str]]:
    """Call the program within this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SQLSCHED_DB", raising=False)

    def call(*arguments: str) -> CompletedProcess[str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr()
        return CompletedProcess(arguments, int(stop.value.code or 0), said.out, said.err)

    return call

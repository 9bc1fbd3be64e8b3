"""The README is true: every command in it is run, and every output compared."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def steps(blocks: list[str]) -> list[tuple[str, str]]:
    """Commands and what they print."""
    found = []
    for block in blocks:
        for part in block.split("$ ")[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def matches(wanted: str, got: str) -> bool:
    """Like doctest's ELLIPSIS: `…` stands for anything within a line; blanks are blanks."""
    wanted_lines, got_lines = wanted.splitlines(), got.splitlines()
    return len(wanted_lines) == len(got_lines) and all(
        re.fullmatch(
            r"\s+".join(re.escape(word).replace("…", ".*") for word in line.split()), text.strip()
        )
        for line, text in zip(wanted_lines, got_lines, strict=True)
    )


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], str]:
    """Run a line in an empty directory, where `sqlsched` and `python` are ours; its stdout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}

    def run(line: str) -> str:
        ran = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, (line, ran.stderr)
        return ran.stdout

    return run


Shell = Callable[[str], str]


def test_the_tour_prints_what_the_readme_says(shell: Shell) -> None:
    for command, output in steps(CONSOLE):
        printed = shell(command)
        assert matches(output, printed), f"{command}\n{printed}"


def test_a_wrong_output_would_be_noticed() -> None:
    assert matches("a  … c\n", "a   b c  \n")
    assert not matches("a b\n", "a c\n")
    assert not matches("a\n", "a\nb\n")


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_the_python_examples_run(code: str, tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "example.py").write_text(code)
    shell(f"{sys.executable} example.py")


def test_a_broker_made_as_the_readme_says_serves_the_command_line(
    tmp_path: Path, shell: Shell
) -> None:
    code = next(block for block in PYTHON if "PrintBroker" in block)
    (tmp_path / "mymodule.py").write_text(code)
    shell("sqlsched add --at 2026-01-01 --args '[1, 2]' any.module:task")
    printed = shell("sqlsched run --once --broker mymodule:broker")
    assert printed == "any.module:task [1, 2] {}\n"


def test_every_command_named_in_the_readme_exists() -> None:
    from sqlsched.cli.commands import TABLE

    named = set(re.findall(r"(?:`|\$ )sqlsched ([a-z]+)\b", README))
    assert named <= set(TABLE), named - set(TABLE)


def test_the_main_job_shows_runs_and_their_history(shell: Shell) -> None:
    printed = shell(f"{sys.executable} -m sqlsched.examples.first_steps")
    history = printed.split("$ sqlsched history")[1]
    assert history.count("succeeded") == 6
    assert history.count("failed") == 1
    assert "from the shell: shell" in printed


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for marker in ("<!-- main job -->", "<!-- tests -->"):
        assert marker in README
        assert marker in ci

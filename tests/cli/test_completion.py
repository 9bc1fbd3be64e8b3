"""Completion by the shell, as the shell asks for it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.cli import completion

Sqlsched = Callable[..., CompletedProcess[str]]
Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(sqlsched: Sqlsched, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """What bash offers for a line that ends where the cursor is."""

    def call(line: str) -> list[str]:
        words = line.split(" ")
        with monkeypatch.context() as environment:
            environment.setenv("_SQLSCHED_COMPLETE", "bash_complete")
            environment.setenv("COMP_WORDS", line)
            environment.setenv("COMP_CWORD", str(len(words) - 1))
            result = sqlsched()
        assert (result.returncode, result.stderr) == (0, "")
        return [text.removeprefix("plain,") for text in result.stdout.split()]

    return call


@pytest.fixture
def schedules(sqlsched: Sqlsched) -> None:
    for name in ("name", "nat", "other"):
        sqlsched("add", "--id", name, "--every", "1h", "--shell", f"echo {name}\n")


@pytest.mark.usefixtures("schedules")
@pytest.mark.parametrize(
    "command",
    [
        *("show", "edit", "rm", "remove", "pause", "resume", "trigger", "next", "history"),
        *("logs --last", "rm other", "pause --label a=b", "why", "stats", "timeline"),
    ],
)
def test_ids_are_completed(complete: Complete, command: str) -> None:
    assert complete(f"sqlsched {command} na") == ["name", "nat"]


@pytest.mark.usefixtures("schedules")
def test_an_id_that_was_given_is_not_offered_again(complete: Complete) -> None:
    assert complete("sqlsched rm other ") == ["name", "nat"]


@pytest.mark.usefixtures("schedules")
def test_ids_are_those_of_the_database_that_is_named(
    complete: Complete, sqlsched: Sqlsched
) -> None:
    sqlsched("--db", "b.db", "add", "--id", "of-b", "--every", "1h", "m:f")
    assert complete("sqlsched --db b.db show ") == ["of-b"]


def test_zsh_is_told_what_each_schedule_runs(
    sqlsched: Sqlsched, schedules: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del schedules
    sqlsched("add", "--id", "py", "--every", "1h", "shop.jobs:mail")
    monkeypatch.setenv("_SQLSCHED_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "sqlsched show ")
    monkeypatch.setenv("COMP_CWORD", "2")
    lines = sqlsched().stdout.splitlines()
    assert lines[:3] == ["plain", "name", "echo name"]
    assert lines[-3:] == ["plain", "py", "shop.jobs:mail"]


def test_runs_are_completed_newest_first(complete: Complete, sqlsched: Sqlsched) -> None:
    sqlsched("add", "--id", "a", "--at", "2026-01-01", "--shell", "true")
    subprocess.run([sys.executable, "-m", "sqlsched", "run", "--once"], check=True)
    sqlsched("trigger", "a")
    assert complete("sqlsched logs ") == ["2", "1"]
    assert complete("sqlsched cancel ") == ["2"]
    assert complete("sqlsched logs 1") == ["1"]


@pytest.mark.usefixtures("schedules")
def test_no_more_are_offered_than_anyone_reads(
    complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "LIMIT", 2)
    assert complete("sqlsched show ") == ["name", "nat"]


@pytest.mark.parametrize("content", [None, b"nonsense", b""])
def test_without_a_database_nothing_is_offered_and_nothing_said(
    complete: Complete, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "sqlsched.db").write_bytes(content)
    before = list(tmp_path.iterdir())
    assert complete("sqlsched show ") == []
    assert complete("sqlsched cancel ") == []
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sqlsched hi", ["history"]),
        ("sqlsched add --overlap b", ["buffer-one", "buffer-all"]),
        ("sqlsched edit x --coalesce e", ["earliest"]),
        ("sqlsched add --catchup-window ", ["none", "unlimited"]),
        ("sqlsched history --status s", ["sending", "succeeded", "sent", "skipped"]),
        ("sqlsched run --skip", ["--skip-first-run"]),
        ("sqlsched completion z", ["zsh"]),
    ],
)
def test_commands_options_and_their_words_are_completed(
    complete: Complete, line: str, offered: list[str]
) -> None:
    assert complete(line) == offered


def test_commands_are_completed_without_importing_them(tmp_path: Path) -> None:
    asked = {"_SQLSCHED_COMPLETE": "bash_complete", "COMP_WORDS": "sqlsched ", "COMP_CWORD": "1"}
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sqlsched"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert "plain,history" in said.stdout
    assert "sqlite3" not in said.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(sqlsched: Sqlsched, shell: str) -> None:
    result = sqlsched("completion", shell)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"_SQLSCHED_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=result.stdout, text=True, check=True)


def test_bash_itself_completes_with_the_script(
    sqlsched: Sqlsched, schedules: None, tmp_path: Path
) -> None:
    del schedules
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sqlsched"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sqlsched "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(sqlsched("completion", "bash").stdout)
    ask = (
        ". ./script; COMP_WORDS=(sqlsched show na); COMP_CWORD=2; "
        "_sqlsched_completion sqlsched na show; printf '%s\\n' \"${COMPREPLY[@]}\"; "
        "complete -p sqlsched"
    )
    said = subprocess.run(
        ["bash", "--norc", "-c", ask],
        env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert said.stdout.splitlines() == [
        *("name", "nat", "complete -o nosort -F _sqlsched_completion sqlsched"),
    ]

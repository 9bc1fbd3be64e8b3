"""What holds for every command: which database, which stream, which exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.cli.commands import TABLE

Sqlsched = Callable[..., CompletedProcess[str]]

ADD = ("add", "--id", "nightly", "--cron", "0 3 * * *", "shop.jobs:clean")
PROGRAM = [sys.executable, "-m", "sqlsched"]
COMMANDS = sorted(TABLE)


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "SQLSCHED_DB"}
    return kept | changes


def test_the_database_is_the_one_of_the_option_then_the_variable_then_the_directory(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlsched(*ADD)
    monkeypatch.setenv("SQLSCHED_DB", "variable.db")
    sqlsched(*ADD)
    sqlsched("--db", "option.db", *ADD)
    assert {path.name for path in tmp_path.glob("*.db")} == {
        *("sqlsched.db", "variable.db", "option.db")
    }


def test_an_empty_variable_counts_as_unset(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLSCHED_DB", "")
    assert sqlsched(*ADD).returncode == 0
    assert (tmp_path / "sqlsched.db").exists()


@pytest.mark.parametrize(
    "command",
    [
        *(("list",), ("list", "--json"), ("show", "x"), ("next", "x"), ("history",)),
        *(("logs", "1"), ("logs", "--last", "x"), ("rm", "x"), ("rm", "--all"), ("pause", "x")),
        *(("resume", "--label", "a=b"), ("edit", "x", "--every", "5m"), ("trigger", "x")),
        *(("trigger", "x", "--wait"), ("cancel", "1"), ("export",), ("why", "x"), ("stats",)),
        *(("timeline",), ("timeline", "--svg", "x.svg"), ("watch",), ("backup", "copy.db")),
        *(("export", "--format", "toml"), ("simulate",), ("simulate", "--json"), ("prune",)),
        ("backfill", "x", "--from", "2026-01-01", "--to", "2026-01-02"),
    ],
    ids=" ".join,
)
def test_only_add_import_sync_and_run_make_a_database(
    sqlsched: Sqlsched, tmp_path: Path, command: tuple[str, ...]
) -> None:
    result = sqlsched("--db", "missing.db", *command)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: there is no database at missing.db; ")
    assert list(tmp_path.iterdir()) == []


def test_next_of_an_expression_needs_no_database(sqlsched: Sqlsched, tmp_path: Path) -> None:
    assert sqlsched("next", "--cron", "@daily").returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_screen_and_has_an_example(sqlsched: Sqlsched, command: str) -> None:
    result = sqlsched(*command.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Example" in result.stdout
    assert result.stdout.count("\n") <= 42
    assert max(map(len, result.stdout.splitlines())) <= 82
    assert sqlsched(*command.split(), "-h").stdout == result.stdout


def test_no_command_is_wrong_usage(sqlsched: Sqlsched) -> None:
    result = sqlsched()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: sqlsched")
    assert "history" in result.stderr.splitlines()[-1]


def test_the_version_is_printed(sqlsched: Sqlsched) -> None:
    result = sqlsched("--version")
    assert (result.returncode, result.stdout.split()[0]) == (0, "sqlsched")


def test_streams_and_statuses_are_those_of_a_real_program(tmp_path: Path) -> None:
    def call(*arguments: str) -> CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment(),
        )

    added = call(*ADD)
    assert (added.returncode, added.stdout) == (0, "nightly\n")
    assert added.stderr.startswith("added: shop.jobs:clean, next ")
    listed = call("list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert json.loads(listed.stdout)[0]["id"] == "nightly"
    unknown = call("show", "weekly")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    wrong = call("add", "--cron", "* *", "shop.jobs:clean")
    assert (wrong.returncode, wrong.stdout) == (2, "")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_has_seen_enough_is_no_error(
    sqlsched: Sqlsched, tmp_path: Path, options: tuple[str, ...]
) -> None:
    sqlsched(*ADD)
    many = subprocess.Popen(
        [*PROGRAM, "next", "nightly", "-n", "20000", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with many:
        assert many.stdout is not None
        assert many.stderr is not None
        assert many.stdout.readline()
        many.stdout.close()
        assert many.stderr.read() == b""


@pytest.mark.parametrize("variable", ["NO_COLOR", "FORCE_COLOR"])
def test_nothing_that_is_no_terminal_gets_colour(
    sqlsched: Sqlsched, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    sqlsched(*ADD)
    for arguments in (("list",), ("show", "nightly"), ("history",), ("--help",), ("nonsense",)):
        result = sqlsched(*arguments)
        assert "\x1b" not in result.stdout + result.stderr


def test_a_locale_without_unicode_stops_nothing(sqlsched: Sqlsched, tmp_path: Path) -> None:
    sqlsched(*ADD, "--note", "für Zoë ☃")
    for options in ((), ("--json",)):
        result = subprocess.run(
            [*PROGRAM, "list", *options],
            cwd=tmp_path,
            capture_output=True,
            env=environment(PYTHONIOENCODING="ascii"),
        )
        assert (result.returncode, result.stderr) == (0, b"")
        assert "für Zoë ☃" in result.stdout.decode()


def test_what_would_steer_a_terminal_is_shown_and_not_sent(sqlsched: Sqlsched) -> None:
    note = "red \x1b[31m\x07 text\u202e\nsecond line"
    sqlsched(*ADD, "--note", note)
    for arguments in (("list",), ("show", "nightly")):
        assert r"red \x1b[31m\x07 text\u202e second line" in sqlsched(*arguments).stdout
    assert json.loads(sqlsched("list", "--json").stdout)[0]["note"] == note


def test_an_id_is_found_by_any_prefix_that_only_it_has(sqlsched: Sqlsched) -> None:
    for name in ("abc", "abcd", "abx"):
        sqlsched("add", "--id", name, "--every", "1h", "--shell", "true")

    def found(given: str) -> str:
        return str(json.loads(sqlsched("show", given, "--json").stdout)["id"])

    assert found("abx") == "abx"
    assert found("abcd") == "abcd"
    assert found("abc") == "abc"  # whole, though another begins so
    ambiguous = sqlsched("show", "ab")
    assert ambiguous.returncode == 1
    assert "'ab' is ambiguous; it begins abc, abcd, abx" in ambiguous.stderr


def test_a_long_list_of_candidates_is_cut(sqlsched: Sqlsched) -> None:
    for number in range(7):
        sqlsched("add", "--id", f"job{number}", "--every", "1h", "--shell", "true")
    assert "begins job0, job1, job2, job3, job4, …\n" in sqlsched("show", "job").stderr

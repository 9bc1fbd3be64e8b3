"""The table of commands, which `--help` shows without importing them."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from sqlsched.cli import cli
from sqlsched.cli.commands import TABLE


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").startswith(TABLE[name].summary[:-1].split(" `")[0].split(":")[0])


def test_help_imports_no_command() -> None:
    code = (
        "import click, sys\n"
        "sys.modules.pop('pathlib', None)\n"  # an editable install has imported it at the start
        "from sqlsched.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m in {'sqlite3', 'asyncio', 'tabulate',"
        " 'pathlib', 'logging', 'sqlsched.cli.manage'}), file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stderr == "[]\n"


def test_list_imports_neither_the_engine_nor_what_decides(tmp_path: Path) -> None:
    assert "asyncio" not in imported_by(["add", "--cron", "*/5 9-17 * * *", "m:t"], tmp_path)
    imported = imported_by(["list"], tmp_path)
    assert "sqlite3" in imported
    assert "tabulate" in imported
    assert not {"asyncio", "sqlsched.planner"} & imported


def test_an_empty_list_does_not_import_what_draws_tables(tmp_path: Path) -> None:
    imported_by(["add", "--id", "gone", "--in", "1h", "m:t"], tmp_path)
    imported_by(["rm", "gone"], tmp_path)
    imported = imported_by(["list"], tmp_path)
    assert "sqlite3" in imported
    assert "tabulate" not in imported


def imported_by(words: list[str], directory: Path) -> set[str]:
    """The modules that a call of the program imports."""
    program = [sys.executable, "-X", "importtime", "-m", "sqlsched", *words]
    said = subprocess.run(program, capture_output=True, text=True, check=True, cwd=directory)
    return {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}

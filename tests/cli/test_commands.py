"""The table of commands, which `--help` shows without importing them."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from sqlsched.cli import cli
from sqlsched.cli.commands import TABLE


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"remove"}))
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").startswith(TABLE[name].summary[:-1].split(" `")[0].split(":")[0])


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom sqlsched.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m in {'sqlite3', 'asyncio', 'tabulate',"
        " 'croniter', 'logging', 'sqlsched.cli.manage'}), file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stderr == "[]\n"


def test_list_imports_neither_the_engine_nor_croniter(tmp_path: Path) -> None:
    program = [sys.executable, "-X", "importtime", "-m", "sqlsched"]
    for words in (["add", "--cron", "*/5 9-17 * * *", "m:t"], ["list"]):
        said = subprocess.run(
            [*program, *words], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        imported = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}
        assert "sqlite3" in imported
        assert "asyncio" not in imported
    assert "croniter" not in imported

"""The README is true: every command in it is run, and every output compared."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.registry import TABLE
from tests.servers import Program, RedisServer, wait_for

Shell = Callable[[str], str]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
MODULE = re.compile(r"# (\w+\.py)\n")
SCRIPTS = [block for block in PYTHON if not MODULE.match(block)]


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


def test_the_tour_prints_what_the_readme_says(shell: Shell) -> None:
    for command, output in steps(CONSOLE):
        printed = shell(command)
        assert matches(output, printed), f"{command}\n{printed}"


def test_a_wrong_output_would_be_noticed() -> None:
    assert matches("a  … c\n", "a   b c  \n")
    assert not matches("a b\n", "a c\n")
    assert not matches("a\n", "a\nb\n")


def write_modules(directory: Path, url: str = "") -> None:
    """The blocks that begin with a file's name, as files."""
    for block in PYTHON:
        if name := MODULE.match(block):
            text = block.replace("redis://localhost:6379/0", url) if url else block
            (directory / name[1]).write_text(text)


@pytest.mark.parametrize("code", SCRIPTS, ids=range(len(SCRIPTS)))
def test_the_python_examples_run(code: str, tmp_path: Path, shell: Shell) -> None:
    write_modules(tmp_path)
    (tmp_path / "example.py").write_text(code)
    shell(f"{sys.executable} example.py")


def test_the_example_of_tasks_runs_what_it_schedules(tmp_path: Path, shell: Shell) -> None:
    write_modules(tmp_path)
    (tmp_path / "example.py").write_text(next(s for s in SCRIPTS if "heavy_task" in s))
    shell(f"{sys.executable} example.py")
    runs = shell("sqlsched --db app.db history")
    assert runs.count("app:heavy_task") >= 2
    assert "every 1s" in shell("sqlsched --db app.db list")


def test_a_source_made_as_the_readme_says_is_served(tmp_path: Path, shell: Shell) -> None:
    write_modules(tmp_path)
    entry = '{"schedule_id": "x", "task_name": "jobs:hello", "time": "2026-01-01T00:00:00+00:00"}'
    (tmp_path / "schedules.json").write_text(f"[{entry}]")
    (tmp_path / "jobs.py").write_text("def hello():\n    print('hello')")
    with pytest.raises(AssertionError, match="time '2026"):  # JSON has no times: the source must
        shell("sqlsched run fromfile:scheduler --once")
    entry = '{"schedule_id": "x", "task_name": "jobs:hello", "cron": "* * * * *"}'
    (tmp_path / "schedules.json").write_text(f"[{entry}]")
    shell("sqlsched run fromfile:scheduler --once")
    assert shell("sqlsched logs --last x") == "hello\n"


@pytest.mark.parametrize("engine", ["redis", "taskiq", "celery"])
def test_the_commands_of_each_engine_work(
    engine: str,
    tmp_path: Path,
    shell: Shell,
    redis_server: RedisServer,
    start_program: Callable[..., Program],
) -> None:
    write_modules(tmp_path, redis_server.url)
    block = README.split(f"<!-- engine: {engine} -->")[1].split("```sh\n")[1].split("```")[0]
    server, *commands = block.splitlines()
    assert server == "redis-server --port 6379 --appendonly yes &"
    started = []
    for command in commands:
        if command.endswith(" &"):
            started.append(start_program(*shlex.split(command.removesuffix(" &"))))
        else:
            shell(command)
    if engine == "redis":
        ledgers = [tmp_path / f"machine-{number}.db" for number in (1, 2)]
        wait_for(lambda: all(ledger.exists() for ledger in ledgers))
        wait_for(lambda: "succeeded" in "".join(program.said() for program in started))
    else:
        assert " sent" in shell("sqlsched history")
        wait_for(lambda: "hello Ada" in started[0].said())


def test_a_broker_made_as_the_readme_says_serves_the_command_line(
    tmp_path: Path, shell: Shell
) -> None:
    code = next(block for block in PYTHON if "PrintBroker" in block)
    (tmp_path / "mymodule.py").write_text(code)
    shell("sqlsched add --at 2026-01-01 --args '[1, 2]' any.module:task")
    printed = shell("sqlsched run --once --broker mymodule:broker")
    assert printed == "any.module:task [1, 2] {}\n"


def test_a_message_that_comes_twice_is_run_once_as_the_readme_says(
    tmp_path: Path, redis_server: RedisServer, shell: Shell, start_program: Callable[..., Program]
) -> None:
    write_modules(tmp_path, redis_server.url)
    worker = start_program("taskiq", "worker", "payments:broker", "--workers", "1")
    (tmp_path / "send.py").write_text(
        "import asyncio\n"
        "from payments import broker, charge\n"
        "async def main():\n"
        "    await broker.startup()\n"
        "    for order, task_id in [(1, 'a'), (1, 'a'), (2, 'b')]:\n"
        "        await charge.kicker().with_task_id(task_id).kiq(order)\n"
        "    await broker.shutdown()\n"
        "asyncio.run(main())\n"
    )
    shell(f"{sys.executable} send.py")
    wait_for(lambda: "charged 2" in worker.said() and "dropped" in worker.said())
    assert worker.said().count("charged 1") == 1


def test_every_command_named_in_the_readme_exists() -> None:
    from sqlsched.cli.commands import TABLE

    named = set(re.findall(r"(?:`|\$ )sqlsched ([a-z]+)\b", README))
    assert named <= set(TABLE), named - set(TABLE)


def test_the_words_for_those_who_come_from_elsewhere_are_ours() -> None:
    from sqlsched.cli.schedule_options import OPTIONS

    table = README.partition("## Coming from elsewhere")[2].partition("\n## ")[0]
    ours = " ".join(row.split(" | ")[-1] for row in table.splitlines() if " | " in row)
    named = set(re.findall(r"--[a-z][a-z-]+", ours))
    options = {flag for option in OPTIONS for flag in option.flags}
    known = options | {"--replace", "--broker", "--db", "--skip-first-run"}
    assert len(named) > 10
    assert named <= known, named - known


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


def test_the_table_of_speeds_is_the_one_that_was_measured() -> None:
    shown = README.partition("<!-- benchmarks -->\n")[2].partition("<!-- /benchmarks -->")[0]
    assert shown.strip() == (ROOT / "tests/benchmarks/results.md").read_text().strip()
    assert shown.count("| ") > 100


def test_the_table_of_faults_is_the_one_that_was_recorded_and_no_promise_was_broken() -> None:
    results = json.loads(report.RESULTS.read_text())
    shown = README.partition("<!-- faults -->\n")[2].partition("<!-- /faults -->")[0]
    assert shown.strip() == report.table(results)
    assert list(results) == list(TABLE)
    assert not any(row["lost"] + row["doubled"] + row["violations"] for row in results.values())


def test_each_promise_names_faults_that_there_are() -> None:
    promises = README.partition("how we know\n")[2].partition("\nThey hold")[0].strip()
    for promise in promises.splitlines():
        names = promise.rpartition("(")[2]
        assert set(re.findall(r"`([^`]+)`", names)) <= set(TABLE)
        assert "`" in names


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert len(pictures) == 3
    for picture in pictures:
        assert (ROOT / picture).read_text().startswith("<?xml")

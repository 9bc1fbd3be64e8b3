"""Moving schedules as JSON lines: `export` and `import`."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from sqlsched.cli import json_lines, transfer

Sqlsched = Callable[..., CompletedProcess[str]]

PROGRAM = [sys.executable, "-m", "sqlsched"]
EVERYTHING: dict[str, Any] = {
    "id": "all",
    "task_name": "shop.jobs:mail",
    "args": [1, 2.5, True, None, "für Zoë ☃", {"a": [-(2**63), 2**63 - 1]}],
    "kwargs": {"a": 1, "b": "\n\t\u2028"},
    "labels": {"team": "shop", "n": 1},
    "cron": "*/5 * * * *",
    "cron_offset": "+02:00",
    "paused": True,
    "note": 'say "hello"\nand go',
    "start": "2030-01-01T00:00:00+00:00",
    "end": "2031-01-01T00:00:00.000001+00:00",
    "max_runs": 5,
    "jitter": 10,
    "catchup_window": 600,
    "coalesce": "all",
    "overlap": "buffer-one",
    "timeout": 30,
    "retries": 0,
    "retry_delay": 7,
    "expires": 90,
    "task_id": "fixed",
}
A = {"id": "a", "task_name": "m:f", "interval": 60}
B = {"id": "b", "task_name": "m:f", "time": "2030-01-01T00:00:00+00:00"}


def write(path: Path, *records: dict[str, Any] | str, end: str = "\n") -> str:
    lines = (r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records)
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return str(path)


def exported(sqlsched: Sqlsched, database: str = "sqlsched.db") -> list[dict[str, Any]]:
    result = sqlsched("--db", database, "export")
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.split("\n")[:-1]]


def ids(sqlsched: Sqlsched) -> list[str]:
    return [record["id"] for record in exported(sqlsched)]


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., str]:
    """Write a file of these lines; its name."""
    return lambda *records, **options: write(tmp_path / "in.jsonl", *records, **options)


Lines = Callable[..., str]


# -- there and back -------------------------------------------------------------------------------


def test_what_is_imported_is_exported_with_every_field(sqlsched: Sqlsched, lines: Lines) -> None:
    result = sqlsched("import", lines(EVERYTHING))
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "imported 1 schedule\n"
    assert exported(sqlsched) == [EVERYTHING]


def test_export_and_import_give_the_same_bytes_again(
    sqlsched: Sqlsched, lines: Lines, tmp_path: Path
) -> None:
    words = {"id": "words", "task_name": "m:f", "cron": "@daily", "catchup_window": "unlimited"}
    named = {"id": "zone", "task_name": "sqlsched:shell", "args": ["true"], "interval": 1}
    sqlsched("import", lines(EVERYTHING, A, B, words, named | {"cron_offset": "Asia/Kolkata"}))
    sqlsched("add", "--in", "1h", "--label", "a=b", "--", "/bin/echo", "{}")
    first = sqlsched("export").stdout
    assert first.count("\n") == 6
    (tmp_path / "out.jsonl").write_text(first, encoding="utf-8")
    assert sqlsched("--db", "other.db", "import", "out.jsonl").returncode == 0
    assert sqlsched("--db", "other.db", "export").stdout == first


def test_unset_fields_are_left_out(sqlsched: Sqlsched, lines: Lines) -> None:
    sqlsched("import", lines(A))
    assert exported(sqlsched) == [A | {"args": [], "kwargs": {}, "labels": {}, "paused": False}]


def test_null_is_the_default_and_what_only_list_says_is_ignored(
    sqlsched: Sqlsched, lines: Lines, tmp_path: Path
) -> None:
    sqlsched("import", lines(A, B | {"args": None, "retries": None, "paused": None}))
    listed = json.loads(sqlsched("list", "--json").stdout)
    assert {"next_fire_time", "last_fire_time", "last_status"} < set(listed[0])
    result = sqlsched("--db", "other.db", "import", write(tmp_path / "listed", *listed))
    assert result.returncode == 0
    assert exported(sqlsched, "other.db") == exported(sqlsched)


def test_a_schedule_without_an_id_gets_one(sqlsched: Sqlsched, lines: Lines) -> None:
    record = {"task_name": "m:f", "interval": 60}
    sqlsched("import", lines(record, record))
    assert len(set(ids(sqlsched))) == 2


def test_a_time_without_an_offset_is_on_the_clock_of_its_schedule(
    sqlsched: Sqlsched, lines: Lines
) -> None:
    local = B | {"time": "2030-01-01T01:00", "cron_offset": "+01:00"}
    sqlsched("import", lines(local, A | {"start": "2030-01-01"}))
    assert exported(sqlsched)[0]["time"] == B["time"]
    assert exported(sqlsched)[1]["start"] == "2030-01-01T00:00:00+00:00"


def test_what_is_imported_fires_as_what_is_added(sqlsched: Sqlsched, lines: Lines) -> None:
    line = {"task_name": "sqlsched:shell", "args": ["echo hello"], "time": "2026-01-01"}
    sqlsched("import", lines(line | {"id": "old"}, line | {"id": "not", "paused": True}))
    assert subprocess.run([*PROGRAM, "run", "--once"], check=False).returncode == 0
    assert sqlsched("logs", "--last", "old").stdout == "hello\n"
    assert "has not run" in sqlsched("history", "not").stderr


def test_what_is_done_or_comes_from_elsewhere_is_not_exported(
    sqlsched: Sqlsched, lines: Lines
) -> None:
    sqlsched("import", lines(A, B, A | {"id": "done"}))
    with sqlite3.connect("sqlsched.db") as database:
        database.execute("UPDATE schedules SET source = 'other' WHERE schedule_id = 'b'")
        database.execute("UPDATE schedules SET next_us = NULL WHERE schedule_id = 'done'")
    database.close()
    assert ids(sqlsched) == ["a"]


def test_a_damaged_schedule_is_named_and_the_others_are_exported(
    sqlsched: Sqlsched, lines: Lines
) -> None:
    sqlsched("import", lines(A, B))
    with sqlite3.connect("sqlsched.db") as database:
        database.execute("UPDATE schedules SET args = '{' WHERE schedule_id = 'a'")
    database.close()
    result = sqlsched("export")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: schedule a cannot be read: ")
    assert json.loads(result.stdout)["id"] == "b"


# -- the same again -------------------------------------------------------------------------------


def test_the_same_again_is_no_change(sqlsched: Sqlsched, lines: Lines) -> None:
    sqlsched("import", lines(A))
    result = sqlsched("import", lines(A, B, A | {"id": "c"}))
    assert (result.returncode, result.stderr) == (0, "imported 3 schedules (1 unchanged)\n")


def test_other_content_is_refused_unless_it_replaces(sqlsched: Sqlsched, lines: Lines) -> None:
    sqlsched("import", lines(A))
    file = lines(B, A | {"note": "new"})
    result = sqlsched("import", file)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: line 2: a schedule with the id 'a' and other content")
    assert ids(sqlsched) == ["a"]
    result = sqlsched("import", "--replace", file)
    assert (result.returncode, result.stderr) == (0, "imported 2 schedules (1 changed)\n")
    assert exported(sqlsched)[0]["note"] == "new"


@pytest.mark.parametrize("there_before", [False, True])
def test_an_id_that_comes_twice_is_refused(
    sqlsched: Sqlsched, lines: Lines, there_before: bool
) -> None:
    if there_before:
        sqlsched("import", lines(A))
    result = sqlsched("import", "--replace", lines(A, B, A))
    assert result.returncode == 2
    assert result.stderr.startswith("Error: line 3: the id 'a' stands twice")


def test_an_id_that_comes_twice_is_found_however_far_apart(
    sqlsched: Sqlsched, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlsched.storage.additions.CHUNK", 2)
    records = [A | {"id": f"x{number}"} for number in range(5)]
    assert "line 6: the id 'x0'" in sqlsched("import", lines(*records, A | {"id": "x0"})).stderr
    assert sqlsched("import", lines(*records)).returncode == 0
    assert "line 6: the id 'x0'" in sqlsched("import", lines(*records, A | {"id": "x0"})).stderr


# -- what is wrong --------------------------------------------------------------------------------

WRONG = [
    ("{", "it is not valid JSON: Expecting property name enclosed in double quotes: column"),
    ("[1]", "[1]: give a JSON object"),
    ("7", "7: give a JSON object"),
    ("NaN", "it is not valid JSON: NaN is not JSON"),
    ('{"id": "x", "id": "y"}', "the key 'id' stands twice"),
    (A | {"crn": "x"}, "unknown key 'crn'; known are id, task_name, "),
    (A | {"schedule_id": None}, "unknown key 'schedule_id'; known are id, "),
    (A | {"id": "a b"}, "schedule_id 'a b': an id is 1 to 64 "),
    (A | {"id": 5}, "schedule_id 5: an id is "),
    ({"id": "x", "interval": 5}, "task_name None: a task is "),
    (A | {"task_name": "m f"}, "task_name 'm f': a task is "),
    (A | {"interval": "5m"}, "interval '5m': give whole seconds, like 90"),
    (A | {"interval": 60.0}, "interval 60.0: give whole seconds"),
    (A | {"interval": True}, "interval True: give whole seconds"),
    (A | {"interval": 0}, "interval 0: a duration is "),
    (A | {"catchup_window": 1.5}, "catchup_window 1.5: give whole seconds"),
    (A | {"catchup_window": "never"}, "catchup_window 'never': give one of none, unlimited"),
    (A | {"cron": "* * * * *"}, "exactly one of cron, time and interval"),
    ({"task_name": "m:f"}, "exactly one of cron, time and interval"),
    ({"task_name": "m:f", "cron": "61 * * * *"}, "61"),
    (B | {"time": 5}, "time 5: give a time as text"),
    (B | {"time": "soon"}, "time 'soon': a time is ISO 8601"),
    (B | {"cron_offset": "Mars/Base"}, "cron_offset 'Mars/Base': give an IANA zone"),
    (A | {"args": {}}, "args is an object: give a JSON array"),
    ('{"task_name": "m:f", "interval": 5, "args": [1e999]}', "args has inf"),
    ('{"task_name": "m:f", "interval": 5, "note": "\\ud800"}', "note has text that is not Unicode"),
    (A | {"args": [2**64]}, "args has an integer outside 64 bits"),
    (A | {"paused": 1}, "paused 1: give true or false"),
    (A | {"end": "2020-01-01"}, "end 2020-01-01T00:00:00+00:00 leaves no firing"),
    (A | {"overlap": "no"}, "overlap 'no': give one of allow, "),
    ('"' + "x" * 5000 + '"', "…: give a JSON object"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_a_wrong_line_is_named_and_nothing_is_imported(
    sqlsched: Sqlsched, lines: Lines, wrong: Any, said: str
) -> None:
    result = sqlsched("import", lines(B, "", wrong))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: line 3: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("sqlsched.db").exists() or ids(sqlsched) == []


def test_the_good_lines_are_imported_if_it_keeps_going(sqlsched: Sqlsched, lines: Lines) -> None:
    sqlsched("import", lines(B))
    late = A | {"id": "late", "end": "2020-01-01"}
    result = sqlsched(
        "import", "--keep-going", lines("{", A, B | {"note": "x"}, late, A, A | {"id": "c"}, "[]")
    )
    assert result.returncode == 1
    *errors, count = result.stderr.splitlines()
    assert [error.split(":")[:2] for error in errors] == [
        ["Error", f" line {number}"] for number in (1, 3, 4, 5, 7)
    ]
    assert count == "imported 2 schedules; 5 bad lines left out"
    assert ids(sqlsched) == ["b", "a", "c"]


def test_a_change_that_fails_leaves_the_schedule_as_it_was(
    sqlsched: Sqlsched, lines: Lines
) -> None:
    sqlsched("import", lines(A))
    file = lines(A | {"end": "2020-01-01"}, B)
    assert sqlsched("import", "--keep-going", "--replace", file).returncode == 1
    assert ids(sqlsched) == ["a", "b"]
    assert "end" not in exported(sqlsched)[0]


def test_keeping_going_without_a_bad_line_is_no_failure(sqlsched: Sqlsched, lines: Lines) -> None:
    assert sqlsched("import", "--keep-going", lines(A)).returncode == 0


def test_a_bad_line_far_down_takes_back_what_came_before(
    sqlsched: Sqlsched, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlsched.storage.additions.CHUNK", 2)
    sqlsched("import", lines(B))
    records = [A | {"id": f"x{number}"} for number in range(7)]
    assert sqlsched("import", lines(*records, "{")).stderr.startswith("Error: line 8: ")
    assert ids(sqlsched) == ["b"]
    result = sqlsched("import", "--keep-going", lines("[", "{", *records[:5]))
    assert result.stderr.endswith("imported 5 schedules; 2 bad lines left out\n")


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf" + json.dumps(A).encode(), "line 1: a byte order mark; save the file"),
        (json.dumps(A).encode("utf-16"), "line 1: b'\\xff\\xfe"),
        (b'\n{"note": "\xe9"}\n', 'line 2: b\'{"note": "\\xe9"}\\n\' is not UTF-8'),
        (json.dumps(A).encode()[:-5], "; the input ends here, perhaps too early"),
        (b"\0" * 100, "line 1: it is not valid JSON"),
    ],
)
def test_a_file_that_is_no_json_lines_is_refused(
    sqlsched: Sqlsched, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    result = sqlsched("import", "in.jsonl")
    assert result.returncode == 2
    assert said in result.stderr
    assert not (tmp_path / "sqlsched.db").exists()


def test_blank_lines_and_other_ends_of_line_do_no_harm(sqlsched: Sqlsched, tmp_path: Path) -> None:
    content = b"\r\n" + json.dumps(A).encode() + b"\r\n  \n" + json.dumps(B).encode()
    (tmp_path / "in.jsonl").write_bytes(content)
    assert sqlsched("import", "in.jsonl").stderr == "imported 2 schedules\n"


def test_an_empty_file_has_no_schedules(sqlsched: Sqlsched, lines: Lines) -> None:
    result = sqlsched("import", lines(end=""))
    assert (result.returncode, result.stderr) == (0, "imported 0 schedules\n")
    assert sqlsched("export").stdout == ""


def test_a_line_of_another_kind_of_file_is_not_held_in_memory(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (json_lines, transfer):
        monkeypatch.setattr(module, "LONGEST_LINE", 100)
    (tmp_path / "in.jsonl").write_bytes(b"x" * 1000 + b"\n" + json.dumps(A).encode() + b"\n")
    result = sqlsched("import", "--keep-going", "in.jsonl")
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: line 1: {b'x' * 40!r}… is longer than 100 bytes")
    assert ids(sqlsched) == ["a"]


@pytest.mark.parametrize(("file", "said"), [("gone", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(sqlsched: Sqlsched, file: str, said: str) -> None:
    result = sqlsched("import", file)
    assert result.returncode == 2
    assert f"'{file}': {said}" in result.stderr
    assert not Path("sqlsched.db").exists()


def test_another_format_is_refused(sqlsched: Sqlsched) -> None:
    for command, known in (
        ("import", "'jsonl', 'crontab'"),
        ("export", "'jsonl', 'toml', 'crontab'"),
    ):
        result = sqlsched(command, "--format", "xml")
        assert result.returncode == 2
        assert f"'xml' is not one of {known}" in result.stderr


@pytest.mark.parametrize("dash", [(), ("-",)])
def test_schedules_come_through_a_pipe(
    sqlsched: Sqlsched, tmp_path: Path, dash: tuple[str, ...]
) -> None:
    text = json.dumps(A) + "\n"
    result = subprocess.run(
        [*PROGRAM, "import", *dash], input=text, capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.returncode, result.stderr) == (0, "imported 1 schedule\n")
    assert ids(sqlsched) == ["a"]


def test_nobody_is_kept_from_writing_while_a_pipe_is_slow(
    sqlsched: Sqlsched, tmp_path: Path
) -> None:
    importing = subprocess.Popen(
        [*PROGRAM, "import"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert importing.stdin is not None
    importing.stdin.write((json.dumps(A) + "\n").encode())
    importing.stdin.flush()
    assert sqlsched("add", "--every", "1h", "--id", "other", "m:f").returncode == 0
    importing.communicate()
    assert importing.returncode == 0
    assert sorted(ids(sqlsched)) == ["a", "other"]


def test_an_interrupt_leaves_nothing_stored(
    sqlsched: Sqlsched, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlsched.storage.additions.CHUNK", 2)
    read = json_lines.from_line

    def interrupted(line: bytes) -> Any:
        if b"x5" in line:
            signal.raise_signal(signal.SIGINT)
        return read(line)

    monkeypatch.setattr("sqlsched.cli.transfer.from_line", interrupted)
    result = sqlsched("import", lines(*(A | {"id": f"x{number}"} for number in range(9))))
    assert (result.returncode, result.stdout, result.stderr.strip()) == (130, "", "")
    assert ids(sqlsched) == []


def test_a_terminal_is_shown_how_far_it_is(lines: Lines, tmp_path: Path) -> None:
    file = lines(*(A | {"id": f"x{number}"} for number in range(5000)))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "import", file], stderr=theirs, stdout=subprocess.PIPE, cwd=tmp_path
    ) as program:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:
            pass  # how Linux says that nobody holds the other end
        os.close(ours)
    assert program.returncode == 0
    assert b"100%" in said
    assert said.endswith(b"imported 5000 schedules\r\n")


def test_export_of_a_missing_database_makes_none(sqlsched: Sqlsched, tmp_path: Path) -> None:
    result = sqlsched("--db", "missing.db", "export")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: there is no database at missing.db")
    assert list(tmp_path.iterdir()) == []

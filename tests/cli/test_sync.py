"""`sync`: schedules as code, from a TOML file."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Sqlsched = Callable[..., CompletedProcess[str]]

FILE = """\
[schedules.mail]
task = "shop.jobs:mail"
cron = "*/5 * * * *"

[schedules.ping]
shell = "curl -fsS https://example.org"
interval = "90s"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(FILE)
    return path


def ids(sqlsched: Sqlsched) -> list[str]:
    return [entry["id"] for entry in json.loads(sqlsched("list", "--json").stdout)]


def test_it_says_what_it_did(sqlsched: Sqlsched, file: Path) -> None:
    first = sqlsched("sync", "shop.toml")
    assert (first.returncode, first.stdout) == (0, "added    mail\nadded    ping\n")
    assert first.stderr == "2 added, 0 changed, 0 unchanged, 0 removed\n"
    file.write_text(FILE.replace("90s", "2m").partition("\n\n")[2])
    second = sqlsched("sync", "shop.toml")
    assert (second.returncode, second.stdout) == (0, "changed  ping\n")
    assert second.stderr == (
        "not in the file any more: mail; --prune removes them\n"
        "0 added, 1 changed, 0 unchanged, 0 removed\n"
    )
    third = sqlsched("sync", "--prune", "--json", "shop.toml")
    assert json.loads(third.stdout) == {
        "added": [],
        "changed": [],
        "unchanged": ["ping"],
        "removed": ["mail"],
    }
    assert ids(sqlsched) == ["ping"]


def test_a_long_list_is_cut_for_people(sqlsched: Sqlsched, file: Path) -> None:
    file.write_text("".join(f"[schedules.x{n}]\ntask = 'm:f'\ninterval = 60\n" for n in range(25)))
    assert sqlsched("sync", "shop.toml").stdout.splitlines()[-2:] == [
        "added    x19",
        "added    … and 5 more",
    ]


def test_a_dry_run_does_nothing_and_makes_no_database(
    sqlsched: Sqlsched, file: Path, tmp_path: Path
) -> None:
    tried = sqlsched("sync", "shop.toml", "--dry-run")
    assert (tried.returncode, tried.stdout) == (0, "added    mail\nadded    ping\n")
    assert tried.stderr == "would be: 2 added, 0 changed, 0 unchanged, 0 removed\n"
    assert list(tmp_path.iterdir()) == [file]
    sqlsched("add", "--id", "mail", "--every", "1h", "m:f")
    assert sqlsched("sync", "shop.toml", "--dry-run").stdout == "added    ping\nchanged  mail\n"
    assert ids(sqlsched) == ["mail"]


def test_what_is_exported_as_toml_is_synced_into_the_same(sqlsched: Sqlsched, file: Path) -> None:
    sqlsched("sync", "shop.toml")
    sqlsched("add", "--at", "2030-01-01", "--tz", "Asia/Tokyo", "--kwargs", '{"a": null}', "m:f")
    sqlsched("add", "--in", "1h", "--id", "a.b", "--paused", "--", "/bin/echo", "it's", '"')
    exported = sqlsched("export", "--format", "toml").stdout
    file.write_text(exported)
    assert sqlsched("--db", "other.db", "sync", "shop.toml").returncode == 0
    assert sqlsched("--db", "other.db", "export", "--format", "toml").stdout == exported
    assert sqlsched("--db", "other.db", "export").stdout == sqlsched("export").stdout
    assert "4 unchanged" in sqlsched("sync", "shop.toml").stderr


def test_nothing_at_all_is_exported_and_synced_too(sqlsched: Sqlsched, file: Path) -> None:
    sqlsched("sync", "shop.toml")
    file.write_text("[schedules]\n")
    assert "2 removed" in sqlsched("sync", "shop.toml", "--prune").stderr
    assert sqlsched("export", "--format", "toml").stdout == "[schedules]\n"


def test_all_that_is_wrong_is_told_with_file_and_line_and_nothing_is_stored(
    sqlsched: Sqlsched, file: Path, tmp_path: Path
) -> None:
    file.write_text(FILE.replace("90s", "soon").replace("*/5 *", "*/5 25"))
    for options in ((), ("--dry-run",), ("--json",)):
        result = sqlsched("sync", "shop.toml", *options)
        assert (result.returncode, result.stdout) == (2, "")
        mail, ping = result.stderr.splitlines()
        assert mail.startswith(
            "Error: shop.toml, line 3: schedule 'mail': cron '*/5 25 * * *': hour '25'"
        )
        assert ping.startswith(
            "Error: shop.toml, line 7: schedule 'ping': interval 'soon': a duration is "
        )
    assert list(tmp_path.iterdir()) == [file]


def test_what_the_database_refuses_is_told_with_file_and_line(
    sqlsched: Sqlsched, file: Path, tmp_path: Path
) -> None:
    file.write_text(FILE + "end = 2020-01-01\n")
    result = sqlsched("sync", "shop.toml")
    assert result.returncode == 2
    assert result.stderr == (
        "Error: shop.toml, line 5: end 2020-01-01T00:00:00+00:00 leaves no firing from now on; "
        "widen the bounds\n"
    )
    assert list(tmp_path.iterdir()) == [file]
    file.write_text("group = 'shop'\n" + FILE)
    assert sqlsched("sync", "shop.toml").returncode == 0
    file.write_text("group = 'bank'\n" + FILE)
    result = sqlsched("sync", "shop.toml")
    assert result.returncode == 1
    assert "Error: shop.toml, line 2: 'mail' is of the group 'shop'" in result.stderr
    assert result.stderr.count("\n") == 2


@pytest.mark.parametrize(("name", "said"), [("gone", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(sqlsched: Sqlsched, name: str, said: str) -> None:
    result = sqlsched("sync", name)
    assert result.returncode == 2
    assert f"'{name}': {said}" in result.stderr


def test_a_file_comes_through_a_pipe(sqlsched: Sqlsched, tmp_path: Path) -> None:
    def call(text: str) -> CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sqlsched", "sync", "-"],
            input=text,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    assert "2 added" in call(FILE).stderr
    assert call("x").stderr.startswith("Error: <stdin>, line 1: 'x': it is not valid TOML: ")
    assert ids(sqlsched) == ["mail", "ping"]

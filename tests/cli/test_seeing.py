"""`sqlsched timeline` and `stats`, as they are typed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sqlsched.clock import now_us
from sqlsched.storage import pruning
from sqlsched.storage.connection import open_for_writing, transaction

Sqlsched = Callable[..., CompletedProcess[str]]

DAY = ("--from", "2090-03-26", "--to", "2090-03-27")


@pytest.fixture
def planned(sqlsched: Sqlsched) -> Sqlsched:
    """A database with two schedules."""
    sqlsched("add", "--id", "hourly", "--cron", "0 * * * *", "m:f")
    sqlsched("add", "--id", "daily", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "m:f")
    return sqlsched


def test_a_row_for_each_schedule_with_what_is_to_come(planned: Sqlsched) -> None:
    result = planned("timeline", *DAY, "--width", "79")
    assert (result.returncode, result.stderr) == (0, "")
    title, names, _, daily, hourly, *_ = result.stdout.splitlines()
    assert title.startswith("2090-03-26T00:00:00+00:00 to 2090-03-27T00:00:00+00:00, a column is")
    assert names.split() == ["00:00", "04:00", "08:00", "12:00", "16:00", "20:00"]
    assert (daily[:5], daily.count("╷")) == ("daily", 1)
    assert (hourly[:6], hourly.count("╷")) == ("hourly", 24)
    assert max(map(len, result.stdout.splitlines()[1:])) <= 79


def test_what_fires_all_the_time_has_no_blanks(planned: Sqlsched) -> None:
    planned("add", "--id", "busy", "--cron", "* * * * *", "m:f")
    *_, busy = planned("timeline", *DAY, "busy", "--width", "80").stdout.splitlines()[:4]
    assert busy == "busy  " + 74 * "╷"


def test_the_axis_and_the_bounds_are_on_the_clock_of_the_zone(planned: Sqlsched) -> None:
    # On this day the clocks go forward from two to three, over half past two.
    day = ("--from", "2090-03-26T00:00", "--to", "2090-03-26T06:00", "--tz", "Europe/Berlin")
    title, names, _, daily, *_ = planned("timeline", *day, "daily").stdout.splitlines()
    assert "2090-03-26T00:00:00+01:00 to 2090-03-26T06:00:00+02:00" in title
    assert names.index("03:00") == daily.index("╷")


def test_without_bounds_it_is_the_last_hour_and_the_next(planned: Sqlsched) -> None:
    title, *_, legend = planned("timeline").stdout.splitlines()
    assert "a column is" in title
    assert "┊ now" in legend
    assert len(planned("timeline", "--to", "2090-01-01").stdout) > 0
    assert len(planned("timeline", "--from", "2090-01-01").stdout) > 0


@pytest.mark.usefixtures("planned")
def test_where_stdout_has_no_unicode_it_is_drawn_in_ascii(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sqlsched", "timeline", *DAY],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "iso-8859-1"},
    )
    assert result.stdout.isascii()
    assert result.stdout.count(b"|") == 26  # with the legend's


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_whose_users_want_it(
    planned: Sqlsched,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    has_colour: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert "\x1b" not in planned("timeline", *DAY).stdout
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert ("\x1b[36m╷\x1b[0m" in planned("timeline", *DAY).stdout) == has_colour


def test_a_picture_is_written_whole_and_to_stdout_if_wished(
    planned: Sqlsched, tmp_path: Path
) -> None:
    (tmp_path / "it.svg").write_text("old")
    written = planned("timeline", *DAY, "--svg", "it.svg")
    assert (written.returncode, written.stdout) == (0, "")
    assert written.stderr == "wrote it.svg: 2 schedules\n"
    picture = (tmp_path / "it.svg").read_text()
    assert picture.startswith("<?xml")
    assert picture.endswith("</svg>\n")
    assert planned("timeline", *DAY, "--svg", "-").stdout == picture
    assert sorted(path.suffix for path in tmp_path.glob("*it.svg*")) == [".svg"]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    planned: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlsched.explain.timeline_svg import Picture

    (tmp_path / "it.svg").write_text("old")
    missing = planned("timeline", "--svg", "no/such/it.svg")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("Error: ")
    assert "No such file or directory" in missing.stderr

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Picture, "_row", interrupted)
    assert planned("timeline", "--svg", "it.svg").returncode == 130
    assert [path.name for path in tmp_path.glob("*it.svg*")] == ["it.svg"]
    assert (tmp_path / "it.svg").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (
            ("timeline", "--from", "2090-01-02", "--to", "2090-01-01"),
            2,
            "2090-01-02T00:00:00+00:00",
        ),
        (("timeline", "--from", "soon"), 2, "--from 'soon'"),
        (("timeline", "--width", "3"), 2, "3"),
        (("timeline", "--tz", "Mars"), 2, "'Mars'"),
        (("timeline", "nothing"), 1, "'nothing'"),
        (("stats", "nothing"), 1, "'nothing'"),
        (("stats", "--since", "a while"), 2, "--since 'a while'"),
        (("stats", "--since", "0s"), 2, "--since '0s'"),
        (("watch", "--interval", "0"), 2, "--interval '0'"),
        (("watch", "-n", "0"), 2, "0"),
    ],
)
def test_bad_input_is_named(
    planned: Sqlsched, arguments: tuple[str, ...], code: int, named: str
) -> None:
    result = planned(*arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("Error: ")
    assert named in result.stderr
    assert result.stderr.count("\n") == 1


def enter_runs(statuses: str) -> None:
    """Runs of `hourly`, an hour apart up to an hour ago: `s`ucceeded after 2 s, or `f`ailed."""
    names = {"s": "succeeded", "f": "failed"}
    database = open_for_writing(Path("sqlsched.db"))
    with transaction(database):
        for number, letter in enumerate(reversed(statuses), 1):
            database.execute(
                """INSERT INTO runs (schedule_id, task_name, scheduled_us, attempt, trigger, status,
                       due_us, started_us, finished_us)
                   VALUES ('hourly', 'm:f', ?1, 1, 'schedule', ?2, ?1, ?1 + 3000, ?1 + 2003000)""",
                (now_us() - number * 3600 * 1_000_000, names[letter]),
            )
    database.close()


def test_stats_have_these_fields(planned: Sqlsched) -> None:
    enter_runs("fsss")
    daily, hourly = json.loads(planned("stats", "--json").stdout)
    assert daily == dict.fromkeys(hourly) | {
        "schedule_id": "daily",
        **dict.fromkeys(("runs", "succeeded", "failed"), 0),
    }
    assert hourly == {
        "schedule_id": "hourly",
        "runs": 4,
        "succeeded": 3,
        "failed": 1,
        "success_rate": 0.75,
        "duration_p50": 2.0,
        "duration_p95": 2.0,
        "lateness_p50": 0.003,
        "lateness_p99": 0.003,
    }


@pytest.mark.parametrize(("since", "count"), [("90m", 1), ("150m", 2), ("1970-01-01", 4)])
def test_stats_since_a_time_or_so_long_ago(planned: Sqlsched, since: str, count: int) -> None:
    enter_runs("ssss")
    (found,) = json.loads(planned("stats", "hourly", "--since", since, "--json").stdout)
    assert found["runs"] == count


def test_stats_as_a_table_never_round_a_failure_away(planned: Sqlsched) -> None:
    enter_runs("f" + 2999 * "s")
    header, _, hourly = planned("stats").stdout.splitlines()
    assert header.split()[0] == "SCHEDULE"
    assert hourly.split() == [
        *("hourly", "3000", "2999", "1", "99.9", "%", "2.0", "s", "2.0", "s"),
        *("3", "ms", "3", "ms"),
    ]


def test_stats_of_nothing_say_so(planned: Sqlsched) -> None:
    planned("rm", "--all")
    result = planned("stats")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "nothing has run yet, and there are no schedules\n"
    assert planned("stats", "--json").stdout == "[]\n"


def test_a_schedule_that_is_gone_keeps_its_figures_and_its_row(planned: Sqlsched) -> None:
    enter_runs("ss")
    planned("rm", "hourly")
    assert json.loads(planned("stats", "hourly", "--json").stdout)[0]["runs"] == 2
    assert "hourly" in planned("timeline", "hourly", "--from", "2020-01-01").stdout
    database = open_for_writing(Path("sqlsched.db"))
    pruning.prune(database, pruning.Cut(2**60, 2**60), 0)
    pruning.forget_changes(database, 2**60)
    database.close()
    assert planned("stats", "hourly").returncode == 1

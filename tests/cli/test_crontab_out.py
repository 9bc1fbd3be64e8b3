"""Crontabs written: what cron can say, said so that it comes back the same; and what it cannot."""

import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import islice
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sqlsched.cli.crontab import machine
from sqlsched.cli.crontab.reading import Rules, read
from sqlsched.cli.crontab.words import LONGEST_COMMAND
from sqlsched.cli.crontab.writing import write
from sqlsched.instants import to_us
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, ScheduledTask

Sqlsched = Callable[..., CompletedProcess[str]]

RULES = Rules("root", system=False, sure=False, zone="Pacific/Apia")
NOW_US = to_us(datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC))


def shell(line: str = "date", **fields: Any) -> ScheduledTask:
    cron = {} if {"cron", "time", "interval"} & set(fields) else {"cron": "0 3 * * *"}
    return ScheduledTask(
        **{"schedule_id": "job", "task_name": SHELL_TASK, "args": [line]} | cron | fields
    )


def written(*schedules: ScheduledTask) -> tuple[str, dict[str, str]]:
    """The crontab, and what is said of each schedule that is left out or loses something."""
    said: dict[str, str] = {}
    text = "\n".join(write(schedules, said.__setitem__, None)) + "\n"
    return text, {name: problem for name, problem in said.items() if "CRON_TZ=" not in name}


def entry(schedule: ScheduledTask) -> str:
    text, said = written(schedule)
    assert not said
    return text.splitlines()[-1]


def back(text: str) -> list[ScheduledTask]:
    lines = enumerate(BytesIO(text.encode()), 1)
    found = [schedule for _, schedule in read(lines, RULES)]
    assert all(isinstance(schedule, ScheduledTask) for schedule in found), found
    return [schedule for schedule in found if isinstance(schedule, ScheduledTask)]


def firings(schedule: ScheduledTask) -> list[int]:
    def following() -> Any:
        at = schedule.trigger(0).next_us(NOW_US)
        while at is not None:
            yield at
            at = schedule.trigger(0).next_us(at)

    return list(islice(following(), 12))


# -- there and back -------------------------------------------------------------------------------


def test_a_crontab_has_a_clock_for_each_group_and_a_name_for_each_entry() -> None:
    text, said = written(
        shell("/bin/a 100%", schedule_id="a", note="one\n\n two"),
        shell("b", schedule_id="b", cron="@daily", cron_offset="Europe/Berlin"),
        shell(schedule_id="c", cron_offset=timedelta(hours=-5, minutes=-30)),
        ScheduledTask(schedule_id="d", task_name=EXEC_TASK, args=["echo", "a b"], cron="1 2 3 4 5"),
    )
    assert not said
    header, _, body = text.partition("\n\n")
    assert all(line.startswith("# ") for line in header.splitlines())
    assert body == (
        "CRON_TZ=UTC\n\n# one\n#\n#  two\n# id: a\n0 3 * * * /bin/a 100\\%\n\n"
        "# id: d\n1 2 3 4 5 echo 'a b'\n\n"
        "CRON_TZ=Europe/Berlin\n\n# id: b\n@daily b\n\n"
        "CRON_TZ=<-0530>+05:30\n\n# id: c\n0 3 * * * date\n"
    )


@pytest.mark.parametrize(
    ("cron", "fields"),
    [
        ("5/10 * * * *", "5-59/10 * * * *"),
        ("0 0 ? jan/3 ?", "0 0 * jan-12/3 *"),
        ("0 0 * * FRI-SUN", "0 0 * * FRI-7"),
        ("0 0 * * 3/2,SUN-TUE", "0 0 * * 3-6/2,SUN-TUE"),
        ("0 0 * * 1-sun/2", "0 0 * * 1-7/2"),
        ("0\t0  1-7 * */2", "0 0 1-7 * */2"),
        ("@DAILY", "@daily"),
    ],
)
def test_what_debians_cron_does_not_read_is_said_in_other_words(cron: str, fields: str) -> None:
    assert entry(shell(cron=cron)) == f"{fields} date"
    (schedule,) = back(written(shell(cron=cron))[0])
    assert firings(schedule) == firings(shell(cron=cron))


WORDS = st.text(st.sampled_from("a \\%'\"$`#*;=\t\r\x0béλ\u2028{}~-"), min_size=1, max_size=30)
LINES = WORDS.filter(str.strip)
FIELD = {
    "minute": ["0", "*", "*/5", "1-59/7", "5/10", "3,9", "59"],
    "hour": ["0", "*", "*/6", "9-17", "22/1", "3,4"],
    "day": ["*", "1", "?", "*/2", "1-7", "31,1", "15/5"],
    "month": ["*", "JAN", "1-6", "FEB-APR,12", "*/3", "jul/2"],
    "weekday": ["*", "?", "MON-FRI", "FRI-SUN", "0", "7", "5-7", "2/2", "sun,sat", "*/3"],
}
CRONS = st.tuples(*map(st.sampled_from, FIELD.values())).map(" ".join) | st.sampled_from(
    ["@hourly", "@Midnight", "@yearly"]
)
ZONES = st.sampled_from([None, "UTC", "Europe/Berlin", "America/New_York"]) | st.integers(
    -86_399, 86_399
).map(lambda seconds: timedelta(seconds=seconds))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LINES, CRONS, ZONES, st.none() | WORDS | LINES), max_size=5))
def test_what_is_written_is_read_as_it_was(drawn: list[tuple[str, str, Any, Any]]) -> None:
    given_ = {
        f"job{number}": shell(
            line, cron=cron, cron_offset=zone, note=note and note.replace("\x0b", "\n")
        )
        for number, (line, cron, zone, note) in enumerate(drawn)
    }
    text, said = written(
        *(ScheduledTask(**{**vars(s), "schedule_id": name}) for name, s in given_.items())
    )
    read_back = {schedule.schedule_id: schedule for schedule in back(text)}
    assert set(read_back) == set(given_) - set(said)
    for name in said:
        start = given_[name].args[0].lstrip()[0]
        assert start in "*=" or given_[name].args[0].endswith("\r")
    for name, again in read_back.items():
        schedule = given_[name]
        assert again.args == [schedule.args[0].lstrip(" \t")]
        assert (again.note, again.task_name) == (schedule.note, SHELL_TASK)
        assert again.cron_offset == schedule.cron_offset
        assert firings(again) == firings(schedule)
        assert written(ScheduledTask(**vars(again))) == written(
            ScheduledTask(**{**vars(schedule), "schedule_id": name})
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS.map(lambda word: word.replace("\r", "")), min_size=1, max_size=4))
def test_a_program_and_its_arguments_are_quoted(words: list[str]) -> None:
    assume(words[0] and words[0][0] != "=")
    program = ScheduledTask(schedule_id="x", task_name=EXEC_TASK, args=words, cron="@daily")
    (again,) = back(written(program)[0])
    assert shlex.split(again.args[0]) == words


def test_the_same_comes_back_through_the_command_line(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlsched("add", "--id", "a", "--cron", "*/5 * * * *", "--note", "n", "--shell", "date +%F")
    sqlsched("add", "--id", "b", "--cron", "@daily", "--tz", "+05:30", "--shell", "root x")
    for name in ("_LOCALTIME", "_TIMEZONE"):
        monkeypatch.setattr(machine, name, tmp_path / "gone")
    exported = sqlsched("export", "--format", "crontab")
    assert (exported.returncode, exported.stderr) == (
        0,
        "Warning: CRON_TZ=<+0530>-05:30: Debian's cron ignores it, and goes by this machine's "
        "clock\n",
    )
    (tmp_path / "tab").write_text(exported.stdout)
    again = sqlsched("import", "--format", "crontab", "tab")
    assert again.stderr.endswith("imported 2 schedules (2 unchanged)\n")
    imported = sqlsched("--db", "other.db", "import", "--format", "crontab", "tab")
    assert imported.returncode == 0
    assert sqlsched("--db", "other.db", "export").stdout == sqlsched("export").stdout


def test_an_imported_crontab_that_is_exported_is_imported_as_the_same(
    sqlsched: Sqlsched, tmp_path: Path
) -> None:
    tab = Path(__file__).parents[1] / "data" / "user.crontab"
    sqlsched("import", "--format", "crontab", "--tz", "UTC", str(tab))
    (tmp_path / "tab").write_text(sqlsched("export", "--format", "crontab").stdout)
    again = sqlsched("import", "--format", "crontab", "tab")
    assert again.stderr.endswith("imported 5 schedules (5 unchanged)\n")


def test_a_backslash_alone_stays_one_for_crons_that_keep_them_all() -> None:
    assert entry(shell(r"a\b \\c")) == r"0 3 * * * a\b \\\c"


# -- what cannot be said --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        (shell(interval=300), "every 5m, counted from its making; cron goes by the clock"),
        (shell(interval=300, start=datetime(2030, 1, 1, tzinfo=UTC)), "cron knows no start"),
        (shell(time=datetime(2030, 1, 1, tzinfo=UTC)), "once, at 2030-01-01T00:00:00+00:00; cron"),
        (shell(task_name="shop.jobs:mail"), "shop.jobs:mail is Python; cron runs commands"),
        (shell(paused=True), "it is paused"),
        (shell(end=datetime(2099, 1, 1, tzinfo=UTC)), "cron knows no end"),
        (shell(max_runs=3), "cron knows no max_runs"),
        (shell(cron="0 0 L * *"), "cron knows no L"),
        (shell(cron="0 0 1,15W * *"), "cron knows no 15W"),
        (shell(cron="0 0 * * fri#2"), "cron knows no fri#2"),
        (shell(cron="0 0 * * 5L"), "cron knows no 5L"),
        (shell("a\nb"), "a command is one line"),
        (shell(" \t"), "cron does not read such a command"),
        (shell("=x", cron="@daily"), "cron does not read such a command"),  # it sets @daily
        (shell("* x"), "cron does not read such a command"),
        (shell("x\r"), "cron does not read such a command"),
        (shell("é" * 500), f"a command has at most {LONGEST_COMMAND} bytes"),
        (shell("%" * 500), f"a command has at most {LONGEST_COMMAND} bytes"),
    ],
)
def test_what_cron_cannot_say_is_left_out_and_named(schedule: ScheduledTask, why: str) -> None:
    text, said = written(schedule, shell(schedule_id="other"))
    assert said["job"].startswith(f"left out: {why}")
    assert [s.schedule_id for s in back(text)] == ["other"]
    assert f"\n\n# Not said here, as cron cannot:\n# job: left out: {why}" in text


def test_the_longest_command_is_still_written() -> None:
    assert entry(shell("x" * LONGEST_COMMAND)).endswith("x" * LONGEST_COMMAND)


def test_policies_that_cron_does_not_know_are_named(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOCALTIME", "_TIMEZONE"):
        monkeypatch.setattr(machine, name, tmp_path / "gone")  # which is to be in UTC
    options = ("--retries", "2", "--timeout", "30s", "--label", "a=b", "--overlap", "skip")
    sqlsched("add", "--id", "a", "--cron", "@daily", *options, "--shell", "date")
    sqlsched("add", "--id", "b", "--every", "5m", "--shell", "date")
    result = sqlsched("export", "--format", "crontab")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "Warning: a: without labels, overlap, timeout, retries",
        "Warning: b: left out: every 5m, counted from its making; cron goes by the clock",
    ]
    assert "\n# id: a\n@daily date\n" in result.stdout
    assert result.stdout.endswith(
        "# a: without labels, overlap, timeout, retries\n"
        "# b: left out: every 5m, counted from its making; cron goes by the clock\n"
    )


def test_no_schedules_are_an_empty_crontab() -> None:
    text, said = written()
    assert back(text) == []
    assert not said

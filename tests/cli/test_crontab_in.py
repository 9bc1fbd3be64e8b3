"""Crontabs read: what a line means to cron, it means to sqlsched."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlsched.cli.crontab import machine
from sqlsched.cli.crontab.reading import EXPORTED, Rules, read
from sqlsched.cli.crontab.words import escape_command, read_variable, split_command
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.scheduled_task import ScheduledTask

Sqlsched = Callable[..., CompletedProcess[str]]

DATA = Path(__file__).parents[1] / "data"
ME = pwd.getpwuid(os.geteuid()).pw_name
USER = Rules("ann", system=False, sure=True, zone=None)
SYSTEM = Rules("root", system=True, sure=True, zone=None)


PIECES = [
    *(
        b"* * * * * ",
        b"@daily ",
        b"root ",
        b"\n",
        b"A=",
        b"'",
        b'"',
        b"%",
        b"\\",
        b"CRON_TZ=",
        b"#",
    ),
    *(b"SHELL=/bin/bash\n", b"# id: a\n", b"0 5 1-7 */2 MON", b"\t", b"\xff", b"\0", b"echo x\n"),
]


def found(text: str | bytes, rules: Rules = USER) -> list[ScheduledTask | InvalidScheduleError]:
    given = text if isinstance(text, bytes) else text.encode()
    lines = enumerate(BytesIO(given), 1)
    return [schedule for _, schedule in read(lines, rules)]


def schedules(text: str | bytes, rules: Rules = USER) -> list[ScheduledTask]:
    all_found = found(text, rules)
    assert all(isinstance(schedule, ScheduledTask) for schedule in all_found), all_found
    return [schedule for schedule in all_found if isinstance(schedule, ScheduledTask)]


def one(text: str | bytes, rules: Rules = USER) -> ScheduledTask:
    (schedule,) = schedules(text, rules)
    return schedule


def refusal(text: str | bytes, rules: Rules = USER) -> str:
    (error,) = [error for error in found(text, rules) if not isinstance(error, ScheduledTask)]
    return str(error)


def line(text: str) -> str:
    command: str = one(text).args[0]
    return command


def output(text: str, home: Path) -> str:
    """What an entry prints when sqlsched runs it."""
    ran = subprocess.run(
        ["/bin/sh", "-c", line(text)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        check=True,
    )
    return ran.stdout


# -- whole files ----------------------------------------------------------------------------------


def test_a_user_crontab_is_read_as_cron_reads_it() -> None:
    backup, mail, bell, tidy, last = schedules((DATA / "user.crontab").read_bytes())
    assert (backup.cron, backup.cron_offset, backup.note) == ("0 3 * * 1-5", None, None)
    assert backup.args == ["cd; /usr/local/bin/backup --all >> backup.log 2>&1"]
    assert mail.note == "MAILTO=joe"  # its comment stands above the variables
    assert mail.args == [
        "export PATH=/usr/local/bin:/usr/bin:/bin; cd; "
        """printf '%s\\n' Joe, '' 'it'"'"'s Friday.' | /bin/sh -c 'mail -s "100% done" joe'"""
    ]
    assert (bell.schedule_id, bell.note) == ("bell", "on Wall Street\nMAILTO=joe")
    assert (bell.cron, bell.cron_offset) == ("30 9 * * 1-5", "America/New_York")
    assert bell.args == [
        "export PATH=/usr/local/bin:/usr/bin:/bin SHELL=/bin/bash TZ=Asia/Tokyo; cd; "
        "exec /bin/bash -c '[[ $(date +%z) == +0900 ]] && ring'"
    ]
    assert (tidy.cron, last.cron) == ("@daily", "@hourly")
    assert last.args[0].endswith("'last line, without an end'")


def test_a_system_crontab_is_read_for_the_user_who_runs() -> None:
    entries = found((DATA / "system.crontab").read_bytes(), SYSTEM)
    hourly, daily, purge, raid, reboot, report = entries
    assert isinstance(hourly, ScheduledTask)
    assert (hourly.cron, hourly.note) == ("17 * * * *", None)
    assert hourly.args == [
        "export PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin; cd; "
        "cd / && run-parts --report /etc/cron.hourly"
    ]
    assert isinstance(raid, ScheduledTask)
    assert "$(date +%d)" in raid.args[0]
    assert isinstance(report, ScheduledTask)
    assert report.args[0].endswith(r"sed -n 's/^\s*total\s\(.*\)$/\1/p'")
    assert (report.cron, report.note) == ("@weekly", "MAILTO=root")
    assert "it runs as www-data, and sqlsched runs as you, root" in str(purge)
    assert "cron '@reboot': there is no boot to wait for" in str(reboot)
    assert isinstance(daily, ScheduledTask)
    (purge,) = [
        s
        for s in found(
            (DATA / "system.crontab").read_bytes(), Rules("www-data", True, True, zone=None)
        )
        if isinstance(s, ScheduledTask)
    ]
    assert purge.note == "Purge what nobody asked for\nin a day"


# -- what a command gets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command", "data"),
    [
        ("a", "a", ""),
        (r"a\%b", "a%b", ""),
        ("a%", "a", ""),
        ("a%b", "a", "b\n"),
        ("a%b%", "a", "b\n"),
        ("a%%b", "a", "\nb\n"),
        (r"a%b\%c", "a", "b%c\n"),
        (r"a\\b\c", r"a\b\c", ""),  # a pair of backslashes is one
        (r"a\\%b", "a\\", "b\n"),
        (r"a\\\%b", r"a\%b", ""),
        ("a\\", "a\\", ""),
        (r"a%b\\%c\d", "a", "b\\%c\\d\n"),  # but not in what stdin gets
        ("a%b%\\", "a", "b\n\\"),  # nor does such an end get a newline
    ],
)
def test_percent_signs_and_backslashes_are_those_of_cron(
    text: str, command: str, data: str
) -> None:
    assert split_command(text) == (command, data)
    if not data:
        assert split_command(escape_command(command)) == (command, "")


@pytest.mark.parametrize("data", ["one", "one%two", "%%", r"a\%b", "it's%'", "%\\", "$HOME%`x`%*"])
@pytest.mark.parametrize("shell", ["", "SHELL=/bin/bash\n"])
def test_a_command_reads_what_follows_the_percent_sign(
    tmp_path: Path, data: str, shell: str
) -> None:
    assert output(f"{shell}* * * * * cat%{data}\n", tmp_path) == split_command(f"cat%{data}")[1]


def test_a_command_starts_at_home_and_has_the_variables_above_it(tmp_path: Path) -> None:
    variables = "A = $B 'c' \"d\"\nB='it'\"s\nB=\"it's `x`\"\nLOGNAME=other\nMAILTO=x\n"
    with pytest.raises(AssertionError, match="five fields"):
        output(variables + "* * * * * env", tmp_path)
    text = variables.replace("B='it'\"s\n", "") + '* * * * * pwd; echo "$A,$B,$LOGNAME,$MAILTO"'
    assert output(text, tmp_path) == f"{tmp_path}\n$B 'c' \"d\",it's `x`,,\n"


def test_a_home_that_is_set_is_where_it_starts(tmp_path: Path) -> None:
    assert output("HOME=/usr\n* * * * * pwd; echo $HOME", tmp_path) == "/usr\n/usr\n"


def test_another_shell_runs_the_command_as_it_stands(tmp_path: Path) -> None:
    text = "SHELL=/bin/bash\n* * * * * x=(1 'a b'); echo \"${x[1]} $SHELL\" # it's\n"
    assert output(text, tmp_path) == "a b /bin/bash\n"


def test_a_variable_counts_from_its_line_on() -> None:
    first, second = schedules("0 0 * * * a\nX=1\n0 0 * * * b\n")
    assert (first.args, second.args) == (["cd; a"], ["export X=1; cd; b"])


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("A=b", ("A", "b")),
        ("A = b c  ", ("A", "b c")),
        ("A=", ("A", "")),
        ("A=''", ("A", "")),
        ("A='  b  '", ("A", "  b")),
        ("A=\"'b'\"", ("A", "b")),
        ("A=b'", ("A", "b'")),
        ("'A'=\"b=c\"", ("A", "b=c")),
        ("A='b' c", None),
        ("A='b", None),
        ("A b=c", None),
        ("* * * * * A=b", None),
        ("@daily A=b", None),
    ],
)
def test_variables_and_their_quotes_are_those_of_cron(
    text: str, variable: tuple[str, str] | None
) -> None:
    assert read_variable(text) == variable


@pytest.mark.parametrize("name", ["a-b", "'A B'", "IFS", "UID"])
def test_a_variable_that_no_shell_can_set_is_refused_where_it_counts(name: str) -> None:
    assert len(found(f"0 0 * * * a\n{name}=1\n0 0 * * * b\n")) == 2
    assert refusal(f"{name}=1\n0 0 * * * b\n").endswith("cannot be set in a line of shell")


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (":Asia/Tokyo", "Asia/Tokyo"),
        ("UTC", "UTC"),
        ("EST5", "-05:00"),
        ("<+0530>-05:30", "+05:30"),
        ("UTC-3", "+03:00"),
    ],
)
def test_cron_tz_is_the_clock_of_what_follows(text: str, zone: str) -> None:
    first, second, third = schedules(f"@daily a\nCRON_TZ={text}\n@daily b\nCRON_TZ=\n@daily c\n")
    assert first.cron_offset is third.cron_offset is None
    assert second == ScheduledTask(
        **{**vars(second), "cron_offset": None if zone == "UTC" else zone}
    )


def test_tz_is_a_variable_of_the_command_alone() -> None:
    schedule = one("TZ=Asia/Tokyo\n@daily a\n")
    assert (schedule.cron_offset, schedule.args) == (None, ["export TZ=Asia/Tokyo; cd; a"])


@pytest.mark.parametrize("text", ["Mars/Base", "+02:00", "7200", "EST5EDT,M3.2.0,M11.1.0"])
def test_a_clock_that_nobody_knows_is_refused_where_it_counts(text: str) -> None:
    assert len(schedules(f"CRON_TZ={text}\nCRON_TZ=UTC\n@daily a\n")) == 1
    assert text in refusal(f"CRON_TZ={text}\n@daily a\n")


def test_entries_without_a_clock_are_on_that_of_the_machine(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    monkeypatch.setattr(machine, "_LOCALTIME", link)
    (tmp_path / "tab").write_text("# id: a\n@daily a\nCRON_TZ=UTC\n# id: b\n@daily b\n")
    result = sqlsched("import", "--format", "crontab", "tab")
    assert result.stderr.splitlines() == [
        "entries without CRON_TZ are on this machine's clock, Europe/Berlin",
        "imported 2 schedules",
    ]
    assert "(Europe/Berlin)" in sqlsched("list").stdout.splitlines()[1]
    assert "(" not in sqlsched("list").stdout.splitlines()[2]
    sqlsched("import", "--format", "crontab", "--tz", "Asia/Tokyo", "--replace", "tab")
    assert "(Asia/Tokyo)" in sqlsched("list").stdout.splitlines()[1]


def test_a_machine_whose_clock_has_no_name_asks_for_one(
    sqlsched: Sqlsched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "localtime").touch()
    monkeypatch.setattr(machine, "_LOCALTIME", tmp_path / "localtime")
    monkeypatch.setattr(machine, "_TIMEZONE", tmp_path / "timezone")
    (tmp_path / "tab").write_text("@daily a\n")
    result = sqlsched("import", "--format", "crontab", "tab")
    assert (result.returncode, "--tz says which" in result.stderr) == (2, True)
    (tmp_path / "timezone").write_text("Asia/Kolkata\n")
    assert "Asia/Kolkata" in sqlsched("import", "--format", "crontab", "tab").stderr


# -- comments and ids -----------------------------------------------------------------------------


def test_a_note_is_what_stands_directly_above_an_entry() -> None:
    first, second, third = schedules(
        "#no\n\n# one\n#  two\n#\n@daily a\n@daily b\n#no\nA=1\n\n#yes \n@daily c\n"
    )
    assert (first.note, second.note, third.note) == ("one\n two", None, "yes")


def test_a_heading_of_the_columns_is_no_note_but_an_entry_left_out_is() -> None:
    heading = "# of the file\n# m h  dom mon dow   command\n# mine\n0 3 * * * a\n"
    assert one(heading).note == "mine"
    assert one("# mine\n#* * * * * old\n0 3 * * * a\n").note == "mine\n* * * * * old"


def test_an_id_comes_from_the_command_so_that_the_same_again_is_no_change(
    sqlsched: Sqlsched, tmp_path: Path
) -> None:
    (tmp_path / "tab").write_text("0 1 * * * /bin/x y\n0 2 * * * /bin/x y\n@daily /bin/x z\n")
    assert sqlsched("import", "--format", "crontab", "tab").returncode == 0
    listed = sqlsched("list").stdout
    ids = [row.split()[0] for row in listed.splitlines()[1:]]
    assert len(set(ids)) == 3
    again = sqlsched("import", "--format", "crontab", "tab")
    assert again.stderr.endswith("imported 3 schedules (3 unchanged)\n")
    (tmp_path / "tab").write_text("0 1 * * * /bin/x y\n0 3 * * * /bin/x y\n@daily /bin/x z\n")
    other = sqlsched("import", "--format", "crontab", "tab")
    assert (other.returncode, "line 2: a schedule with the id" in other.stderr) == (1, True)
    sqlsched("import", "--format", "crontab", "--replace", "tab")
    assert [row.split()[0] for row in sqlsched("list").stdout.splitlines()[1:]] == ids


@pytest.mark.parametrize(
    ("command", "slug"),
    [
        ("/usr/local/bin/backup --all", "backup"),
        ("[ -x /usr/lib/shop/purge ] && /usr/lib/shop/purge", "purge"),
        ("test -x /sbin/a1 || { cd / && run-parts /etc/cron.daily; }", "run-parts-cron.daily"),
        ("x", "job"),
        ("very-long-" * 9, ("very-long-" * 9)[:32]),
    ],
)
def test_an_id_tells_what_is_run(command: str, slug: str) -> None:
    assert one(f"@daily {command}\n").schedule_id.rpartition("-")[0].startswith(slug)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@reboot x", "there is no boot to wait for"),
        ("@every_minute x", "of the words with @ there are @yearly"),
        ("0~30 * * * * x", "minute '0~30': ~ (a random value) is not known here"),
        ("H * * * * x", "minute 'h': H (a hashed value) is not known here"),
        ("60 * * * * x", "60 is out of range"),
        ("0 0 31 2 * x", "it never fires"),
        ("* * * * *", "'* * * * *': give five fields, or @daily and its like, and a command"),
        ("* * * * * ", "give a command after the five fields"),
        ("* * * * * * x", "give a command after the five fields"),
        ("* * * * * %x", "give a command after the five fields"),
        ("nonsense", "'nonsense': give five fields"),
        ("@daily x\r\n", "the line ends with a carriage return"),
        (b"@daily \xe9\n", r"b'@daily \xe9' is not UTF-8"),
        ("\ufeff@daily x", "give five fields"),
    ],
)
def test_what_cannot_be_imported_is_said(text: str | bytes, said: str) -> None:
    assert said in refusal(text)


def test_whose_an_entry_is_must_be_known() -> None:
    unsure = Rules("root", system=False, sure=False, zone=None)
    assert "say --system" in refusal("@daily root x\n", unsure)
    assert one("@daily root x\n").args == ["cd; root x"]
    assert "a user stands before the command" in refusal("@daily x\n", SYSTEM)
    assert one(f"{EXPORTED}\n@daily root x\n", unsure).args == ["root x"]


@given(st.lists(st.binary(max_size=40) | st.sampled_from(PIECES), max_size=12))
def test_whatever_is_read_is_a_schedule_or_one_clear_error(pieces: list[bytes]) -> None:
    for rules in (USER, SYSTEM):
        for schedule in found(b"".join(pieces), rules):
            if isinstance(schedule, InvalidScheduleError):
                assert 0 < len(str(schedule)) < 1000
                assert "\n" not in str(schedule)
            else:
                assert schedule.task_name == "sqlsched:shell"


@pytest.mark.parametrize(
    ("path", "system", "expected"),
    [
        ("/etc/cron.d/shop", None, (True, True)),
        ("/etc/crontab", None, (True, True)),
        ("/etc/cron.d/../cron.d/shop", None, (True, True)),
        ("/etc/cron.d/shop", False, (False, True)),
        ("/var/spool/cron/crontabs/ann", None, (False, False)),
        ("<stdin>", None, (False, False)),
        ("<stdin>", True, (True, True)),
    ],
)
def test_where_a_crontab_lies_says_whether_it_names_users(
    path: str, system: bool | None, expected: tuple[bool, bool]
) -> None:
    rules = machine.rules(path, system, "UTC")
    assert (rules.system, rules.sure) == expected
    assert rules.user == ME


def test_all_or_nothing_unless_it_keeps_going(sqlsched: Sqlsched, tmp_path: Path) -> None:
    (tmp_path / "tab").write_text("# id: good\n@daily x\n\n@reboot y\nCRON_TZ=Mars\n@daily z\n")
    result = sqlsched("import", "--format", "crontab", "tab")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: line 4: cron '@reboot'")
    assert not (tmp_path / "sqlsched.db").exists()
    result = sqlsched("import", "--format", "crontab", "--keep-going", "tab")
    assert result.returncode == 1
    assert [text.split(":")[1] for text in result.stderr.splitlines()[:2]] == [" line 4", " line 6"]
    assert result.stderr.endswith("imported 1 schedule; 2 bad lines left out\n")
    assert sqlsched("list").stdout.splitlines()[1].startswith("good")


def test_a_crontab_comes_through_a_pipe(sqlsched: Sqlsched, tmp_path: Path) -> None:
    result = subprocess.run(
        ["sh", "-c", "printf '@daily date' | python -m sqlsched import --format crontab -"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert result.stderr.endswith("imported 1 schedule\n")
    assert "cd; date" in sqlsched("list").stdout


@pytest.mark.parametrize("option", [("--system",), ("--user",), ("--tz", "UTC")])
def test_what_is_about_crontabs_goes_with_crontabs(
    sqlsched: Sqlsched, option: tuple[str, ...]
) -> None:
    result = sqlsched("import", *option, "-")
    assert (result.returncode, "go with --format crontab" in result.stderr) == (2, True)

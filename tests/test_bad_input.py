"""Whatever is typed: one line that names it and says what is accepted, and nothing is stored."""

import json
from collections.abc import Callable
from datetime import UTC, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlsched.durations import MAX_SECONDS, format_duration, parse_duration
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.field_checks import check_schedule_id
from sqlsched.instants import parse_time
from sqlsched.scheduled_task import FIELD_NAMES, ScheduledTask
from sqlsched.serialization import dumps, loads, shorten
from sqlsched.timezones import checked_cron_offset, format_cron_offset

Sqlsched = Callable[..., CompletedProcess[str]]

LONG = "x" * 10_240
ESCAPE = "\x1b[31mred"
DEEP = "[" * 65 + "]" * 65
JOB = "shop.jobs:send_mail"
UNREADABLE_DURATIONS = (
    "",
    " ",
    "0",
    "0s",
    "-5",
    "+5",
    "1.5h",
    "5 m",
    "1m1h",
    "5x",
    "1e3",
    "٣s",
    "∞",
)
DURATIONS = (*UNREADABLE_DURATIONS, "36526d", "9" * 13, "PT5M", "none", ESCAPE, LONG)
TIMES = (
    *("", "tomorrow", "12:30", "2026-13-01", "2026-02-30T12:00", "2026-11-23T25:00", "1732385100"),
    *("2026-11-23T18:05+25:00", "2026-11-23T18:05 Europe/Berlin", "1969-12-31T23:59:59Z"),
    *("9999-12-31T00:00", "0001-01-01T00:00+14:00", "10000-01-01", "٢٠٢٦-11-23", ESCAPE, LONG),
)
NUMBERS = ("", "x", "-1", "1.5", "1e3", "1_000", "2147483648", "9" * 30, "٣", " 3", ESCAPE, LONG)
WORDS = ("", "newest", "LATEST", "skip ", ESCAPE, LONG)

VALUES: dict[str, tuple[str, ...]] = {
    "--cron": (
        *("", " ", "*", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *"),
        *("* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "0 0 31 2 *", "@reboot"),
        *("@fortnightly", "H * * * *", "1,,2 * * * *", "* * L-3 * *", "٣ * * * *", "0\n0 * * *"),
        *(ESCAPE, LONG),
    ),
    "--tz": (
        *("", "Mars/Olympus", "europe/berlin", "Berlin", "+25:00", "2:00", "-130", "PT25H", "P1D"),
        *("../../etc/passwd", "/etc/localtime", "Europe/", "+01:60", "86400", ESCAPE, LONG),
    ),
    "--at": TIMES,
    "--start": TIMES,
    "--end": TIMES,
    "--in": DURATIONS,
    "--every": DURATIONS,
    "--jitter": DURATIONS,
    "--timeout": DURATIONS,
    "--retry-delay": DURATIONS,
    "--expires": DURATIONS,
    "--catchup-window": (*UNREADABLE_DURATIONS, "None", "forever", ESCAPE, LONG),
    "--max-runs": ("0", *NUMBERS),
    "--retries": NUMBERS,
    "--coalesce": WORDS,
    "--overlap": WORDS,
    "--id": ("", " ", "a b", "a/b", "ä", "x" * 65, "a\nb", "-rf!", "é" * 3, ESCAPE, LONG),
    "--label": ("", "team", "=shop", LONG),
    "--shell": ("", " ", "\n\t"),
    "--args": (
        *("", "1, 2", "{}", '"text"', "null", "7", "[1,]", "[NaN]", "[Infinity]", "[-Infinity]"),
        *("[1e999]", "[9223372036854775808]", f"[{'9' * 5000}]", '["\\ud800"]', '[{"a":1,"a":2}]'),
        *(DEEP, "[" * 100_000, "['single']", "[1] [2]", '["\t"]', ESCAPE, f'["{LONG}\\ud800"]'),
    ),
    "--kwargs": (
        *("", "[]", '"text"', "null", "{1: 2}", '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 2}}'),
        *('{"a": NaN}', '{"\\ud800": 1}', '{"a": 18446744073709551616}'),
        '{"a":' * 65 + "1" + "}" * 65,
    ),
}  # fmt: skip
TASKS = (
    *("", " ", "send_mail", "shop.jobs", "shop:", ":send", "shop.jobs:send()", "shop..jobs:send"),
    *("shop jobs:send", "1shop:send", "shop:send:mail", "shop/jobs.py:send"),
    *(f"shop:{LONG}", ESCAPE),
)  # fmt: skip

FAR = "2030-01-01T00:00"
COMBINATIONS = (
    (("add", JOB), "--cron"),
    (("add", "--every", "5m"), "TASK"),
    (("add",), "TASK"),
    (("add", "--every", "5m", "--cron", "@daily", JOB), "--cron and --every"),
    (("add", "--in", "5m", "--at", FAR, JOB), "--at and --in"),
    (("add", "--every", "5m", JOB, "--shell", "date"), "TASK and --shell"),
    (("add", "--every", "5m", JOB, "--", "date"), "TASK and -- COMMAND"),
    (("add", "--every", "5m", "--shell", "date", "--", "date"), "--shell and -- COMMAND"),
    (("add", "--every", "5m", "--"), "nothing stands after `--`"),
    (("add", "--every", "5m", "--", ""), "nothing stands after `--`"),
    (("add", "--every", "5m", "--args", "[1]", "--shell", "date"), "--args"),
    (("add", "--every", "5m", "--kwargs", "{}", "--", "date"), "--kwargs"),
    (("add", "--every", "5m", JOB, "other:task"), "other:task"),
    (("add", "--every", "5m", "sqlsched:shell"), "sqlsched:shell"),
    (("add", "--every", "5m", "--args", "[1]", "sqlsched:exec"), "sqlsched:exec"),
    (("add", "--every", "5m", "--start", FAR, "--end", "2029-01-01", JOB), "2029-01-01"),
    (("add", "--every", "5m", "--end", "2001-01-01", JOB), "2001-01-01"),
    (("add", "--cron", "@daily", "--end", "2001-01-01", JOB), "2001-01-01"),
    (("add", "--cron", "0 0 29 2 *", "--start", FAR, "--end", "2031-01-01", JOB), "2031-01-01"),
    (("add", "--at", FAR, "--end", "2029-01-01", JOB), "2029-01-01"),
    (("add", "--at", FAR, "--start", "2031-01-01", JOB), "2031-01-01"),
    (("add", "--every"), "--every"),
    (("add", "--evry", "5m", JOB), "--evry"),
    (("add", "--every", "5m", "--unknown=1", JOB), "--unknown"),
    (("add", "--every", "5m", f"--{LONG}", JOB), "--xxx"),
    (("ad", "--every", "5m", JOB), "'ad'"),
    ((LONG,), "xxx"),
    ((ESCAPE,), "red"),
    (("--dbb", "x", "list"), "--dbb"),
    (("--db",), "--db"),
    (("edit",), "ID"),
    (("edit", "some"), "nothing to change"),
    (("edit", "some", "--id", "other"), "--id"),
    (("edit", "some", "--every", "5 m"), "'5 m'"),
    (("rm",), "--label K=V"),
    (("rm", "some", "--all"), "--all"),
    (("pause", "--all", "--label", "a=b"), "--label"),
    (("resume", "some", "--label", "a=b"), "--label"),
    (("rm", "--label", "team"), "'team'"),
    (("rm", "--every"), "--every"),
    (("list", "some"), "some"),
    (("list", "--label", "=x"), "'=x'"),
    (("list", "--status", "x"), "--status"),
    (("show",), "ID"),
    (("show", "a", "b"), "b"),
    (("next",), "--cron"),
    (("next", "some", "--cron", "@daily"), "--cron"),
    (("next", "--cron", "* * *"), "'* * *'"),
    (("next", "--cron", "@daily", "--tz", "Mars"), "'Mars'"),
    (("next", "--cron", "@daily", "-n", "0"), "-n"),
    (("next", "--cron", "@daily", "-n", "many"), "'many'"),
    (("next", "--cron", "@daily", "-n", "100001"), "100001"),
    (("next", "--cron", "@daily", "--after", "noon"), "'noon'"),
    (("next", "--tz", "UTC", "some"), "--tz"),
    (("history", "-n", "0"), "-n"),
    (("history", "-n", "-1"), "-1"),
    (("history", "-n", "9" * 30), "-n"),
    (("history", "--status", "done"), "'done'"),
    (("history", "--since", "yesterday"), "'yesterday'"),
    (("history", "a", "b"), "b"),
    (("logs",), "RUN_ID"),
    (("logs", "-1"), "-1"),
    (("logs", "1", "--last", "some"), "--last"),
    (("logs", "--last"), "--last"),
    (("trigger",), "ID"),
    (("trigger", "a", "b"), "b"),
    (("cancel",), "RUN_ID"),
    (("cancel", "1", "2"), "2"),
    (("run", "--once", "--until-idle"), "--once and --until-idle"),
    (("run", "--broker", "celery"), "'celery'"),
    (("run", "--broker", ""), "--broker"),
    (("run", "--concurrency", "0"), "--concurrency"),
    (("run", "--concurrency", "x"), "--concurrency"),
    (("run", "--app-dir", "missing"), "'missing'"),
    (("run", "--catchup-window", "ever"), "'ever'"),
    (("run", "--delivery", "maybe"), "'maybe'"),
    (("run", "--keep", "0"), "'0'"),
    (("run", "--drain", "soon"), "'soon'"),
    (("run", "--log-level", "loud"), "'loud'"),
    (("run", "--log-format", "xml"), "'xml'"),
    (("run", "--nice"), "--nice"),
)


def arguments_for(option: str, value: str) -> tuple[str, ...]:
    """A call of `add` that is fine but for the value of one option."""
    trigger = () if option in {"--cron", "--at", "--in", "--every"} else ("--every", "5m")
    task = () if option == "--shell" else (JOB,)
    return ("add", *trigger, f"{option}={value}", *task)


def is_one_line_error(result: CompletedProcess[str]) -> bool:
    """A single printable line of bounded length, and nothing on stdout."""
    line = result.stderr.removesuffix("\n")
    return (
        result.stdout == ""
        and line.startswith("Error: ")
        and line.isprintable()
        and len(line) < 1200
    )


def in_words(value: object) -> str:
    """A short test id."""
    return ascii(value)[1:25] if isinstance(value, str) else ""


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, values in VALUES.items() for value in values],
    ids=in_words,
)
def test_a_bad_value_of_an_option_is_named_and_nothing_is_stored(
    sqlsched: Sqlsched, tmp_path: Path, option: str, value: str
) -> None:
    result = sqlsched(*arguments_for(option, value))
    assert (result.returncode, is_one_line_error(result)) == (2, True), result
    field = option.strip("-").replace("-", "_")
    assert (
        option in result.stderr or f"{field} " in result.stderr or shorten(value) in result.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TASKS, ids=in_words)
def test_a_bad_task_name_is_named_and_nothing_is_stored(
    sqlsched: Sqlsched, tmp_path: Path, name: str
) -> None:
    result = sqlsched("add", "--every", "5m", name)
    assert (result.returncode, is_one_line_error(result)) == (2, True), result
    assert shorten(name) in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "named"), COMBINATIONS, ids=in_words)
def test_wrong_usage_is_named_and_nothing_is_made(
    sqlsched: Sqlsched, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    result = sqlsched(*arguments)
    assert (result.returncode, is_one_line_error(result)) == (2, True), result
    assert named in result.stderr
    assert list(tmp_path.iterdir()) == []


UNKNOWN = (
    ("show", "nosuch"),
    ("show", ""),
    ("show", ESCAPE),
    ("show", LONG),
    ("show", "%"),
    ("show", "'; DROP TABLE schedules; --"),
    ("show", "aa"),
    ("next", "nosuch"),
    ("edit", "nosuch", "--every", "5m"),
    ("rm", "nosuch"),
    ("rm", "aa1", "nosuch"),
    ("rm", "aa1", ""),
    ("rm", "aa"),
    ("pause", "aa1", "nosuch"),
    ("resume", "nosuch"),
    ("trigger", "nosuch"),
    ("trigger", LONG),
    ("history", "nosuch"),
    ("history", ""),
    ("history", LONG),
    ("logs", "1"),
    ("logs", ""),
    ("logs", "1%"),
    ("logs", "9" * 30),
    ("logs", "٣"),
    ("logs", LONG),
    ("logs", "--last", "nosuch"),
    ("logs", "--last", "aa1"),
    ("logs", "1", "--follow"),
    ("cancel", "1"),
    ("cancel", "aa1"),
    ("cancel", ESCAPE),
    ("add", "--id", "aa1", "--every", "6m", JOB),
)
REFUSED = (
    ("add", "--id", "aa1", "--every", "5 m", JOB, "--replace"),
    ("edit", "aa1", "--cron", "61 * * * *"),
    ("edit", "aa1", "--every", "default"),
    ("edit", "aa1", "--end", "2001-01-01"),
    ("edit", "aa1", "--args", "{}"),
    ("edit", "aa1", "--label", "team"),
    ("edit", "aa1", "--label", "default", "--label", "a=b"),
    ("edit", "aa1", "shop"),
    ("edit", "aa1", "--coalesce", "never"),
    ("edit", "aa1", "--cron", "@daily", "--every", "5m"),
    ("edit", "shell", "--args", "[1]"),
    ("show", "\udcff"),
    ("list", "--task", "\udcff"),
    ("rm", "--label", "team=\udcff"),
)


def bytes_of(directory: Path) -> dict[str, bytes]:
    """What the files there hold; SQLite keeps readers apart with an empty log and its index."""
    files = {p.name: p.read_bytes() for p in directory.iterdir() if not p.name.endswith("-shm")}
    return {name: data for name, data in files.items() if data}


@pytest.fixture
def stocked(sqlsched: Sqlsched) -> Sqlsched:
    """The program, with two schedules whose ids begin alike, and a shell line."""
    for name in ("aa1", "aa2"):
        assert sqlsched("add", "--id", name, "--every", "5m", JOB).returncode == 0
    assert sqlsched("add", "--id", "shell", "--every", "5m", "--shell", "true").returncode == 0
    return sqlsched


@pytest.mark.parametrize("arguments", UNKNOWN, ids=lambda words: in_words(" ".join(words)))
def test_what_is_not_there_is_named_and_nothing_changes(
    stocked: Sqlsched, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    before = bytes_of(tmp_path)
    result = stocked(*arguments)
    assert (result.returncode, is_one_line_error(result)) == (1, True), result
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda words: in_words(" ".join(words)))
def test_a_bad_change_of_what_is_there_changes_nothing(
    stocked: Sqlsched, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    before = bytes_of(tmp_path)
    result = stocked(*arguments)
    assert (result.returncode, is_one_line_error(result)) == (2, True), result
    assert bytes_of(tmp_path) == before


def test_an_ambiguous_id_lists_what_it_may_be(stocked: Sqlsched) -> None:
    assert "begins aa1, aa2" in stocked("show", "aa").stderr


def test_click_s_own_errors_say_where_to_look(sqlsched: Sqlsched) -> None:
    assert sqlsched("ad").stderr.endswith("; see `sqlsched --help`\n")
    assert sqlsched("add", "--evry", "5m").stderr.endswith("; see `sqlsched add --help`\n")


TEXT = st.text() | st.text(alphabet="0123456789dhmsPTZW+-:. ") | st.text(alphabet="٣２\x00\ud800é")
READERS: tuple[Callable[[str], object], ...] = (
    parse_duration,
    lambda text: parse_time(text, UTC),
    lambda text: checked_cron_offset(text, "--tz"),
    lambda text: loads(text, "--args"),
    check_schedule_id,
    lambda text: ScheduledTask(task_name=text, interval=60),
    lambda text: ScheduledTask(task_name=JOB, cron=text),
    lambda text: ScheduledTask(task_name=JOB, interval=60, labels={text: text}, note=text),
)


def refusal_of(read: Callable[[], object]) -> str:
    """What the one error that may come says; empty if none does."""
    try:
        read()
    except InvalidScheduleError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("read", READERS, ids=range(len(READERS)))
@given(text=TEXT)
def test_no_text_makes_a_reader_fail_with_another_error(
    read: Callable[[str], object], text: str
) -> None:
    refusal = refusal_of(lambda: read(text))
    assert refusal.isprintable()
    assert len(refusal) < 500


NUMBERS_IN_JSON = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS_IN_JSON | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(text=st.text(alphabet='[]{}",:0123456789.eE+-\\uNaInfty \n') | JSON.map(json.dumps))
def test_whatever_json_is_accepted_is_read_again_as_it_was(text: str) -> None:
    try:
        value = loads(text, "--args")
    except InvalidScheduleError:
        return
    assert loads(dumps(value), "--args") == value


@given(seconds=st.integers(1, MAX_SECONDS))
def test_durations_are_read_as_they_are_written(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(seconds=st.integers(-86_399, 86_399))
def test_offsets_are_read_as_they_are_written(seconds: int) -> None:
    offset = timedelta(seconds=seconds)
    assert checked_cron_offset(format_cron_offset(offset), "--tz") == offset


@given(value=st.none() | st.integers() | st.floats() | st.binary() | st.lists(st.integers()))
@pytest.mark.parametrize("name", FIELD_NAMES)
def test_a_value_of_another_type_is_refused_as_such(name: str, value: object) -> None:
    fields: dict[str, Any] = {"task_name": JOB, "interval": 60} | {name: value}
    assert "\n" not in refusal_of(lambda: ScheduledTask(**fields))


def test_none_is_the_default_and_a_task_name_has_none() -> None:
    nothing: Any = None
    task = ScheduledTask(
        task_name=JOB, interval=60, args=nothing, labels=nothing, schedule_id=nothing
    )
    assert (task.args, task.labels, len(task.schedule_id)) == ([], {}, 12)
    assert "task_name None" in refusal_of(lambda: ScheduledTask(task_name=nothing, interval=60))


def test_an_error_quotes_the_beginning_of_a_long_value() -> None:
    for text in (LONG, f'["{LONG}\\ud800"]', f'{{"{LONG}": 1, "{LONG}": 2}}', "9" * 10_000):
        assert 0 < len(refusal_of(lambda text=text: loads(text, "--args"))) < 500  # type: ignore[misc]

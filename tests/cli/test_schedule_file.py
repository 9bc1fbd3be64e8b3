"""Schedules as a TOML file: written, read back, and what is said of one that is wrong."""

import io
import string
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sqlsched import InvalidScheduleError, ScheduledTask
from sqlsched.cli.schedule_file import ScheduleFile, read_file, to_toml
from sqlsched.field_checks import COALESCE, OVERLAP
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK, schedule_to_json
from sqlsched.serialization import dumps
from sqlsched.storage import schedules, sync
from sqlsched.storage.connection import open_for_writing

NOW_US = 1_800_000_000_000_000


def read(text: str | bytes) -> ScheduleFile:
    content = text.encode() if isinstance(text, str) else text
    return read_file(io.BytesIO(content))


def one(text: str, name: str = "x") -> ScheduledTask:
    """The only schedule of a file."""
    found = read(f"[schedules.{name}]\n{text}")
    assert found.problems == []
    [schedule] = found.schedules
    return schedule


# -- there and back -------------------------------------------------------------------------------

texts = st.text(max_size=20)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, values, max_size=3)
NEW_YEAR = datetime(2030, 1, 1, tzinfo=UTC)
moments = st.datetimes(datetime(2030, 1, 1), datetime(9000, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=UTC, fold=0)
)
durations = st.integers(1, 36_525 * 86_400)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
programs = words.filter(bool)
what = st.one_of(
    st.fixed_dictionaries(
        {"task_name": st.sampled_from(["shop.jobs:mail", "für.jöbs:ä.b", "sent-by.name/x"])},
        optional={"args": st.lists(values, max_size=3), "kwargs": objects},
    ),
    st.fixed_dictionaries({"task_name": st.just(SHELL_TASK), "args": st.tuples(programs)}),
    st.fixed_dictionaries(
        {
            "task_name": st.just(EXEC_TASK),
            "args": st.builds(lambda p, rest: [p, *rest], programs, st.lists(words, max_size=3)),
        }
    ),
)
when = st.one_of(
    st.fixed_dictionaries(
        {"cron": st.sampled_from(["* * * * *", "@daily", " 0 9 * * MON-FRI\t"])},
        optional={"cron_offset": st.sampled_from(["Europe/Berlin", timedelta(minutes=-90)])},
    ),
    st.fixed_dictionaries({"interval": durations}),
    st.fixed_dictionaries({"time": moments}),
)
policies = st.fixed_dictionaries(
    {
        "schedule_id": st.text(string.ascii_letters + string.digits + "._-", min_size=1),
        "paused": st.booleans(),
    },
    optional={
        "labels": objects,
        "start": moments,
        "end": moments,
        "max_runs": st.integers(1, 2**31 - 1),
        "jitter": durations,
        "catchup_window": st.one_of(durations, st.sampled_from(["none", "unlimited"])),
        "coalesce": st.sampled_from(COALESCE),
        "overlap": st.sampled_from(OVERLAP),
        "timeout": durations,
        "retries": st.integers(0, 2**31 - 1),
        "retry_delay": durations,
        "expires": durations,
        "note": texts,
        "task_id": st.sampled_from(["fixed", "a.b-c_d"]),
    },
)


@st.composite
def made(draw: st.DrawFn) -> ScheduledTask:
    fields = draw(what) | draw(when) | draw(policies)
    try:
        schedule = ScheduledTask(**fields)
    except InvalidScheduleError:  # its bounds exclude every firing
        assume(False)
    assume(schedule.trigger(NOW_US).first_us(NOW_US) is not None)
    return schedule


files = st.lists(made(), max_size=4, unique_by=lambda schedule: schedule.schedule_id)


@settings(max_examples=60, deadline=None)
@given(files)
def test_what_is_written_is_read_back_as_it_was(wanted: list[ScheduledTask]) -> None:
    found = read("".join(to_toml(wanted)))
    assert found.problems == []
    assert list(map(exactly, found.schedules)) == list(map(exactly, wanted))


def exactly(schedule: ScheduledTask) -> str:
    """All of it, and 1, 1.0 and True are three."""
    return dumps(schedule_to_json(schedule))


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New ones, one after another."""
    base = tmp_path_factory.mktemp("there-and-back")
    return (base / str(number) for number in range(10_000))


@settings(max_examples=25, deadline=None)
@given(wanted=files)
def test_through_databases_it_is_the_same_bytes_again(
    wanted: list[ScheduledTask], directories: Iterator[Path]
) -> None:
    first = through_a_database(wanted, next(directories))
    found = read(first)
    assert found.problems == []
    assert through_a_database(found.schedules, next(directories)) == first


def through_a_database(wanted: list[ScheduledTask], directory: Path) -> str:
    directory.mkdir()
    with closing(open_for_writing(directory / "a.db", create=True)) as database:
        synced = sync.sync(database, wanted, NOW_US)
        assert synced.added == [schedule.schedule_id for schedule in wanted]
        stored = list(schedules.stored(database, schedules.Selection(source="")))
    assert [row.schedule for row in stored] == wanted
    return "".join(to_toml(row.schedule for row in stored))


def test_it_reads_as_people_would_write_it() -> None:
    mail = ScheduledTask(
        schedule_id="mail",
        task_name="shop.jobs:mail",
        args=[1, None],
        kwargs={"to": "Zoë", "a b": {"c": 1.0}},
        cron="*/5 * * * *",
        cron_offset="Europe/Berlin",
        start=datetime(2030, 1, 1, tzinfo=UTC),
        catchup_window=600,
        retries=0,
        note='say "hi"',
    )
    ping = ScheduledTask(
        schedule_id="ping.it", task_name=SHELL_TASK, args=["curl x"], interval=90, paused=True
    )
    tell = ScheduledTask(
        schedule_id="tell",
        task_name=EXEC_TASK,
        args=["/bin/echo", "it's"],
        time=datetime(2030, 1, 1, 0, 0, 0, 5, tzinfo=UTC),
    )
    assert "".join(to_toml([mail, ping, tell])) == (
        "[schedules.mail]\n"
        'task = "shop.jobs:mail"\n'
        'cron = "*/5 * * * *"\n'
        'cron_offset = "Europe/Berlin"\n'
        'args = "[1,null]"\n'
        'kwargs = {to = "Zoë", "a b" = {c = 1.0}}\n'
        "start = 2030-01-01T00:00:00+00:00\n"
        'catchup_window = "10m"\n'
        "retries = 0\n"
        "note = 'say \"hi\"'\n"
        "\n"
        '[schedules."ping.it"]\n'
        'shell = "curl x"\n'
        'interval = "1m30s"\n'
        "paused = true\n"
        "\n"
        "[schedules.tell]\n"
        'command = ["/bin/echo", "it\'s"]\n'
        "time = 2030-01-01T00:00:00.000005+00:00\n"
    )


def test_a_file_without_schedules_says_so() -> None:
    assert "".join(to_toml([])) == "[schedules]\n"
    assert read("[schedules]") == ScheduleFile("[schedules]")


# -- what may stand in a table --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("time = 2030-01-01T00:00:00Z", "time", NEW_YEAR),
        ("time = 2030-01-01 01:00:00+01:00", "time", NEW_YEAR),
        ("time = 2030-01-01T01:00:00\ncron_offset = '+01:00'", "time", NEW_YEAR),
        ("cron_offset = '+01:00'\ntime = '2030-01-01T01:00'", "time", NEW_YEAR),
        ("time = 2030-01-01", "time", NEW_YEAR),
        ("interval = 90", "interval", 90),
        ("interval = '1h30m'", "interval", 5400),
        ("interval = 1\ncatchup_window = 'none'", "catchup_window", "none"),
        ("interval = 1\ncatchup_window = '5m'", "catchup_window", 300),
        ("interval = 1\ncatchup_window = 5", "catchup_window", 5),
        ("interval = 1\nkwargs = '{\"a\": null}'", "kwargs", {"a": None}),
        ("interval = 1\nlabels = '{\"a\": null}'", "labels", {"a": None}),
        ("interval = 1\nargs = '[null]'", "args", [None]),
        ("interval = 1\nargs = [1, 'a', {b = 2.0}]", "args", [1, "a", {"b": 2.0}]),
        ("interval = 1\n[schedules.x.kwargs]\na = 1", "kwargs", {"a": 1}),
        ("interval = 1\npaused = true", "paused", True),
    ],
)  # fmt: skip
def test_a_value_is_taken_in_every_form(text: str, field: str, value: Any) -> None:
    assert getattr(one(f"task = 'm:f'\n{text}"), field) == value


def test_what_to_run_is_a_task_a_shell_line_or_a_command() -> None:
    assert one("task_name = 'm:f'\ninterval = 1").task_name == "m:f"
    shell = one("shell = 'echo'\ninterval = 1")
    assert (shell.task_name, shell.args) == (SHELL_TASK, ["echo"])
    command = one("command = ['a', 'b']\ninterval = 1")
    assert (command.task_name, command.args) == (EXEC_TASK, ["a", "b"])


def test_a_group_is_named_at_the_top() -> None:
    assert read("group = 'shop.1'\n[schedules]").group == "shop.1"
    assert read("group = ''\n[schedules]").group == ""


# -- what is wrong --------------------------------------------------------------------------------

GOOD = "[schedules.good]\ntask = 'm:f'\ninterval = 60\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[schedules.good]", 4, "it is not valid TOML: Cannot declare"),
        ("a = " + "9" * 5000, None, "it is not valid TOML: Exceeds the limit"),
        ("a = " + "[" * 5000, None, "it is nested too deep"),
        ("[tool.ruff]\nx = 1", 4, "unknown key 'tool'; known are schedules.ID and group"),
        ("[schedules.'a b']\ntask = 'm:f'\ninterval = 5", 4, "'a b': an id is 1 to 64 letters"),
        ("[schedules]\nx = 5", 5, "schedule 'x': x 5: give a table"),
        ("[schedules]\nx = {task = 'm:f', cron = '* *'}", 5, "cron '* *'"),
        ("[schedules]\nx.task = 'm:f'\n\nx.interval = '5 years'", 7, "interval '5 years'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text: str, line: int | None, said: str) -> None:
    found = read(GOOD + text)
    assert found.problems
    assert said in str(found.problems[0].error)
    assert found.problems[0].line == line
    assert isinstance(found.problems[0].error, InvalidScheduleError)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("task = 'm:f'\ninterval 5", 6, "'interval 5': it is not valid TOML: Expected '='"),
        ("task = 'm:f", 5, "\"task = 'm:f\": it is not valid TOML: "),
        ("args = [1,", 5, "it is not valid TOML: "),
        ("interval = 5", 4, "schedule 'x': nothing to run: give one of task, shell"),
        ("task = 'm:f'", 4, "exactly one of cron, time and interval; 'm:f' has none"),
        ("shell = 'a'\ntask = 'm:f'\ncron = '@daily'", 4, "task and shell exclude each"),
        ("shell = 'a'\nargs = [1]\ncron = '@daily'", 4, "shell and args: the latter"),
        ("shell = ''\ncron = '@daily'", 5, "shell '': give a line for /bin/sh"),
        ("shell = \"a\\u0000\"\ncron = '@daily'", 4, "sqlsched:shell with args"),
        ("command = 'a b'\ncron = '@daily'", 5, "command 'a b': give a program"),
        ("command = [1]\ncron = '@daily'", 5, "command [1]: give a program"),
        ("cron = '61 * * * *'", 5, "schedule 'x': cron '61 * * * *'"),
        ("interval = 1.5", 5, 'interval 1.5: give a duration, like "90s" or 90'),
        ("interval = true", 5, "interval True: give a duration"),
        ("interval = 0", 5, "interval 0: a duration is whole seconds"),
        ("catchup_window = 'never'", 5, "catchup_window 'never': a duration is "),
        ("time = 10:00:00", 5, "time datetime.time(10, 0): give a time, like"),
        ("time = 'soon'", 5, "time 'soon': a time is ISO 8601"),
        ("time = 1960-01-01", 5, "time '1960-01-01 00:00:00': a time is "),
        ("cron_offset = 'Mars'\ntime = 2030-01-01", 5, "cron_offset 'Mars': give an"),
        ("task = 'm f'", 5, "task_name 'm f': a task is package.module:object"),
        ("args = {}", 5, "args {}: give a JSON array"),
        ("args = 'null'", 5, "args null: leave it out instead"),
        ("kwargs = '{'", 5, "kwargs is not valid JSON: '{': "),
        ("kwargs = {a = nan}", 5, "kwargs has nan, which JSON does not know"),
        ("kwargs = {a = 10:00:00}", 5, "kwargs has a time, datetime.time(10, 0); JSON"),
        ("[schedules.x.kwargs]\nb = 1\na = 0xffffffffffffffff", 5, "kwargs has an integer"),
        ("labels = [1]", 5, "labels [1]: give a JSON object"),
        ("paused = 1", 5, "paused 1: give true or false"),
        ("max_runs = 0", 5, "max_runs 0: give a whole number from 1"),
        ("note = 5", 5, "note 5: give text"),
        ("crn = 5", 5, "unknown key 'crn'; known are task, shell, command, cron"),
        ("id = 'x'", 5, "unknown key 'id'; known are "),
        (
            "task = 'm:f'\ninterval = 5\nstart = 2031-01-01\nend = 2030-01-01",
            *(4, "end 2030-01-01T00:00:00+00:00 lies before start 2031"),
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_named_with_its_line(
    text: str, line: int | None, said: str
) -> None:
    test_what_is_wrong_is_named_with_its_line(f"[schedules.x]\n{text}", line, said)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", None, "there is no table [schedules.ID] in it; [schedules] alone means none"),
        ("schedules = 5", 1, "schedules 5: give tables [schedules.ID]"),
        ("[[schedules]]\nx = 1", 1, "schedules [{'x': 1}]: give tables"),
        ("\ngroup = 5\n[schedules]", 2, "group 5: a group is 1 to 64 letters"),
        (b"\xef\xbb\xbf[schedules]", 1, "a byte order mark"),
        (b"[schedules]\n# \xe9\n", 2, "b'\\xe9\\n' is not UTF-8"),
        (b"\0" * 10, 1, "it is not valid TOML"),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str | bytes, line: int | None, said: str) -> None:
    [problem] = read(text).problems
    assert problem.line == line
    assert said in str(problem.error)


def test_all_that_is_wrong_is_told_in_the_order_of_its_lines() -> None:
    found = read(
        "[schedules.a]\ncron = 'x'\nnote = 5\n[schedules.b]\ntask = 'm:f'\n[other]\n[schedules.c]\n"
    )
    assert [problem.line for problem in found.problems] == [2, 3, 4, 6, 7]


def test_a_file_of_another_kind_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlsched.cli.schedule_file.LARGEST", 100)
    [problem] = read("x" * 101).problems
    assert "more than 100 bytes" in str(problem.error)

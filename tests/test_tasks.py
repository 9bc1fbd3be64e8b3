"""Tasks, and how they are sent and scheduled from Python."""

import asyncio
import importlib
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sqlsched.abc import Broker, RunOutcome, ScheduleSource
from sqlsched.brokers.in_process import InProcessBroker
from sqlsched.brokers.subprocess import SubprocessBroker
from sqlsched.exceptions import (
    BrokerError,
    DuplicateScheduleError,
    InvalidScheduleError,
    ScheduleNotFoundError,
)
from sqlsched.run_context import current_run
from sqlsched.scheduled_task import ScheduledTask, TaskMessage
from sqlsched.sources.label import LabelScheduleSource
from sqlsched.sources.sqlite import SqliteScheduleSource
from sqlsched.task import Task

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Recorder(Broker):
    """Keeps what it is sent; has no `__init__` that calls anybody's."""

    def __init__(self) -> None:
        self.sent: list[TaskMessage] = []

    async def kick(self, message: TaskMessage) -> RunOutcome | None:
        self.sent.append(message)
        return RunOutcome("succeeded", output=f"{len(self.sent)}")


class Shelf(ScheduleSource):
    """The smallest source that schedules can be added to."""

    def __init__(self) -> None:
        self.held: dict[str, ScheduledTask] = {}

    async def get_schedules(self) -> list[ScheduledTask]:
        return list(self.held.values())

    async def add_schedule(self, schedule: ScheduledTask, replace: bool = False) -> None:
        assert not replace
        self.held[schedule.schedule_id] = schedule

    async def delete_schedule(self, schedule_id: str) -> None:
        del self.held[schedule_id]


@pytest.fixture
def broker() -> Recorder:
    return Recorder()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def add(broker: Recorder) -> Task[..., Any]:
    @broker.task(task_name="app:add", queue="low", tags=["a"])
    async def add(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    return add


# -- declaring ------------------------------------------------------------------------------------


def declared_here(value: int = 1) -> int:
    """Adds one."""
    return value + 1


@pytest.mark.parametrize("way", ["bare", "called", "named", "by position"])
def test_the_decorator_is_used_bare_or_called(broker: Recorder, way: str) -> None:
    task = {
        "bare": lambda: broker.task(declared_here),
        "called": lambda: broker.task()(declared_here),
        "named": lambda: broker.task(task_name="mine")(declared_here),
        "by position": lambda: broker.task("mine")(declared_here),
    }[way]()
    name = "mine" if way in ("named", "by position") else f"{__name__}:declared_here"
    assert task.task_name == name
    assert broker.tasks == {name: task}
    assert task.broker is broker
    assert dict(task.labels) == {}
    assert list(task.schedule) == []


def test_a_task_looks_and_behaves_like_its_function(broker: Recorder) -> None:
    task = broker.task(declared_here)
    assert (task(2), task(value=3), task()) == (3, 4, 2)
    assert task.__doc__ == "Adds one."
    assert task.__wrapped__ is declared_here
    assert inspect.signature(task) == inspect.signature(declared_here)
    assert repr(task) == f"<Task {__name__}:declared_here>"


def test_a_parameter_may_have_any_name(broker: Recorder) -> None:
    @broker.task
    def odd(**kwargs: Any) -> Any:
        return kwargs

    assert odd(self=1, function=2) == {"self": 1, "function": 2}


async def test_an_async_function_stays_one(add: Task[..., Any]) -> None:
    assert await add(1, a=2) == ((1,), {"a": 2})


def test_what_is_declared_is_a_copy(broker: Recorder) -> None:
    labels: dict[str, Any] = {"tags": ["a"]}
    schedule = [{"cron": "* * * * *", "args": [1]}]
    task = broker.task(None, schedule, **labels)(declared_here)
    labels["tags"].append("b")
    schedule[0]["cron"] = "changed"
    assert dict(task.labels) == {"tags": ["a"]}
    assert task.schedule == [{"cron": "* * * * *", "args": [1]}]
    with pytest.raises(TypeError):
        task.labels["tags"] = 1  # type: ignore[index]


def test_each_broker_has_tasks_of_its_own(broker: Recorder) -> None:
    other = InProcessBroker()
    broker.task(declared_here)
    other.tasks["t:x"] = declared_here
    assert list(broker.tasks) == [f"{__name__}:declared_here"]
    assert list(other.tasks) == ["t:x"]


@pytest.mark.parametrize("function", [lambda: None, partial(declared_here, 1)])
def test_what_has_no_name_must_be_given_one(broker: Recorder, function: Any) -> None:
    with pytest.raises(BrokerError, match="has no name of its own: give task_name"):
        broker.task(function)
    assert broker.task(task_name="mine")(function).task_name == "mine"


@pytest.mark.parametrize(
    ("name", "labels", "error"),
    [
        ("no spaces", {}, "task_name 'no spaces': a task is package.module:object"),
        (5, {}, "task_name 5: a task is"),
        (None, {"when": NOON}, "labels has a datetime"),
    ],
)
def test_a_wrong_declaration_is_named_at_once(
    broker: Recorder, name: Any, labels: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidScheduleError, match=error):
        broker.task(name, **labels)(declared_here)
    assert broker.tasks == {}


def test_a_name_belongs_to_one_function(broker: Recorder) -> None:
    broker.task("mine")(declared_here)
    with pytest.raises(BrokerError) as raised:
        broker.task("mine")(test_a_name_belongs_to_one_function)
    assert str(raised.value) == (
        f"the task name 'mine' belongs to {__name__}:declared_here; "
        f"give {__name__}:test_a_name_belongs_to_one_function another one"
    )


def test_a_module_can_be_imported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reloaded_broker.py").write_text(
        "from sqlsched import InProcessBroker\nbroker = InProcessBroker()\n"
    )
    path = tmp_path / "reloaded.py"
    code = "from reloaded_broker import broker\n@broker.task('mine')\ndef f(): return 1\n"
    path.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("reloaded")
    path.write_text(code.replace("return 1", "return 2"))
    importlib.reload(module)
    assert module.broker.tasks["mine"]() == 2
    del sys.modules["reloaded"], sys.modules["reloaded_broker"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("script.py",), "script:f"),
        (("sub/deep.py",), "deep:f"),
        (("-m", "script"), "script:f"),
        (("-m", "sub.deep"), "sub.deep:f"),
        (("-m", "sub"), "sub.__main__:f"),
        (("-c", "{code}"), "__main__:f"),
    ],
)
def test_a_script_names_its_tasks_as_others_import_them(
    tmp_path: Path, arguments: tuple[str, ...], name: str
) -> None:
    code = (
        "from sqlsched import InProcessBroker\nbroker = InProcessBroker()\n"
        "@broker.task\ndef f(): ...\nprint(f.task_name)\n"
    )
    (tmp_path / "sub").mkdir()
    for file in ("script.py", "sub/deep.py", "sub/__main__.py"):
        (tmp_path / file).write_text(code)
    said = subprocess.run(
        [sys.executable, *(argument.format(code=code) for argument in arguments)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"{name}\n"


# -- sending --------------------------------------------------------------------------------------


async def test_kiq_sends_the_task_now(broker: Recorder, add: Task[..., Any]) -> None:
    outcome = await add.kiq(1, None, key={"a": (2,)})
    assert outcome == RunOutcome("succeeded", output="1")
    [sent] = broker.sent
    assert (sent.task_name, sent.args) == ("app:add", [1, None])
    assert (sent.kwargs, sent.labels) == ({"key": {"a": [2]}}, {"queue": "low", "tags": ["a"]})
    assert (sent.attempt, sent.timeout, sent.output) == (1, None, None)


async def test_each_sending_has_an_id_of_its_own(broker: Recorder, add: Task[..., Any]) -> None:
    kicker = add.kicker()
    for _ in range(2):
        await kicker.kiq()
    first, second = (int(message.task_id, 16) for message in broker.sent)
    assert first != second
    assert {len(message.task_id) for message in broker.sent} == {32}


async def test_a_kicker_changes_what_it_says_and_nothing_else(
    broker: Recorder, add: Task[..., Any]
) -> None:
    other = Recorder()
    plain = add.kicker()
    changed = plain.with_labels(tenant="acme", queue="high").with_task_id("mine").with_broker(other)
    await changed.kiq(1)
    await plain.kiq(2)
    assert (other.sent[0].task_id, other.sent[0].task_name) == ("mine", "app:add")
    assert other.sent[0].labels == {"queue": "high", "tags": ["a"], "tenant": "acme"}
    assert broker.sent[0].labels == dict(add.labels) == {"queue": "low", "tags": ["a"]}
    with pytest.raises(FrozenInstanceError):
        plain.task_id = "x"  # type: ignore[misc]


async def test_what_a_broker_does_with_a_message_reaches_no_task(
    broker: Recorder, add: Task[..., Any]
) -> None:
    argument = [1]
    await add.kiq(argument)
    broker.sent[0].labels["tags"].append("b")
    broker.sent[0].args[0].append(2)
    assert (add.labels["tags"], argument) == (["a"], [1])


@dataclass
class Point:
    x: int
    y: list[Any]


class Model:
    """As pydantic's."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return {"mode": mode}


async def test_dataclasses_and_models_are_sent_as_objects(
    broker: Recorder, add: Task[..., Any]
) -> None:
    await add.kiq(Point(1, [Point(2, [])]), Model(), models=[Model()])
    [sent] = broker.sent
    assert sent.args == [{"x": 1, "y": [{"x": 2, "y": []}]}, {"mode": "json"}]
    assert sent.kwargs == {"models": [{"mode": "json"}]}


RING: list[Any] = []
RING.append(RING)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({1}, r"args of app:add has a set; JSON has text"),
        (float("nan"), "args of app:add has nan"),
        (2**63, "args of app:add has an integer outside 64 bits"),
        ({1: 2}, "args of app:add has the key 1; keys are text"),
        (Point, "args of app:add has a type"),
        (RING, "args of app:add is nested deeper than 64 levels"),
    ],
)
async def test_what_json_cannot_say_is_named_and_not_sent(
    broker: Recorder, shelf: Shelf, add: Task[..., Any], value: Any, error: str
) -> None:
    with pytest.raises(InvalidScheduleError, match=error):
        await add.kiq(value)
    with pytest.raises(InvalidScheduleError, match=error):
        await add.schedule_by_interval(shelf, 30, value)
    with pytest.raises(InvalidScheduleError, match="labels of app:add has a set"):
        await add.kicker().with_labels(x={1}).kiq()
    assert (broker.sent, shelf.held) == ([], {})


# -- scheduling -----------------------------------------------------------------------------------


async def test_a_task_schedules_itself(shelf: Shelf, add: Task[..., Any]) -> None:
    common: dict[str, Any] = {
        "task_name": "app:add",
        "args": [1],
        "kwargs": {"a": 2},
        "labels": {"queue": "low", "tags": ["a"]},
    }
    made = [
        await add.schedule_by_cron(shelf, "0 9 * * *", 1, a=2),
        await add.schedule_by_cron(shelf, "0 9 * * *", 1, cron_offset="Europe/Berlin", a=2),
        await add.schedule_by_time(shelf, NOON, 1, a=2),
        await add.schedule_by_interval(shelf, timedelta(minutes=1), 1, a=2),
    ]
    triggers: list[dict[str, Any]] = [
        {"cron": "0 9 * * *"},
        {"cron": "0 9 * * *", "cron_offset": "Europe/Berlin"},
        {"time": NOON},
        {"interval": 60},
    ]
    for created, trigger in zip(made, triggers, strict=True):
        wanted = ScheduledTask(schedule_id=created.schedule_id, **common, **trigger)
        assert created.task == wanted
    assert await shelf.get_schedules() == [created.task for created in made]
    assert {created.source for created in made} == {shelf}


async def test_a_kicker_schedules_with_its_labels_and_ids(
    shelf: Shelf, add: Task[..., Any]
) -> None:
    kicker = add.kicker().with_labels(tenant="acme").with_schedule_id("mine").with_task_id("t1")
    created = await kicker.schedule_by_interval(shelf, 30)
    assert (created.schedule_id, created.task.task_id) == ("mine", "t1")
    assert created.task.labels == {"queue": "low", "tags": ["a"], "tenant": "acme"}
    first, second = [await add.schedule_by_interval(shelf, 30) for _ in range(2)]
    assert len({first.schedule_id, second.schedule_id, "mine"}) == 3


async def test_arguments_of_a_task_may_be_called_like_ours(
    shelf: Shelf, add: Task[..., Any]
) -> None:
    names: dict[str, Any] = dict.fromkeys(
        ("self", "source", "cron", "time", "interval", "args", "kwargs", "labels"), 1
    )
    for created in (
        await add.schedule_by_cron(shelf, "0 9 * * *", **names),
        await add.schedule_by_time(shelf, NOON, cron_offset=1, **names),
        await add.schedule_by_interval(shelf, 30, **names),
    ):
        assert names.items() <= created.task.kwargs.items()
    assert await add.kiq(cron_offset=1, **names)


@pytest.mark.parametrize(
    ("method", "trigger", "error"),
    [
        ("schedule_by_cron", "61 * * * *", "61"),
        ("schedule_by_cron", None, "exactly one of cron, time and interval"),
        ("schedule_by_time", "noon", "time 'noon': give a datetime"),
        ("schedule_by_interval", 0, "interval 0"),
    ],
)
async def test_a_wrong_trigger_is_named_and_not_stored(
    shelf: Shelf, add: Task[..., Any], method: str, trigger: Any, error: str
) -> None:
    with pytest.raises(InvalidScheduleError, match=error):
        await getattr(add, method)(shelf, trigger)
    assert shelf.held == {}


async def test_a_created_schedule_is_sent_and_removed(
    broker: Recorder, shelf: Shelf, add: Task[..., Any]
) -> None:
    created = await add.kicker().with_labels(tenant="acme").schedule_by_interval(shelf, 30, 1, a=2)
    assert await created.kiq() == RunOutcome("succeeded", output="1")
    [sent] = broker.sent
    assert (sent.task_name, sent.args, sent.kwargs) == ("app:add", [1], {"a": 2})
    assert sent.labels == {"queue": "low", "tags": ["a"], "tenant": "acme"}
    await created.unschedule()
    assert shelf.held == {}


async def test_a_sqlite_source_keeps_what_tasks_schedule(
    tmp_path: Path, add: Task[..., Any]
) -> None:
    source = SqliteScheduleSource(tmp_path / "app.db")
    created = await add.schedule_by_cron(source, "0 9 * * *", 1, cron_offset=timedelta(hours=2))
    again = add.kicker().with_schedule_id(created.schedule_id)
    await again.schedule_by_cron(source, "0 9 * * *", 1, cron_offset=timedelta(hours=2))
    with pytest.raises(DuplicateScheduleError):
        await again.schedule_by_interval(source, 30)
    assert await source.get_schedules() == [created.task]
    await created.unschedule()
    assert await source.get_schedules() == []
    with pytest.raises(ScheduleNotFoundError):
        await created.unschedule()
    await source.shutdown()


# -- running --------------------------------------------------------------------------------------

JOBS = """
from sqlsched import InProcessBroker, SubprocessBroker

broker = SubprocessBroker()
local = InProcessBroker()

@broker.task(queue="low")
async def show_async(*args): print("async", *args)

@broker.task
def show(*args): print("plain", *args)

@broker.task(task_name="reports.daily")
def renamed(*args): print("renamed", *args)

@broker.task
@local.task
def fail(): raise ValueError("boom")
"""


@pytest.fixture(params=["in_process", "subprocess"])
async def jobs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """A user's module of tasks, whose `broker` really runs them."""
    kind = {"in_process": "InProcessBroker", "subprocess": "SubprocessBroker"}[request.param]
    code = JOBS.replace("broker = SubprocessBroker()", f"broker = {kind}()", 1)
    (tmp_path / "task_jobs.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("task_jobs")
    yield module
    await module.broker.shutdown()
    del sys.modules["task_jobs"]


async def test_tasks_run_in_every_local_broker(jobs: Any) -> None:
    outcomes = await asyncio.gather(jobs.show.kiq(1, "a"), jobs.show_async.kiq(2))
    assert [outcome.output for outcome in outcomes] == ["plain 1 a\n", "async 2\n"]
    failed = await jobs.fail.kiq()
    assert (failed.status, failed.error) == ("failed", "ValueError: boom")
    assert "in fail" in failed.output


async def test_a_broker_knows_where_a_renamed_task_is_imported_from() -> None:
    broker = SubprocessBroker()
    broker.task(task_name="reports.daily")(declared_here)
    broker.task("nameless")(lambda: None)
    broker.tasks["t:plain"] = declared_here
    assert broker.import_path("reports.daily") == f"{__name__}:declared_here"
    assert broker.import_path("t:plain") == f"{__name__}:declared_here"
    assert broker.import_path("shop.jobs:send") == "shop.jobs:send"
    with pytest.raises(BrokerError, match="has no name of its own"):
        broker.import_path("nameless")


async def test_an_in_process_task_may_be_async_or_plain_and_time_out() -> None:
    broker = InProcessBroker()

    @broker.task
    async def wait() -> None:
        await asyncio.Event().wait()

    # A timeout is refused for plain functions; what is under the Task is found to be async.
    message = TaskMessage(task_id="a", task_name=wait.task_name, timeout=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await broker.kick(message)
    await broker.shutdown()


async def test_a_task_sent_directly_belongs_to_no_schedule() -> None:
    broker = InProcessBroker()
    seen: list[Any] = []

    @broker.task
    async def look() -> None:
        seen.append(current_run())

    await look.kicker().with_task_id("mine").kiq()
    await broker.shutdown()
    assert (seen[0].task_id, seen[0].schedule_id, seen[0].scheduled_for) == ("mine", None, None)


async def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    broker = InProcessBroker()
    source = SqliteScheduleSource(tmp_path / "app.db")

    @broker.task(schedule=[{"cron": "*/5 * * * *", "args": [1]}], queue="low")
    async def heavy_task(value: int) -> int:
        return value + 1

    await source.startup()
    await heavy_task.schedule_by_cron(source, "0 9 * * 1-5", 11, cron_offset="Europe/Berlin")
    created = await (
        heavy_task.kicker()
        .with_labels(tenant="acme")
        .with_schedule_id("one-off")
        .schedule_by_time(source, NOON + timedelta(days=100_000), 11)
    )
    await heavy_task.schedule_by_interval(source, timedelta(seconds=30), 11)
    assert await heavy_task.kiq(1) == RunOutcome("succeeded")
    assert len(await source.get_schedules()) == 3
    await created.unschedule()
    assert "one-off" not in [s.schedule_id for s in await source.get_schedules()]
    [declared] = await LabelScheduleSource(broker).get_schedules()
    assert (declared.cron, declared.args, declared.labels) == ("*/5 * * * *", [1], {"queue": "low"})
    await source.shutdown()
    await broker.shutdown()

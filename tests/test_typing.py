"""What a type checker makes of tasks. `mypy` reads this module: an `assert_type` that does not
hold is an error, and so is a `type: ignore` that nothing needs. What is called here also runs."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_type

from sqlsched.abc import RunOutcome
from sqlsched.brokers.in_process import InProcessBroker
from sqlsched.created_schedule import CreatedSchedule
from sqlsched.scheduled_task import ScheduledTask
from sqlsched.sources.sqlite import SqliteScheduleSource
from sqlsched.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sqlsched.kicker import Kicker

broker = InProcessBroker()


@broker.task
async def add_one(value: int) -> int:
    return value + 1


@broker.task()
def name_of(user: str, *, loud: bool = False) -> str:
    return user.upper() if loud else user


@broker.task(schedule=[{"cron": "*/5 * * * *", "args": [1]}], queue="low")
async def labelled(value: int) -> None: ...


@broker.task("named", [{"interval": 30}])
def named() -> None: ...


async def test_a_task_is_called_with_the_types_of_its_function() -> None:
    assert assert_type(await add_one(1), int) == 2
    assert assert_type(name_of("ann", loud=True), str) == "ANN"


async def test_sending_takes_the_types_of_the_function() -> None:
    sent = assert_type(await name_of.kiq("ann", loud=True), RunOutcome | None)
    await broker.shutdown()
    assert sent is not None
    assert sent.status == "succeeded"


# -- never called: only a type checker goes through these

SOURCE = SqliteScheduleSource("app.db")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def a_decorated_function_is_a_task() -> None:
    bare: Task[[int], Coroutine[Any, Any, int]] = add_one
    called: Task[[int], Coroutine[Any, Any, None]] = labelled
    kicker: Kicker[[int]] = labelled.kicker().with_labels(tenant="acme")
    function: Callable[[int], Coroutine[Any, Any, int]] = add_one
    assert_type(named, Task[[], None])
    wrong: Task[[int], int] = add_one  # type: ignore[assignment]
    other: Kicker[[str]] = labelled.kicker()  # type: ignore[assignment]
    del bare, called, kicker, function, wrong, other


async def what_is_right() -> None:
    await labelled.kicker().with_task_id("a").with_schedule_id("b").kiq(value=1)
    await labelled.kicker().with_broker(broker).schedule_by_interval(SOURCE, 30, 1)
    await labelled.schedule_by_interval(SOURCE, timedelta(seconds=30), 1)
    await labelled.schedule_by_time(SOURCE, NOON, value=1)
    made = await labelled.schedule_by_cron(SOURCE, "0 9 * * *", 1, cron_offset="Europe/Berlin")
    assert_type(made, CreatedSchedule)
    assert_type(made.task, ScheduledTask)
    assert_type(await labelled.schedule_by_cron(SOURCE, "0 9 * * *", 1), CreatedSchedule)


async def what_is_wrong() -> None:
    await add_one("x")  # type: ignore[arg-type]
    await labelled.kiq("x")  # type: ignore[arg-type]
    await labelled.kiq()  # type: ignore[call-arg]
    await labelled.kiq(1, 2)  # type: ignore[call-arg]
    await labelled.kicker().with_labels(a=1).kiq("x")  # type: ignore[arg-type]
    await name_of.kiq("ann", quiet=True)  # type: ignore[call-arg]
    await labelled.schedule_by_cron(SOURCE, "0 9 * * *", "x")  # type: ignore[call-overload]
    await labelled.schedule_by_cron(SOURCE, 9, 1)  # type: ignore[call-overload]
    await labelled.schedule_by_time(SOURCE, "noon", 1)  # type: ignore[arg-type]
    await labelled.schedule_by_time(SOURCE, NOON, "x")  # type: ignore[arg-type]
    await labelled.schedule_by_interval(SOURCE, 30, "x")  # type: ignore[arg-type]
    await labelled.schedule_by_interval(SOURCE, 30)  # type: ignore[call-arg]
    broker.task(schedule={"cron": "* * * * *"})  # type: ignore[call-overload]
    labelled.labels["queue"] = "high"  # type: ignore[index]

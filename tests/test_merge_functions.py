"""How the lists of several sources are joined."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sqlsched.merge_functions import only_new, only_unique, preserve_all
from sqlsched.scheduled_task import ScheduledTask

Merge = Callable[[list[ScheduledTask], list[ScheduledTask]], list[ScheduledTask]]


def schedule(schedule_id: str, **fields: Any) -> ScheduledTask:
    return ScheduledTask(
        task_name="app:f", schedule_id=schedule_id, **{"cron": "* * * * *"} | fields
    )


def ids(schedules: list[ScheduledTask]) -> list[str]:
    return [schedule.schedule_id for schedule in schedules]


OLD = [schedule("a"), schedule("b", args=[1])]
NEW = [schedule("c"), schedule("d", args=[2]), schedule("e", args=[2]), schedule("f", args=[1])]


@pytest.mark.parametrize(
    ("merge", "joined"),
    [
        (preserve_all, ["a", "b", "c", "d", "e", "f"]),
        (only_unique, ["a", "b", "d"]),
        (only_new, ["c", "d", "e", "f"]),
    ],
)
def test_what_each_function_keeps(merge: Merge, joined: list[str]) -> None:
    old, new = list(OLD), list(NEW)
    result = merge(old, new)
    assert ids(result) == joined
    result.clear()  # nor is either list handed back, to be changed by who gets it
    assert (old, new) == (OLD, NEW)


def test_unique_keeps_what_differs_in_anything_but_id_and_pause() -> None:
    one = schedule("a", labels={"x": 1, "y": [2]})
    others = [
        replace(one, schedule_id="labels", labels={"x": 1}),
        replace(one, schedule_id="policy", retries=1),
        replace(one, schedule_id="trigger", cron="0 * * * *"),
        replace(one, schedule_id="true-is-not-1", labels={"x": True, "y": [2]}),
        replace(one, schedule_id="paused", paused=True),
        replace(one, schedule_id="order", labels={"y": [2], "x": 1}),
    ]
    assert ids(only_unique([one], others)[1:]) == ["labels", "policy", "trigger", "true-is-not-1"]


def test_unique_looks_at_each_schedule_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    content = ScheduledTask.content

    def counted(self: ScheduledTask) -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return content(self)

    monkeypatch.setattr(ScheduledTask, "content", counted)
    monkeypatch.setattr(ScheduledTask, "__eq__", lambda *_: pytest.fail("compared in pairs"))
    many = [schedule(f"s{n}", args=[n % 150]) for n in range(300)]
    assert len(only_unique(many[:200], many[200:])) == 200
    assert looks == 300


def test_content_of_every_kind_can_be_compared() -> None:
    deep = schedule("a", kwargs={"a": [{"b": None}]}, labels={"ünï": "☃"})
    copy = replace(deep, schedule_id="b", kwargs=json.loads(json.dumps(deep.kwargs)))
    assert only_unique([], [deep, copy]) == [deep]

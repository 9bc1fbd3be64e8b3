"""How a scheduler joins the lists of its sources: `merge(old, new) -> joined`, source by source.

`old` is what the sources before gave together, `new` what this one gives. Neither is changed.
"""

from sqlsched.scheduled_task import ScheduledTask
from sqlsched.serialization import dumps


def preserve_all(old: list[ScheduledTask], new: list[ScheduledTask]) -> list[ScheduledTask]:
    """Every schedule of every source. This is the default."""
    return old + new


def only_unique(old: list[ScheduledTask], new: list[ScheduledTask]) -> list[ScheduledTask]:
    """All of `old`, and those of `new` whose content, without its id, is not there already."""
    # As text, since content has lists and dicts, which cannot be in a set.
    seen = {dumps(schedule.content()) for schedule in old}
    joined = list(old)
    for schedule in new:
        content = dumps(schedule.content())
        if content not in seen:
            seen.add(content)
            joined.append(schedule)
    return joined


def only_new(
    old: list[ScheduledTask],  # noqa: ARG001 - a merge function takes both
    new: list[ScheduledTask],
) -> list[ScheduledTask]:
    """The schedules of the last source alone."""
    return list(new)

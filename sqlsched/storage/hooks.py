"""Who wants to be told how runs end: hooks and pings of a schedule, else those of the database."""

import json
from collections.abc import Mapping

from sqlsched.field_checks import CHECKS, NO_HOOK
from sqlsched.storage.connection import Database, transaction

NAMES = ("on_success", "on_failure", "on_missed", "ping")

_KEY = "hooks"


def hooked(schedule: str) -> str:
    """SQL: 1 if anybody wants to be told of the ends of this schedule's runs, else 0."""
    any_own = " OR ".join(f"{schedule}.{name} IS NOT NULL" for name in NAMES)
    return f"({any_own} OR EXISTS (SELECT 1 FROM meta WHERE key = '{_KEY}'))"


def in_force(schedule: str, name: str) -> str:
    """SQL: a hook of this schedule, else the database's; NULL if neither wants any."""
    common = f"(SELECT json_extract(value, '$.{name}') FROM meta WHERE key = '{_KEY}')"
    return f"nullif(coalesce({schedule}.{name}, {common}), '{NO_HOOK}')"


def common(database: Database) -> dict[str, str]:
    """The hooks of the database, for schedules that have none of their own."""
    row = database.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return {} if row is None else dict(json.loads(row[0]))


def set_common(database: Database, changes: Mapping[str, str | None]) -> dict[str, str]:
    """Change the hooks of the database, None removes one; all that it has now.

    InvalidScheduleError for one that cannot be.
    """
    with transaction(database):
        hooks = common(database)
        for name, hook in changes.items():
            hooks.pop(name, None)
            if hook is not None:
                hooks[name] = CHECKS[name](hook, name)
        if hooks:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, json.dumps(hooks)))
        else:
            database.execute("DELETE FROM meta WHERE key = ?", (_KEY,))
    return hooks

"""Whether a database is what sqlsched made: its schema, and its pages."""

import sqlite3
from dataclasses import dataclass

from sqlsched.serialization import shorten
from sqlsched.storage.migrations import tables

_QUERY = """SELECT user_version, schema_version, type, name, rootpage
    FROM sqlite_schema, pragma_user_version, pragma_schema_version WHERE type IS NOT 'index'"""
"""All of it as of one moment, which another process's migration cannot fall into."""
_OF_SQLITE = {"sqlite_sequence", "sqlite_stat1", "sqlite_stat4"}


@dataclass(frozen=True, slots=True)
class Schema:
    """What there is beside indexes: (type, name, root page) of each."""

    version: int
    """Of sqlsched's tables; 0: there are none."""
    changes: int
    """What SQLite counts, whoever changes the schema."""
    entries: list[tuple[str, str, int]]

    def problem(self) -> str | None:
        """What is wrong with it, to be read after the database's path: a trigger or a view would
        have a say in what is executed."""
        expected = tables(self.version)
        for kind, name, root in self.entries:
            if kind != "table" or not root or name not in expected | _OF_SQLITE:
                shown = "virtual table" if kind == "table" and not root else kind
                return f"has a {shown} {shorten(name)}, which sqlsched did not make; drop it"
        missing = expected - {name for _, name, _ in self.entries}
        return f"is damaged: it has no table {min(missing)!r}; name another" if missing else None


def read_schema(database: sqlite3.Connection) -> Schema:
    """Ask for it, which takes some ten microseconds once SQLite has read it."""
    try:
        rows = database.execute(_QUERY).fetchall()
    except UnicodeDecodeError:  # of SQLite's message, which quotes what it could not read
        raise sqlite3.DatabaseError("its schema cannot be read") from None
    if not rows:
        return Schema(0, 0, [])
    version, changes = rows[0][:2]
    return Schema(version, changes, [row[2:] for row in rows])


def damage(database: sqlite3.Connection, error: Exception | None = None) -> str | None:
    """What is wrong with the pages, which may have led to an error, in one line.

    SQLite reads all of them, twice; but for a message that quotes bytes of them and is no text.
    """
    if isinstance(error, UnicodeDecodeError) and _is_ours(error):
        return "its schema cannot be read"
    for check in ("quick_check", "integrity_check"):  # the second looks into indexes too
        try:
            (found,) = database.execute(f"PRAGMA {check}(1)").fetchone()
        except UnicodeDecodeError:  # as above
            return "a text in it is not UTF-8"
        if found != "ok":
            return " ".join(str(found).split())
    return None


def _is_ours(error: Exception) -> bool:
    """Whether it came of one of our statements, and not of what a caller has us iterate over."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith(__package__)


def has_due(database: sqlite3.Connection, last_us: int, *, firing: bool) -> bool:
    """Whether a table itself, whatever its indexes say, has a firing, or a run, due by then."""
    table, due = ("schedules", "wake_us") if firing else ("runs", "finished_us IS NULL AND due_us")
    query = f"SELECT EXISTS (SELECT 1 FROM {table} NOT INDEXED WHERE {due} <= ?)"
    return bool(database.execute(query, (last_us,)).fetchone()[0])

"""The tables, as steps in order: a database at version n gets steps n+1, n+2, … and is current.

A step is never changed once released; a new one is appended.
"""

import re
import sqlite3

APPLICATION_ID = 0x73716C73
"""'sqls': how file(1) and we tell our databases from others (SQLite header, offset 68)."""

_V1 = """
CREATE TABLE schedules (
    seq INTEGER PRIMARY KEY,
    schedule_id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL DEFAULT '',  -- '': its own; else copied from that
    declared_paused INTEGER NOT NULL DEFAULT 0,  -- what that source said of pausing, last
    shared INTEGER NOT NULL DEFAULT 0,  -- 1: its source says when it is due, not next_us
    task_name TEXT NOT NULL,
    args TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    labels TEXT NOT NULL,
    task_id TEXT,
    cron TEXT,
    cron_offset TEXT,
    time_us INTEGER,
    interval_s INTEGER,
    start_us INTEGER,
    end_us INTEGER,
    max_runs INTEGER,
    jitter_s INTEGER,
    catchup_window ANY,             -- seconds, 'none' or 'unlimited'
    coalesce TEXT,
    overlap TEXT,
    timeout_s INTEGER,
    retries INTEGER,
    retry_delay_s INTEGER,
    expires_s INTEGER,
    note TEXT,
    created_us INTEGER NOT NULL,
    anchor_us INTEGER NOT NULL,     -- where an interval without start counts from
    paused_us INTEGER,              -- since when; NULL: not paused
    dispatched INTEGER NOT NULL DEFAULT 0,  -- scheduled firings started, counted for max_runs
    next_us INTEGER,                -- next nominal firing; NULL: there is none
    wake_us INTEGER,                -- when to look: next_us and its jitter; NULL: never
    CHECK ((cron IS NOT NULL) + (time_us IS NOT NULL) + (interval_s IS NOT NULL) = 1),
    CHECK (interval_s >= 1)
) STRICT;
CREATE INDEX schedules_due ON schedules (source, wake_us) WHERE wake_us IS NOT NULL;
CREATE INDEX schedules_copied ON schedules (source) WHERE source != '';
CREATE INDEX schedules_over ON schedules (created_us) WHERE next_us IS NULL;

CREATE TABLE runs (
    run_id INTEGER PRIMARY KEY AUTOINCREMENT,
    schedule_id TEXT NOT NULL,      -- outlives its schedule
    task_name TEXT NOT NULL,
    scheduled_us INTEGER NOT NULL,  -- nominal
    attempt INTEGER NOT NULL,       -- from 1; 0: a record of firings that never ran
    manual_key INTEGER NOT NULL DEFAULT 0,  -- 0: a scheduled firing
    trigger TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    due_us INTEGER NOT NULL,        -- when to start it
    held INTEGER NOT NULL DEFAULT 0,  -- 1: waits for other runs of its schedule, not for due_us
    owner INTEGER,                  -- who claimed it
    started_us INTEGER,
    finished_us INTEGER,
    exit_code INTEGER,
    error TEXT,
    last_us INTEGER,                -- of several firings in one record: the last of them
    count INTEGER NOT NULL DEFAULT 1,
    because_of INTEGER,             -- the run that stood in the way
    cancel_us INTEGER,              -- when somebody asked to stop it
    pid INTEGER,
    pid_started INTEGER,
    -- The promise that no firing is dispatched twice, kept by the database.
    UNIQUE (schedule_id, scheduled_us, attempt, manual_key)
) STRICT;
CREATE INDEX runs_live ON runs (schedule_id)
    WHERE status IN ('claimed', 'waiting', 'sending', 'running');
CREATE INDEX runs_pending ON runs (due_us) WHERE status IN ('claimed', 'waiting') AND held = 0;
CREATE INDEX runs_held ON runs (schedule_id, scheduled_us) WHERE held = 1;
CREATE INDEX runs_cancel ON runs (run_id) WHERE cancel_us IS NOT NULL AND finished_us IS NULL;

CREATE TABLE outputs (
    run_id INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    head BLOB NOT NULL,
    tail BLOB NOT NULL,
    total_bytes INTEGER NOT NULL
) STRICT;

CREATE TABLE owners (
    owner INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,     -- names its lock file
    pid INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    started_us INTEGER NOT NULL,
    seen_us INTEGER NOT NULL,       -- last sign of life, to the minute
    stopped_us INTEGER
) STRICT;
CREATE INDEX owners_serving ON owners (owner) WHERE stopped_us IS NULL;

-- pruned_us: no run up to this nominal time is known any more, so none may be dispatched again.
-- ledger_id: what sources on other machines know this ledger by.
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT;
"""

# What stands in the way of a run is in an index without mere claims, so that a burst writes to few
# of its pages; and whether a run has ended is said by one column, which a CHECK holds to.
_V2 = """
DROP INDEX runs_live;
DROP INDEX runs_pending;
CREATE TABLE runs_2 (
    run_id INTEGER PRIMARY KEY AUTOINCREMENT,
    schedule_id TEXT NOT NULL,      -- outlives its schedule
    task_name TEXT NOT NULL,
    scheduled_us INTEGER NOT NULL,  -- nominal
    attempt INTEGER NOT NULL,       -- from 1; 0: a record of firings that never ran
    manual_key INTEGER NOT NULL DEFAULT 0,  -- 0: a scheduled firing
    trigger TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    due_us INTEGER NOT NULL,        -- when to start it
    held INTEGER NOT NULL DEFAULT 0,  -- 1: waits for other runs of its schedule, not for due_us
    owner INTEGER,                  -- who claimed it
    started_us INTEGER,
    finished_us INTEGER,            -- NULL while claimed, waiting, sending or running
    exit_code INTEGER,
    error TEXT,
    last_us INTEGER,                -- of several firings in one record: the last of them
    count INTEGER NOT NULL DEFAULT 1,
    because_of INTEGER,             -- the run that stood in the way
    cancel_us INTEGER,              -- when somebody asked to stop it
    pid INTEGER,
    pid_started INTEGER,
    CHECK ((finished_us IS NULL) = (status IN ('claimed', 'waiting', 'sending', 'running'))),
    -- The promise that no firing is dispatched twice, kept by the database.
    UNIQUE (schedule_id, scheduled_us, attempt, manual_key)
) STRICT;
INSERT INTO runs_2 SELECT run_id, schedule_id, task_name, scheduled_us, attempt, manual_key,
    trigger, status, reason, due_us, held, owner, started_us,
    CASE WHEN status IN ('claimed', 'waiting', 'sending', 'running') THEN NULL
        ELSE coalesce(finished_us, started_us, due_us) END,
    exit_code, error, last_us, count, because_of, cancel_us, pid, pid_started FROM runs;
DELETE FROM sqlite_sequence WHERE name = 'runs_2';
INSERT INTO sqlite_sequence SELECT 'runs_2', seq FROM sqlite_sequence WHERE name = 'runs';
DROP TABLE runs;
ALTER TABLE runs_2 RENAME TO runs;
CREATE INDEX runs_going ON runs (schedule_id)
    WHERE finished_us IS NULL AND (status IN ('running', 'sending') OR held = 1 OR attempt > 1);
CREATE INDEX runs_waiting ON runs (due_us) WHERE status = 'waiting' AND held = 0;
CREATE INDEX runs_claimed ON runs (owner, due_us) WHERE status = 'claimed';
CREATE INDEX runs_held ON runs (schedule_id, scheduled_us) WHERE held = 1;
CREATE INDEX runs_cancel ON runs (run_id) WHERE cancel_us IS NOT NULL AND finished_us IS NULL;
"""

# A run whose schedule, or database, has hooks says itself that they are to be told of its end.
_V3 = """
ALTER TABLE schedules ADD COLUMN on_success TEXT;
ALTER TABLE schedules ADD COLUMN on_failure TEXT;
ALTER TABLE schedules ADD COLUMN on_missed TEXT;
ALTER TABLE schedules ADD COLUMN ping TEXT;
ALTER TABLE schedules ADD COLUMN pause_on_failure INTEGER;
ALTER TABLE schedules ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;  -- in a row, if that counts
CREATE INDEX schedules_failing ON schedules (schedule_id) WHERE failures > 0;
ALTER TABLE runs ADD COLUMN untold INTEGER NOT NULL DEFAULT 0;  -- 1: hooks are to be told
ALTER TABLE runs ADD COLUMN teller INTEGER;                     -- the owner that is telling them
CREATE INDEX runs_untold ON runs (run_id)
    WHERE untold = 1 AND finished_us IS NOT NULL AND teller IS NULL;
CREATE INDEX runs_teller ON runs (teller) WHERE teller IS NOT NULL;
"""

# What lies ahead once the clock was put back is found without looking at every run.
_V4 = "CREATE INDEX runs_unrun ON runs (last_us) WHERE attempt = 0;"

# What was done to schedules, and by whom: `why` tells of it. In a database that is older than this
# step nobody knows what was done before, which is noted as if it had been forgotten.
_V5 = """
CREATE TABLE changes (
    change_id INTEGER PRIMARY KEY,
    schedule_id TEXT NOT NULL,      -- outlives its schedule
    at_us INTEGER NOT NULL,
    what TEXT NOT NULL,             -- edited, replaced, removed, paused or resumed
    who TEXT NOT NULL,              -- like "alice (pid 123)"
    note TEXT,
    before TEXT,                    -- what an edit or removal ended: its columns, as JSON
    over_us INTEGER                 -- since when it may be forgotten; NULL: a pause in force
) STRICT;
CREATE INDEX changes_of ON changes (schedule_id, at_us);
CREATE INDEX changes_over ON changes (over_us) WHERE over_us IS NOT NULL;
-- died: 1 if it did not end in order; stopped_us is then the last sign of life.
ALTER TABLE owners ADD COLUMN died INTEGER NOT NULL DEFAULT 0;
INSERT INTO meta SELECT 'forgotten_us', CAST(strftime('%s', 'now') AS INTEGER) * 1000000
    WHERE EXISTS (SELECT 1 FROM schedules);
"""

# Schedules as code: which group of them, as `sqlsched sync` knows it, keeps this one; NULL is none.
_V6 = """
ALTER TABLE schedules ADD COLUMN synced TEXT;
CREATE INDEX schedules_synced ON schedules (synced) WHERE synced IS NOT NULL;
"""

# held = 2: it stands in the line of a backfill, which may be long; of each schedule one run at a
# time leaves it. manual_key -1 is a backfill's.
_V7 = """
CREATE INDEX runs_in_line ON runs (schedule_id, scheduled_us) WHERE held = 2;
"""

STEPS = (_V1, _V2, _V3, _V4, _V5, _V6, _V7)
VERSION = len(STEPS)

_TABLE = re.compile(
    r"^(?:CREATE TABLE (\w+)|DROP TABLE (\w+)|ALTER TABLE (\w+) RENAME TO (\w+))", re.MULTILINE
)


def tables(version: int) -> set[str]:
    """The tables of a database at a version, as its steps make them."""
    found: set[str] = set()
    for step in STEPS[:version]:
        for created, dropped, renamed, name in _TABLE.findall(step):
            found = (found - {dropped, renamed} | {created, name}) - {""}
    return found


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the database from `version` to ours, in the transaction that is open."""
    for step in STEPS[version:]:
        for statement in _statements(step):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _statements(script: str) -> list[str]:
    """Split a script: `executescript` would commit the transaction first."""
    statements, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    return statements

"""Whether a database is healthy: the checks of `sqlsched doctor`, in the order they are shown.

What is no defect is ok, and told all the same. No code of the schedules runs in this process.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from sqlsched import trial
from sqlsched.durations import format_duration
from sqlsched.exceptions import InvalidScheduleError, SqlschedError
from sqlsched.field_checks import check_task_path
from sqlsched.instants import MINUTE_US, SECOND_US, from_us
from sqlsched.scheduled_task import EXEC_TASK, SHELL_TASK
from sqlsched.storage import connection, files, health, highest_time, owners
from sqlsched.storage.connection import Database, transaction
from sqlsched.storage.errors import storage_errors
from sqlsched.storage.file_systems import file_system, shared_warning
from sqlsched.storage.health import Wanted
from sqlsched.storage.migrations import VERSION
from sqlsched.storage.peers import others
from sqlsched.storage.schedules import DAMAGED
from sqlsched.timezones import tzdata_version

P = ParamSpec("P")

LATE_US = MINUTE_US
"""What has been due for longer, somebody should have started."""
SILENT_US = 3 * MINUTE_US
"""Who serves a database gives a sign of life each minute."""
LEAST_FREE = 32 * 2**20
"""Bytes. The log of a busy database grows to 4 MB; an import's, to as much as comes in."""
LARGEST_LOG = 64 * 2**20
"""Bytes; or twice the database, as an import may leave it."""
FIRST_YEAR = 2024
"""No clock that is right says anything earlier."""
_WITHOUT_RACE = (
    ((3, 44, 6), (3, 45)),
    ((3, 50, 7), (3, 51)),
    ((3, 51, 3), (4,)),
)
_NAMED = 3
"""How many of those in trouble are named."""

Finding = tuple[bool, str]
"""Whether something is ok, and what there is to tell of it."""


@dataclass(frozen=True, slots=True)
class Check:
    """A finding, and what it is about."""

    name: str
    ok: bool
    detail: str


def examine(path: Path, app_dir: Path, now_us: int) -> Iterator[Check]:
    """Every check of the database at `path` that can be made; if not all can, one has failed.

    A file that is not to be trusted is not opened, and nothing that it names is imported.
    """
    file = _check("file", path, check_file, path)
    yield file
    if _place(path).is_dir():
        yield _check("file-system", path, check_file_system, path)
        yield _check("disk", path, check_disk, path)
    yield _check("sqlite", path, check_sqlite, health.SQLITE_VERSION)
    yield _check("time-zones", path, check_time_zones)
    yield _check("clock", path, check_clock, now_us)
    if file.ok:
        yield from _examine_inside(path, app_dir, now_us)


def _examine_inside(path: Path, app_dir: Path, now_us: int) -> Iterator[Check]:
    try:
        database = connection.open_as_it_is(path)
    except SqlschedError as error:
        yield Check("database", False, str(error))
        return
    with closing(database):
        for name, check in ("integrity", check_integrity), ("format", check_format):
            found = _check(name, path, check, database)
            yield found
            if not found.ok:
                return
        if connection.format_version(database) < VERSION:
            return
        yield _check("record", path, check_record, database, now_us)
        yield _check("running", path, check_running, database, now_us)
        yield _check("schedules", path, check_schedules, database, now_us)
        yield _check("tasks", path, check_tasks, database, app_dir)
        yield _check("firing", path, check_firing, database, now_us)
        yield _check("failing", path, check_failing, database)
    yield _check("writing", path, check_writing, path)


def _check(
    name: str, path: Path, function: Callable[P, Finding], *args: P.args, **kwargs: P.kwargs
) -> Check:
    try:
        with storage_errors(path):
            return Check(name, *function(*args, **kwargs))
    except (SqlschedError, *DAMAGED) as error:
        return Check(name, False, str(error))


# -- the file, and what is around it --------------------------------------------------------------


def check_file(path: Path) -> Finding:
    """It is there, and can be trusted."""
    if not files.check_file(path):
        return False, f"there is no database at {path}; `sqlsched add` makes one"
    status = path.stat()
    detail = f"{path}, {files.size_text(status.st_size)}, mode {status.st_mode & 0o777:o}"
    if files.group_writable(path):
        detail += ": its group can write to it, and so run commands as you"
    return True, detail


def check_file_system(path: Path) -> Finding:
    """It is a local one."""
    if warning := shared_warning(path):
        return False, warning
    found = file_system(path)
    return True, "not known" if found is None else f"{found.kind}, local, at {found.place}"


def check_disk(path: Path) -> Finding:
    """There is room, and the log does not take it all."""
    status = os.statvfs(_place(path))
    free = status.f_bavail * status.f_frsize
    log = files.size(Path(f"{os.path.realpath(path)}-wal"))
    detail = f"{files.size_text(free)} free; {files.size_text(log)} of log"
    if free < LEAST_FREE or (status.f_files and not status.f_favail):
        return False, f"{detail}: a full disk stops every write; free some"
    if log > LARGEST_LOG and log > 2 * files.size(path):
        return False, f"{detail}: something keeps reading, and it cannot be moved into the file"
    return True, detail


def check_sqlite(version: tuple[int, ...]) -> Finding:
    """The library has no bug that can damage the file.

    Before 3.37.2 a savepoint that is rolled back while temporary tables are in memory can
    (https://sqlite.org/releaselog/3_37_2.html), and STRICT tables need 3.37.0. Before 3.51.3, and
    its fix in 3.50.7 and 3.44.6, two checkpoints and a commit at once can, in WAL mode
    (https://sqlite.org/wal.html#walresetbug): not ours, which go through one gate.
    """
    text = ".".join(map(str, version))
    if version < (3, 37, 2):
        return False, f"{text} can damage the file (fixed in 3.37.2); upgrade it"
    if not any(lowest <= version < next_one for lowest, next_one in _WITHOUT_RACE):
        text += ": let sqlsched alone write to the file (before 3.51.3 others can damage it)"
    return True, text


def check_time_zones() -> Finding:
    """There are time zones."""
    return True, f"tzdata {tzdata_version()}, its package; the system's own are not used"


def check_clock(now_us: int) -> Finding:
    """It has been set since the machine was switched on."""
    text = from_us(now_us).isoformat(timespec="seconds")
    if from_us(now_us).year < FIRST_YEAR:
        return False, f"{text} cannot be; set the clock"
    return True, text


# -- the database as a whole ----------------------------------------------------------------------


def check_integrity(database: Database) -> Finding:
    """SQLite finds no damage."""
    found = health.damage(database)
    if found:
        return False, f"{_some(found)}; restore a backup (`sqlsched restore`)"
    return True, "quick_check finds no damage"


def check_format(database: Database) -> Finding:
    """Its tables are ours, and nothing else is there."""
    version = connection.format_version(database)
    if version < VERSION:
        return True, f"{version}; the next command brings it up to {VERSION}: then ask again"
    if strangers := health.strangers(database):
        return False, f"changed by other means: {_some(strangers)}"
    return True, f"{version}, as it should be"


def check_record(database: Database, now_us: int) -> Finding:
    """Nothing on record is later than the clock: else `run` waits for it."""
    highest_us = highest_time.of_schedulers(database)
    if not highest_us:
        return True, "nobody has served it yet"
    if highest_us - now_us > owners.CLOCK_TOLERANCE_US:
        return False, (
            f"somebody served it at {_time(highest_us)}, later than the clock says: `run` waits "
            "for that; if the clock is right, start it with --accept-clock"
        )
    return True, f"last served at {_time(highest_us)}"


def check_writing(path: Path) -> Finding:
    """Whoever wants to write can, within the time that all wait for each other."""
    with closing(connection.open_for_writing(path)) as database, transaction(database):
        return True, "nobody is in the way"


# -- what runs ------------------------------------------------------------------------------------


def check_running(database: Database, now_us: int) -> Finding:
    """Nothing is late, and who runs shows signs of life. Nobody need run while nothing is due."""
    alive = [owner for owner in others(database, None) if owners.is_alive(database.path, owner)]
    who = (
        _some(f"process {o.pid} since {_time(o.started_us)}" for o in alive) or "nobody is running"
    )
    silent = [owner for owner in alive if now_us - owner.seen_us > SILENT_US]
    late = health.oldest_overdue(database, now_us)
    if late is not None and now_us - late.due_us > LATE_US:
        due = f"{late.schedule_id} has been due since {_time(late.due_us)}"
        by = f" ({_ago(late.due_us, now_us)}{f', from {late.source}' if late.source else ''})"
        return False, f"{who}, and {due}{by}"
    if silent:
        signs = _some(f"{o.pid} since {_time(o.seen_us)}" for o in silent)
        return False, f"{who}; no sign of life from {signs}: is it stopped?"
    return True, f"{who}; nothing is overdue"


def check_schedules(database: Database, now_us: int) -> Finding:
    """All of them can be read."""
    bad = health.unreadable(database, now_us)
    found = _some(f"{schedule_id}: {why}" for schedule_id, why in bad)
    if found:
        return False, f"cannot be read: {found}; change or remove them (`sqlsched rm`)"
    return True, f"{health.count(database)}, all can be read"


def check_tasks(database: Database, app_dir: Path) -> Finding:
    """What they run can be found. Names that only a broker knows are its business."""
    owner = database.path.stat().st_uid
    if owner != os.geteuid():
        return True, f"not tried, as their code is that of user {owner}; ask as that user"
    wanted = health.wanted(database)
    tasks = [w for w in wanted if w.kind not in {SHELL_TASK, EXEC_TASK} and _importable(w.name)]
    tried = trial.try_imports([task.name for task in tasks], app_dir)
    troubles = [_trouble(w, tried.troubles[w.name]) for w in tasks if w.name in tried.troubles]
    troubles += _missing(wanted, app_dir)
    aside = f"; {len(tried.untried)} more for want of time not tried" if tried.untried else ""
    if troubles:
        return False, f"{_some(troubles)}{aside}"
    return True, f"{len(wanted)} can be found{aside}"


def _importable(name: str) -> bool:
    with suppress(InvalidScheduleError):
        return not check_task_path(name, "task").startswith("__main__:")
    return False


def _missing(wanted: Iterable[Wanted], app_dir: Path) -> Iterator[str]:
    """The commands that there are no programs for."""
    programs = {w.name: w for w in wanted if w.kind == EXEC_TASK}
    words = {word: w for w in wanted if w.kind == SHELL_TASK and (word := trial.first_word(w.name))}
    for name in sorted(trial.missing_programs(programs, app_dir)):
        yield _trouble(programs[name], "there is no such program")
    for word in sorted(trial.missing_commands(words, app_dir)):
        yield _trouble(words[word], f"there is no command {word!r}")


def _trouble(wanted: Wanted, why: str) -> str:
    return f"{wanted.name} ({wanted.schedule_id}): {why}"


def check_firing(database: Database, now_us: int) -> Finding:
    """Each that should fire again will."""
    found = _some(f"{schedule_id}: {why}" for schedule_id, why in health.silent(database, now_us))
    if found:
        return False, f"will not fire again: {found}"
    next_us = health.next_wake_us(database)
    return True, "none is to fire again" if next_us is None else f"the next at {_time(next_us)}"


def check_failing(database: Database) -> Finding:
    """None fails each time."""
    found = _some(
        f"{f.schedule_id} has failed {f.runs} times in a row, last at {_time(f.last_us)}: {f.error}"
        for f in health.failing(database)
    )
    return (
        (False, found) if found else (True, f"none has failed {health.FAILING_RUNS} times in a row")
    )


def _place(path: Path) -> Path:
    """The directory of the file itself, whatever leads to it; links may lead nowhere."""
    return Path(os.path.realpath(path)).parent


# -- words ----------------------------------------------------------------------------------------


def _some(items: Iterable[str]) -> str:
    """The first few, and how many more; empty if there is none."""
    found = list(items)
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(found[:_NAMED]) + more


def _time(us: int) -> str:
    return from_us(us).isoformat(timespec="seconds")


def _ago(us: int, now_us: int) -> str:
    return format_duration((now_us - us) // SECOND_US)

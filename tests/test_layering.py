"""The house rules that a machine can check: who may import whom, and what stays in one place.

Every check is a function from a module's name and text to what is wrong with it, so that each is
also seen to fail, on a few lines that break its rule.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sqlsched"

LAYERS = {
    "core": "exceptions serialization durations instants output timezones cron cron_fields bits "
    "scheduled_task field_checks trigger planner overlap merge_functions toml_writer toml_lines "
    "explain",
    "ports": "abc cancellation clock run_context importing processes hook_task observer trial "
    "supervisor",
    "storage": "storage",
    "engine": "engine simulation difference doctor",
    "user-held": "task kicker created_schedule testing",
    "adapters": "sources brokers integrations exactly_once metrics sd_notify",
    "outermost": "cli __main__ examples sqlsched",
}
MAY_IMPORT = {
    "core": {"core"},
    "ports": {"core", "ports"},
    "storage": {"core", "storage"},
    "engine": {"core", "ports", "storage", "engine"},
    "user-held": {"core", "ports", "user-held"},
    "adapters": {"core", "ports", "adapters"},
    "outermost": set(LAYERS),
}
EXCEPTIONS = {
    ("abc", "user-held"): "`Broker.task` makes a Task, which its users hold",
    ("simulation", "user-held"): "it runs the loop on the fake clock that users test with",
    ("sources.label", "user-held"): "it reads the schedules that tasks declare",
    ("exactly_once", "storage"): "it keeps what was seen in a SQLite file of its own",
    ("integrations.taskiq", "storage"): "it marks what taskiq sent of the schedules in our storage",
    ("sources.sqlite", "storage"): "it is the source whose schedules lie in our own storage",
}
NOT_IN_CORE = {
    *("asyncio", "threading", "multiprocessing", "concurrent", "subprocess", "signal"),
    *("socket", "select", "selectors", "sqlite3", "time", "os", "io", "sys", "pathlib"),
    *("shutil", "tempfile", "fcntl", "logging"),
}
CORE_MAY_USE = {"os.urandom": "random bits for a new id; uuid and secrets are slow to import"}
INPUT_OUTPUT = {"open", "print", "input", "read_text", "read_bytes", "write_text", "write_bytes"}
READS_FILES = {"timezones": "the tzdata package is files, and its one reader is here"}
CLOCKS = {
    *("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.sleep"),
    *("time.perf_counter", "time.perf_counter_ns", "asyncio.sleep"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
    "datetime.date.today",
}
READS_CLOCKS = {
    "clock": "it is the clock",
    "examples": "a task of a user, which may take its time",
}
ONE_PLACE = {
    "aiosqlite": {"storage.ledger"},
    "celery": {"brokers.celery", "exactly_once.celery"},
    "click": {"cli"},
    "kombu": {"brokers.celery"},  # the part of Celery that sends
    "prometheus_client": {"metrics"},
    "redis": {"sources.redis", "exactly_once.redis"},
    "tabulate": {"cli"},
    "taskiq": {
        *("sources.taskiq", "brokers.taskiq", "integrations.taskiq"),
        "exactly_once.taskiq",
    },
    "tzdata": {"timezones"},
}
SQL = re.compile(
    r"\s*(SELECT\b.+|INSERT\s+(OR\s+\w+\s+)?INTO\s.+|UPDATE\s.+\sSET\s.+|DELETE\s+FROM\s.+|"
    r"(CREATE|DROP|ALTER)\s+(UNIQUE\s+)?(TABLE|INDEX|VIEW|TRIGGER)\s.+|PRAGMA\s+\w+.*|"
    r"BEGIN(\s+(IMMEDIATE|EXCLUSIVE|DEFERRED))?\s*;?\s*|COMMIT\s*;?\s*|ROLLBACK\b.*|VACUUM\b.*|"
    r"ATTACH\s.+)",
    re.DOTALL,
)
RUNS_SQL = {"execute", "executemany", "executescript"}
UNSAFE = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


# -- reading a module -----------------------------------------------------------------------------


def imports(tree: ast.AST) -> Iterator[str]:
    """Whatever is imported, at the top or late, for running or for type checking, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called(node: ast.AST) -> str:
    """The last word of what is called, if this is a call."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def references(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Each name or attribute that leads to an import, with what it is in full."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        parts: list[str] = []
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            parts.insert(0, root.attr)
            root = root.value
        if isinstance(root, ast.Name) and root.id in known:
            yield node, ".".join([known[root.id], *parts])


def texts(tree: ast.AST) -> Iterator[str]:
    """The text of every constant, and of what is constant in each f-string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "x" for v in node.values)
            yield "".join(map(str, parts))


def layer_of(module: str) -> str | None:
    """The layer of a module, named without the package."""
    top = module.split(".")[0]
    return next((layer for layer, names in LAYERS.items() if top in names.split()), None)


def within(module: str, places: set[str]) -> bool:
    return any(f"{module}.".startswith(f"{place}.") for place in places)


# -- the rules ------------------------------------------------------------------------------------


def looks_up(module: str, tree: ast.AST) -> Iterator[str]:
    """A layer imports only what lies below it."""
    layer = layer_of(module)
    if layer is None:
        yield "belongs to no layer"
        return
    for name in imports(tree):
        package, _, inner = name.partition(".")
        if name.startswith("."):
            yield f"imports {name}, relative"
        elif package == "sqlsched":
            target = layer_of(inner) or "outermost"
            if target not in MAY_IMPORT[layer] and (module, target) not in EXCEPTIONS:
                yield f"({layer}) imports {name} ({target})"


def core_is_impure(module: str, tree: ast.AST) -> Iterator[str]:
    """The core has no event loop, no files, no clock and no system."""
    if layer_of(module) != "core":
        return
    for name in imports(tree):
        top = name.split(".")[0]
        used = {full for _, full in references(tree) if full.startswith(f"{top}.")}
        if top in NOT_IN_CORE and not (used and used <= set(CORE_MAY_USE)):
            yield f"imports {name} in the core"
    for call in calls(tree):
        if called(call) in INPUT_OUTPUT and module not in READS_FILES:
            yield f"calls {called(call)} in the core"


def sql_outside_storage(module: str, tree: ast.AST) -> Iterator[str]:
    """SQL, and what runs it, is in storage only."""
    if layer_of(module) == "storage":
        return
    yield from (f"imports {n}" for n in imports(tree) if n.split(".")[0] == "sqlite3")
    yield from (f"has SQL: {text[:40]!r}" for text in texts(tree) if SQL.fullmatch(text))
    yield from (f"calls {called(call)}" for call in calls(tree) if called(call) in RUNS_SQL)


def clock_elsewhere(module: str, tree: ast.AST) -> Iterator[str]:
    """Time is read, and slept away, in one module; to let others run is no sleep."""
    if within(module, set(READS_CLOCKS)):
        return
    yielding = {
        call.func
        for call in calls(tree)
        if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    }
    for node, name in references(tree):
        if name in CLOCKS and not (name == "asyncio.sleep" and node in yielding):
            yield f"uses {name}"


def third_party_elsewhere(module: str, tree: ast.AST) -> Iterator[str]:
    """Each third party is imported in its one place."""
    for name in imports(tree):
        top = name.split(".")[0]
        is_third = top and top != "sqlsched" and top not in sys.stdlib_module_names
        if is_third and not within(module, ONE_PLACE.get(top, set())):
            yield f"imports {name}, which belongs in {ONE_PLACE.get(top) or 'no module'}"


def unsafe_storage(_module: str, tree: ast.AST) -> Iterator[str]:
    """Nothing is read that could run code."""
    yield from (f"imports {name}" for name in imports(tree) if name.split(".")[0] in UNSAFE)


def swallows(_module: str, tree: ast.AST) -> Iterator[str]:
    """A bare except swallows cancellation; a task nobody holds may vanish with its error."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"has a bare except in line {node.lineno}"
        if isinstance(node, ast.Expr) and called(node.value) in {"create_task", "ensure_future"}:
            yield f"drops a task in line {node.lineno}"


Rule = Callable[[str, ast.AST], Iterator[str]]
RULES: list[Rule] = [
    *(looks_up, core_is_impure, sql_outside_storage, clock_elsewhere, third_party_elsewhere),
    *(unsafe_storage, swallows),
]


def name_of(path: Path) -> str:
    """`storage.claims`; the package itself is `sqlsched`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "sqlsched"


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    assert "storage.claims" in MODULES
    problems = [
        f"sqlsched.{name} {problem}"
        for name, path in MODULES.items()
        for problem in rule(name, ast.parse(path.read_text()))
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (looks_up, "planner", "from sqlsched.abc import Broker"),
        (looks_up, "planner", "def f():\n    from sqlsched.storage import claims"),
        (looks_up, "planner", "import sqlsched.engine.loop"),
        (looks_up, "abc", "from sqlsched import engine"),
        (looks_up, "clock", "from sqlsched import Scheduler"),
        (looks_up, "storage.claims", "from sqlsched.clock import now_us"),
        (looks_up, "engine.takeover", "from sqlsched.brokers import processes"),
        (looks_up, "brokers.celery", "from sqlsched.storage import runs"),
        (looks_up, "sources.sqlite", "from sqlsched.engine.scheduler import Scheduler"),
        (looks_up, "testing", "from sqlsched.engine.loop import Loop"),
        (looks_up, "planner", "if TYPE_CHECKING:\n    from sqlsched.abc import Broker"),
        (looks_up, "planner", "import_module('sqlsched.abc')"),
        (looks_up, "planner", "from . import abc"),
        (looks_up, "novelty", ""),
        (core_is_impure, "planner", "import asyncio"),
        (core_is_impure, "cron", "from time import time"),
        (core_is_impure, "trigger", "import os.path"),
        (core_is_impure, "scheduled_task", "import os\nos.urandom(6)\nos.getpid()"),
        (core_is_impure, "output", "print('x')"),
        (core_is_impure, "serialization", "Path('x').read_text()"),
        (sql_outside_storage, "engine.loop", "import sqlite3"),
        (sql_outside_storage, "engine.loop", "QUERY = 'SELECT 1 FROM runs'"),
        (sql_outside_storage, "cli.look", "f'UPDATE {table} SET a = 1'"),
        (sql_outside_storage, "cli.look", "'''\n  DELETE FROM runs'''"),
        (sql_outside_storage, "cli.look", "'PRAGMA user_version'"),
        (sql_outside_storage, "cli.look", "'BEGIN IMMEDIATE'"),
        (sql_outside_storage, "sources.redis", "database.execute(query)"),
        (clock_elsewhere, "engine.loop", "import time\ntime.time()"),
        (clock_elsewhere, "engine.loop", "from time import monotonic as m\nm()"),
        (clock_elsewhere, "engine.loop", "import time as t\nread = t.time_ns"),
        (clock_elsewhere, "engine.loop", "from datetime import UTC, datetime\ndatetime.now(UTC)"),
        (clock_elsewhere, "engine.loop", "import datetime\ndatetime.datetime.utcnow()"),
        (clock_elsewhere, "engine.loop", "import asyncio\nawait_ = asyncio.sleep(1)"),
        (clock_elsewhere, "engine.loop", "from asyncio import sleep\nsleep(delay)"),
        (clock_elsewhere, "storage.runs", "import time\ntime.sleep(0)"),
        (third_party_elsewhere, "storage.claims", "import aiosqlite"),
        (third_party_elsewhere, "cron", "from croniter import croniter"),
        (third_party_elsewhere, "engine.loop", "import click"),
        (third_party_elsewhere, "cli.run", "import requests"),
        (third_party_elsewhere, "client", "import_module('tzdata')"),
        (unsafe_storage, "storage.runs", "import pickle"),
        (unsafe_storage, "storage.runs", "from pickle import loads"),
        (swallows, "engine.loop", "try:\n    f()\nexcept:\n    pass"),
        (swallows, "engine.loop", "asyncio.create_task(f())"),
        (swallows, "engine.loop", "loop.create_task(f())"),
        (swallows, "engine.loop", "asyncio.ensure_future(f())"),
    ],
)
def test_a_module_that_breaks_the_rule_is_found(rule: Rule, module: str, source: str) -> None:
    assert list(rule(module, ast.parse(source)))


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (looks_up, "engine.takeover", "from sqlsched import processes"),
        (looks_up, "sources.sqlite", "from sqlsched.storage import changes"),
        (core_is_impure, "timezones", "path.open()"),
        (core_is_impure, "scheduled_task", "import os\nos.urandom(6)"),
        (sql_outside_storage, "cli.past", "'Select what to show from the list.'"),
        (sql_outside_storage, "storage.runs", "'SELECT 1 FROM runs'"),
        (clock_elsewhere, "testing", "import asyncio\nasyncio.sleep(0)"),
        (clock_elsewhere, "processes", "import time\ntime.strptime(text, '%a')"),
        (third_party_elsewhere, "cli.look", "import click"),
        (swallows, "engine.loop", "task = asyncio.create_task(f())"),
    ],
)
def test_what_is_allowed_is_not_found(rule: Rule, module: str, source: str) -> None:
    assert list(rule(module, ast.parse(source))) == []


def test_every_exemption_is_still_needed() -> None:
    for module, layer in EXCEPTIONS:
        names = list(imports(ast.parse(MODULES[module].read_text())))
        assert any(layer_of(name.removeprefix("sqlsched.")) == layer for name in names)
    for exempt in READS_FILES | READS_CLOCKS:
        assert any(within(module, {exempt}) for module in MODULES)

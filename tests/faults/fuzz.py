"""Whatever is typed, imported or stored: at most one line of error, and no second of hanging.

Both long forms are functions of a directory to work in, how many inputs to make, and the seed of
all that is random in them. They return a `Tally`.
"""

import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, closing
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.faults.program import Answer, HangError, call

DATA = Path(__file__).parents[1] / "data"


@dataclass
class Tally:
    """What came of so many inputs."""

    count: int = 0
    violations: list[str] = field(default_factory=list)
    """What the program did that it must not do, with what it was given."""
    figures: Counter[str] = field(default_factory=Counter)
    """How often it answered how."""

    def judge(self, answer: Answer, given: str) -> None:
        """Take note of an answer."""
        self.figures[f"exit {answer.code}"] += 1
        if problem := answer.problem:
            said = answer.err[-2000:]
            self.violations.append(
                f"{given}: {' '.join(answer.arguments)[:300]!r}: {problem}\n{said}"
            )


# -- words ----------------------------------------------------------------------------------------

CRONS = [json.loads(line) for line in (DATA / "good_crons.txt").read_text().splitlines()]
CRONS += [json.loads(line) for line in (DATA / "bad_crons.txt").read_text().splitlines()]
JOB = "shop.jobs:send_mail"
EXAMPLES: dict[str, list[str]] = {
    "cron": CRONS,
    "zone": ["Europe/Berlin", "UTC", "+05:30", "-PT90M", "7200", "PT23H59M", "Etc/GMT+12", "EST"],
    "time": ["2026-11-23T18:05+01:00", "2026-11-23", "9999-12-30T00:00Z", "20261123T180500", "now"],
    "duration": ["90", "90s", "5m", "1h30m", "2d", "36525d", "0", "1d1h1m1s", "999999999999d"],
    "array": ["[]", '[1, "a", null, true, 1.5e3]', '["\\u00e4\\ud83d\\ude00"]', "[[[[]]]]"],
    "object": ["{}", '{"a": 1, "b": [{}]}', '{"a": 1e400}', '{"a": "\\ud800"}', '{"a":1,"a":2}'],
    "id": ["old", "a.b_c-d", "x" * 64, "%", "_", "old~", "'; DROP TABLE runs; --"],
    "task": [JOB, "a:b", "a.b.c:d.e", "sqlsched:shell", "sqlsched:exec", "ä:ö", "a:<locals>"],
    "label": ["team=shop", "=", "a=", "a==b", '"=1', "$.a=1", "ä=ö"],
    "number": ["1", "0", "-1", "2147483647", "9223372036854775808", "1e3", "0x10", "٣"],
    "text": ["", "a note", "\x1b[31m", "a\nb", "%s %d {0}", "\u202e", "'\"", "$HOME"],
    "line": [
        '{"id": "new", "task_name": "m:f", "args": [1], "cron": "*/5 * * * *", "paused": true}',
        '{"task_name": "m:f", "time": "2030-01-01T00:00", "cron_offset": "Europe/Berlin"}',
        '{"task_name": "m:f", "interval": 60, "catchup_window": "none", "max_runs": 3}',
        '{"task_name": "m:f", "args": [], "kwargs": {}, "interval": 1, "labels": {"a": "b"}}',
        '{"id": "old", "task_name": "m:f", "interval": 60, "jitter": 5, "end": "2099-01-01"}',
    ],
    "variable": ["# comment", "A=b", "EMPTY=", " B = c", "export C=d", "QUOTED='x'", "=x", "A"],
}
"""By kind: what is right, and what is nearly right."""

COMMANDS: dict[str, list[tuple[str, ...]]] = {
    "cron": [("next", "--cron={}", "-n", "3"), ("add", "--id=it", "--replace", "--cron={}", JOB)],
    "zone": [
        ("next", "--cron=30 2 * * *", "--tz={}", "-n", "3"),
        ("add", "--id=it", "--replace", "--cron=@daily", "--tz={}", JOB),
    ],
    "time": [
        ("next", "--cron=@daily", "--after={}", "-n", "2"),
        ("next", "--cron=@daily", "--tz=Europe/Berlin", "--after={}", "-n", "2"),
        ("history", "--since={}"),
        ("add", "--id=it", "--replace", "--at={}", JOB),
        ("add", "--id=it", "--replace", "--every=1d", "--start={}", "--end=2090-01-01", JOB),
    ],
    "duration": [
        ("add", "--id=it", "--replace", "--every={}", JOB),
        ("add", "--id=it", "--replace", "--in={}", JOB),
        ("edit", "old", "--jitter={}", "--timeout={}", "--catchup-window={}"),
        ("run", "--once", "--keep={}", "--app-dir=missing"),
    ],
    "array": [("add", "--id=it", "--replace", "--every=1h", "--args={}", JOB)],
    "object": [("add", "--id=it", "--replace", "--every=1h", "--kwargs={}", JOB)],
    "id": [
        *(("show", "{}"), ("next", "{}"), ("history", "{}"), ("logs", "--last={}")),
        *(("logs", "{}"), ("cancel", "{}"), ("trigger", "{}"), ("pause", "{}"), ("resume", "{}")),
        ("add", "--id={}", "--paused", "--every=1h", JOB),
        ("rm", "{}"),
    ],
    "task": [
        ("add", "--id=it", "--replace", "--every=1h", "{}"),
        ("list", "--task={}"),
        ("edit", "old", "{}"),
    ],
    "label": [
        *(("list", "--label={}"), ("list", "--json", "--label={}"), ("rm", "--label={}")),
        ("add", "--id=it", "--replace", "--every=1h", "--label={}", JOB),
    ],
    "number": [
        *(("history", "-n={}"), ("next", "old", "-n={}"), ("run", "--concurrency={}", "--once")),
        ("add", "--id=it", "--replace", "--every=1h", "--max-runs={}", "--retries={}", JOB),
    ],
    "text": [
        *(("{}",), ("list", "{}"), ("--db={}", "list"), ("add", "{}", "{}"), ("run", "{}")),
        ("add", "--id=it", "--replace", "--every=1h", "--note={}", JOB),
        ("add", "--every=never", "--shell={}"),  # so that none is ever run
        ("add", "--id=it", "--replace", "--every=1h", "--coalesce={}", "--overlap={}", JOB),
        ("run", "--once", "--broker={}", "--env={}", "--app-dir=missing"),
    ],
    "line": [("import", "--replace", "input"), ("import", "--replace", "--keep-going", "input")],
    "variable": [("run", "--once", "--broker=in-process", "--accept-clock", "--env-file=input")],
}
"""What each kind is tried with; `{}` is the text, and `input` a file of such texts."""
FROM_FILES = ("line", "variable")

ANY = st.characters(exclude_characters="\0")
"""No argument of a process has a NUL in it; text that is not UTF-8 comes as surrogates."""
SIGNS = st.sampled_from("0123456789*/,-#?LWdhms:+TZP[]{}\"\\=. \t\n'%_~aeE٣ä\ud800\u202e\x1b")


def mangled(example: str) -> st.SearchStrategy[str]:
    """A text that was right, with a few changes: signs put in, taken out, put twice, cut off."""
    place = st.integers(0, len(example))
    change = st.tuples(place, place, st.text(SIGNS | ANY, max_size=4), st.integers(0, 3))

    def apply(changes: list[tuple[int, int, str, int]]) -> str:
        text = example
        for start, end, added, times in changes:
            first, last = sorted((start, end))
            text = text[:first] + text[first:last] * times + added + text[last:]
        return text

    return st.lists(change, max_size=3).map(apply)


def texts(kind: str) -> st.SearchStrategy[str]:
    """Texts of a kind: mangled ones, of its signs alone, and any at all."""
    return st.sampled_from(EXAMPLES[kind]).flatmap(mangled) | st.text(SIGNS) | st.text(ANY)


@st.composite
def calls(draw: st.DrawFn) -> tuple[tuple[str, ...], bytes]:
    """The arguments of a call, and what is in the file `input`."""
    kind = draw(st.sampled_from(list(COMMANDS)))
    words = draw(st.sampled_from(COMMANDS[kind]))
    if kind not in FROM_FILES:
        return tuple(word.replace("{}", draw(texts(kind))) for word in words), b""
    lines = draw(st.lists(texts(kind), max_size=4))
    raw = draw(st.sampled_from([b"", b"\xff", b"\xef\xbb\xbf", b"\0", b"\r"]))
    return words, raw + "\n".join(lines).encode(errors="surrogatepass")


def words(directory: Path, count: int, start: int) -> Tally:
    """Call the program with so many fuzzed arguments and input files."""
    tally = Tally(count)
    with chdir(directory):
        _stock()

        @seed(start)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(calls())
        def try_it(made: tuple[tuple[str, ...], bytes]) -> None:
            arguments, content = made
            Path("input").write_bytes(content)
            Path("input").chmod(0o600)
            try:
                answer = call(*arguments)
            except HangError as hang:
                tally.violations.append(f"{arguments!r}: {hang}")
            else:
                tally.judge(answer, repr(content))

        try_it()
    return tally


# -- databases ------------------------------------------------------------------------------------

LOOKS: tuple[tuple[str, ...], ...] = (
    *(("list",), ("list", "--all", "--json"), ("list", "--label", "team=shop")),
    *(("show", "old"), ("show", "cron", "--json"), ("next", "old", "-n", "3"), ("next", "cron")),
    *(("history",), ("history", "--json"), ("history", "old", "--status", "failed")),
    *(("logs", "1"), ("logs", "--last", "old"), ("export",)),
)
"""Every command that reads, some with options that read otherwise."""
RUN = ("run", "--once", "--broker", "in-process", "--accept-clock", "--drain", "1s")


def _stock() -> None:
    """A database with schedules and runs of every kind, in the current directory.

    Its tasks do no harm, whatever becomes of their names.
    """
    past = ("--at", "2020-01-01")
    for arguments in (
        ("--id", "old", *past, "--args", "[1, 0]", "--retries", "2", "operator:truediv"),
        ("--id", "fine", *past, "--kwargs", '{"a": "ä"}', "--label", "team=shop", "builtins:dict"),
        ("--id", "cron", "--cron", "*/5 * * * *", "--tz", "Europe/Berlin", "string:capwords"),
        ("--id", "cron2", "--cron", "30 2 L * FRI", "--tz", "+05:30", "--jitter", "5s", "m:f"),
        ("--id", "every", "--every", "90s", "--max-runs", "9", "--overlap", "allow", "math:floor"),
        ("--id", "bounds", "--every", "1d", "--start", "2020-01-01", "--end", "2090-01-01", "m:f"),
        (
            "--id",
            "paused",
            "--every",
            "5m",
            "--paused",
            "--note",
            "later",
            "--expires",
            "1h",
            "m:f",
        ),
    ):
        assert call("add", *arguments).code == 0
    assert call("trigger", "cron").code == 0
    answer = call(*RUN)
    assert answer.code == 0, answer
    assert call("trigger", "every").code == 0
    assert call("trigger", "paused").code == 0


@dataclass(frozen=True)
class Stock:
    """The files of a sound database: one closed, and one whose log was not yet moved into it."""

    closed: bytes
    open: bytes
    wal: bytes


def stocked(directory: Path) -> Stock:
    """Make one."""
    directory.mkdir(exist_ok=True)
    with chdir(directory):
        _stock()
        path = Path("sqlsched.db")
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        closed = path.read_bytes()
        with closing(sqlite3.connect(path)) as reader:  # so that the log stays
            reader.execute("SELECT * FROM schedules").fetchall()
            assert call("edit", "every", "--every", "80s", "--note", "x" * 3000).code == 0
            return Stock(closed, path.read_bytes(), Path("sqlsched.db-wal").read_bytes())


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, some bytes spliced, a page lost, or an end cut off; or a few of these."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        rng.choice(DAMAGES)(result, rng)
    return bytes(result)


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[_anywhere(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[_anywhere(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _splice(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 4, 16, 100, 4096))
    start, end = _anywhere(data, rng), _anywhere(data, rng)
    piece = data[start : start + size]
    data[end : end + (len(piece) if rng.random() < 0.8 else 0)] = piece


def _lose_page(data: bytearray, rng: random.Random) -> None:
    page = 4096 * rng.randrange(max(1, len(data) // 4096))
    if rng.random() < 0.5:
        data[page : page + 4096] = bytes(min(4096, len(data) - page))
    else:
        other = 4096 * rng.randrange(max(1, len(data) // 4096))
        data[page : page + 4096] = data[other : other + 4096]


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.choice((_anywhere(data, rng), 4096 * rng.randrange(1 + len(data) // 4096))) :]
    data += bytes(1) if not data else b""


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip, _flip, _overwrite, _splice, _splice, _lose_page, _truncate),
)


def _anywhere(data: bytearray, rng: random.Random) -> int:
    """A place in a file: most of it is empty, so rather where something is, or in a header."""
    place = rng.randrange(len(data))
    kind = rng.random()
    if kind < 0.1:
        return min(len(data) - 1, rng.randrange(100))
    if kind < 0.3:
        return min(len(data) - 1, place // 4096 * 4096 + rng.randrange(48))
    while not data[place] and rng.random() < 0.95:
        place = rng.randrange(len(data))
    return place


def broken(stock: Stock, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """The files of a database, one of them damaged: what each adds to the name, and its bytes."""
    if rng.random() < 0.7:
        yield "", damaged(stock.closed, rng)
    elif rng.random() < 0.5:
        yield "", damaged(stock.open, rng)
        yield "-wal", stock.wal
    else:
        yield "", stock.open
        yield "-wal", damaged(stock.wal, rng)


def _keep(place: Path, files: Sequence[tuple[str, bytes]]) -> None:
    place.mkdir(exist_ok=True)
    for suffix, data in files:
        path = place / f"sqlsched.db{suffix}"
        path.touch(0o600)
        path.write_bytes(data)


def _called_on(
    place: Path, files: Sequence[tuple[str, bytes]], command: Sequence[str], attempts: int = 2
) -> Answer:
    """Call a command on these files; HangError if each attempt hangs: one may be the machine's."""
    shutil.rmtree(place, ignore_errors=True)
    _keep(place, files)
    try:
        with chdir(place):
            return call(*command)
    except HangError:
        if attempts == 1:
            raise
        return _called_on(place, files, command, attempts - 1)


def databases(directory: Path, count: int, start: int) -> Tally:
    """Look at so many damaged databases in every way, and serve each.

    Those that led to what must not be are kept, as the times in them are never the same again.
    """
    tally, violations = Tally(count), 0
    stock = stocked(directory / "stock")
    place = directory / "place"
    for number in range(start, start + count):
        files = list(broken(stock, random.Random(number)))
        for command in (*LOOKS, RUN):
            try:
                tally.judge(_called_on(place, files, command), f"seed {number}")
            except HangError as hang:
                tally.violations.append(f"seed {number}: {' '.join(command)}: {hang}")
            if len(tally.violations) > violations:
                _keep(directory / f"kept-{number}", files)
                violations = len(tally.violations)
    return tally

"""Somebody at the command line who never rests: random commands, each noted with what it did.

python -m tests.faults.user DATABASE NUMBER SEED SECONDS

Some ids are this user's own: nobody else changes them, so what each means at each moment is known
from the notes. Others are everybody's, and may be gone at any time.
"""

import contextlib
import io
import json
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from sqlsched.cli import main
from sqlsched.instants import format_us

GONE = re.compile(
    "no schedule has the id|no run has the id|has ended already|has not run yet|was asked to stop"
)
"""What a command may say: what it was to change is not there any more, or is about to end."""
SHARED = [f"shared{number}" for number in range(6)]
_OWN = 10


@dataclass(frozen=True)
class Meaning:
    """What an id stands for: firings at `start_us` and each `every` seconds after it."""

    state: str
    """`on`, `paused` or `gone`."""
    every: int = 1
    start_us: int = 0


class User:
    """One of them."""

    def __init__(self, database: str, number: int, seed: int, directory: Path) -> None:
        self._database = database
        self._number = number
        self._rng = random.Random(f"{seed} {number}")
        self._notes = directory.joinpath(f"user{number}.jsonl").open("a")
        self._own = {f"u{number}-{index}": Meaning("gone") for index in range(_OWN)}

    def work(self, seconds: float) -> None:
        """Go on for so long, then remove all that is this user's own."""
        deadline = time.time() + seconds
        own = (self._add, self._edit, self._pause, self._resume, self._remove, self._import)
        while time.time() < deadline:
            if self._rng.random() < 0.6:
                self._rng.choice(own)()
            else:
                self._meddle()
            time.sleep(self._rng.uniform(0, self._rng.choice((0.02, 0.2))))
        for name, meaning in self._own.items():
            if meaning.state != "gone":
                self._change(["rm", name], {name: Meaning("gone")})

    # -- this user's own ------------------------------------------------------------------------

    def _pick(self, *states: str) -> tuple[str, Meaning] | None:
        found = [each for each in self._own.items() if each[1].state in states]
        return self._rng.choice(found) if found else None

    def _new(self, state: str = "on") -> Meaning:
        start_us = round((time.time() + self._rng.uniform(-5, 0.5)) * 1e6)
        return Meaning(state, self._rng.choice((1, 1, 2)), start_us)

    def _add(self) -> None:
        if found := self._pick("gone"):
            meaning = self._new()
            words = ["add", "--id", found[0], *_trigger(meaning), *_POLICIES, "jobs:nap"]
            self._change(words, {found[0]: meaning})

    def _edit(self) -> None:
        if found := self._pick("on", "paused"):
            name, meaning = found
            if self._rng.random() < 0.5:
                self._change(["edit", name, "--note", str(time.time())], {name: meaning})
            else:
                changed = self._new(meaning.state)
                self._change(["edit", name, *_trigger(changed)], {name: changed})

    def _pause(self) -> None:
        if found := self._pick("on", "paused"):
            self._change(["pause", found[0]], {found[0]: replace(found[1], state="paused")})

    def _resume(self) -> None:
        if found := self._pick("on", "paused"):
            self._change(["resume", found[0]], {found[0]: replace(found[1], state="on")})

    def _remove(self) -> None:
        if found := self._pick("on", "paused"):
            self._change(["rm", found[0]], {found[0]: Meaning("gone")})

    def _import(self) -> None:
        names = self._rng.sample(sorted(self._own), 3)
        changed = {}
        for name in names:
            state = self._own[name].state
            changed[name] = self._new("on" if state == "gone" else state)
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for name, meaning in changed.items():
                file.write(json.dumps(_as_line(name, meaning)) + "\n")
            file.flush()
            self._change(["import", "--replace", file.name], changed)

    def _change(self, words: list[str], changed: dict[str, Meaning]) -> None:
        """Call a command that must succeed, and note what its ids mean from then on."""
        begun, (code, _, error) = time.time(), self._call(words)
        ended = time.time()
        if code == 0:
            self._own |= changed
            for name, meaning in changed.items():
                self._note(id=name, begun=begun, ended=ended, **vars(meaning))
        else:
            self._complain(words, code, error)

    # -- everybody's ----------------------------------------------------------------------------

    def _meddle(self) -> None:
        name, other = self._rng.choice(SHARED), self._rng.choice([*SHARED, *self._own])
        kind = self._rng.choice(("skip", "allow", "buffer-one", "buffer-all", "cancel-other"))
        seconds = json.dumps({"seconds": self._rng.choice((0, 0.2, 1.2))})
        new = [name, "--every", "1s", "--kwargs", seconds, "--replace"]
        words = self._rng.choice(
            (
                ["add", "--id", *new, "--overlap", kind, "--label", "of=all", "jobs:nap"],
                ["add", "--id", *new, "--max-runs", "3", "--jitter", "1s", "jobs:nap"],
                ["edit", name, "--every", self._rng.choice(("1s", "2s"))],
                ["pause", name],
                ["pause", "--label", "of=all"],
                ["resume", name],
                ["rm", name],
                ["trigger", other],
                ["cancel", self._some_run()],
                ["list", "--all", "--json"],
                ["show", other],
                ["history", "--json"],
                ["next", other],
                ["export"],
                ["logs", "--last", other],
            )
        )
        code, _, error = self._call(words)
        if code != 0 and not GONE.search(error):
            self._complain(words, code, error)

    def _some_run(self) -> str:
        code, out, _ = self._call(["history", "-n", "20", "--json"])
        found = json.loads(out) if code == 0 else []
        return str(self._rng.choice(found)["run_id"]) if found else "1"

    # -- how ------------------------------------------------------------------------------------

    def _call(self, words: list[str]) -> tuple[int, str, str]:
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                main(["--db", self._database, *words])
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return code, out.getvalue(), error.getvalue()

    def _complain(self, words: list[str], code: int, error: str) -> None:
        self._note(problem=f"{' '.join(words)}: exit {code}: {error.strip()}")

    def _note(self, **values: object) -> None:
        self._notes.write(json.dumps(values) + "\n")
        self._notes.flush()


_POLICIES = ("--coalesce", "all", "--catchup-window", "unlimited", "--overlap", "allow")


def _trigger(meaning: Meaning) -> list[str]:
    return ["--every", f"{meaning.every}s", "--start", format_us(meaning.start_us)]


def _as_line(name: str, meaning: Meaning) -> dict[str, object]:
    return {
        "id": name,
        "task_name": "jobs:nap",
        "interval": meaning.every,
        "start": format_us(meaning.start_us),
        "coalesce": "all",
        "catchup_window": "unlimited",
        "overlap": "allow",
        "paused": meaning.state == "paused",
    }


if __name__ == "__main__":
    database, number, seed, seconds = sys.argv[1:]
    User(database, int(number), int(seed), Path(database).parent).work(float(seconds))

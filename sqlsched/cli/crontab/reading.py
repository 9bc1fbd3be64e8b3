"""A crontab, read into schedules."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from shlex import quote

from sqlsched.cli.crontab.words import read_variable, read_zone, split_command
from sqlsched.cli.json_lines import LONGEST_LINE
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.scheduled_task import SHELL_TASK, ScheduledTask
from sqlsched.serialization import shorten

EXPORTED = "# Exported by sqlsched, whose import takes the commands of this file as they stand."
"""The first line of a crontab that `export` wrote: nothing is added to its commands."""
ID = "# id: "
"""What begins the comment, directly above an entry, that gives it an id."""

_ENTRY = re.compile(r"-?(?P<when>@\S+|(?:\S+[ \t]+){4}\S+)[ \t]+(?P<command>.*)", re.DOTALL)
_USER = re.compile(r"(?P<user>\S+)[ \t]+(?P<command>.*)", re.DOTALL)
_ID = re.compile(rf"{ID}([\w.-]{{1,64}})\s*", re.ASCII)
_HEADING = re.compile(r"#\s*(m\s+h\s+dom\s+mon\s+dow|(\*\s+){4}\*)\s.*\bcommand\b.*", re.IGNORECASE)
"""What stands above the columns of a crontab that came with the system."""
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)

_NOTED = ("MAILTO", "MAILFROM", "RANDOM_DELAY")
"""What cron itself goes by, and sqlsched does not: it is kept in the note."""
_NOT_SET = {"CRON_TZ", "LOGNAME", *_NOTED}
"""LOGNAME is whoever runs the command; a crontab cannot change that."""
_SHELLS_OWN = {"IFS", "OPTIND", "PWD", "OLDPWD", "PPID", "UID", "EUID", "BASHOPTS", "SHELLOPTS"}
_SH = "/bin/sh"

_NOISE = {"test", "if", "then", "else", "fi", "cd", "do", "done", "null", "system", "command"}
_LONGEST_SLUG = 32


@dataclass(frozen=True)
class Rules:
    """What a crontab does not say of itself."""

    user: str
    """Who runs sqlsched, and so whatever is imported."""
    system: bool
    """Whether its entries have a column for the user, as in /etc/cron.d."""
    sure: bool
    """Whether somebody said so."""
    zone: str | timedelta | None
    """The clock of entries that no CRON_TZ stands above."""


Found = tuple[int, ScheduledTask | InvalidScheduleError]
"""The number of an entry's line, and the schedule in it or what is wrong with it."""


def read(lines: Iterable[tuple[int, bytes]], rules: Rules) -> Iterator[Found]:
    """The entries of a crontab, from its lines with their numbers."""
    crontab = _Crontab(rules)
    for number, line in lines:
        try:
            schedule = crontab.take(line)
        except InvalidScheduleError as error:
            yield number, error
        else:
            if schedule is not None:
                yield number, schedule


class _Crontab:
    """What the lines read so far say to those that follow."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._variables: dict[str, str] = {}
        self._comments: list[str] = []
        self._met: Counter[str] = Counter()
        self._exported = False

    def take(self, line: bytes) -> ScheduledTask | None:
        """Read one more line; the schedule, if it is an entry."""
        line = line.removesuffix(b"\n").lstrip(b" \t")
        if line.startswith(b"#"):
            self._comment(line.decode(errors="replace"))
            return None
        comments, self._comments = self._comments, []
        text = _text(line)
        if not text.strip():
            return None
        if variable := read_variable(text):
            self._variables.update([variable])
            return None
        return self._entry(text, comments)

    def _comment(self, text: str) -> None:
        if text == EXPORTED:
            self._exported = True
        elif _HEADING.fullmatch(text) and not self._exported:
            self._comments.clear()  # it, and what stands above it, is about the file
        else:
            self._comments.append(text)

    def _entry(self, text: str, comments: list[str]) -> ScheduledTask:
        found = _ENTRY.fullmatch(text)
        if found is None:
            raise InvalidScheduleError(
                f"{shorten(text)}: give five fields, or @daily and its like, and a command"
            )
        command = self._own(found["command"])
        is_sixth_field = command.startswith("*") and not self._rules.system
        if is_sixth_field or not split_command(command)[0].strip():
            raise InvalidScheduleError(f"{shorten(text)}: give a command after the five fields")
        if command.endswith("\r"):
            raise InvalidScheduleError(
                "the line ends with a carriage return, which would be part of the command; "
                "save the file with the ends of line of Unix"
            )
        named = _ID.fullmatch(comments[-1]) if comments else None
        return ScheduledTask(
            schedule_id=named[1] if named else self._id(command),
            task_name=SHELL_TASK,
            args=[self._line(command)],
            cron=" ".join(found["when"].split()),
            cron_offset=self._zone(),
            note=self._note(comments[:-1] if named else comments),
        )

    def _own(self, text: str) -> str:
        """The command of an entry, if it is ours to run."""
        rules = self._rules
        if not rules.system:
            if text.split(None, 1)[:1] == ["root"] and not (rules.sure or self._exported):
                raise InvalidScheduleError(
                    "'root' is a user, or a command: say --system for a crontab whose entries "
                    "name users, as in /etc/cron.d, or --user for one of a user's own"
                )
            return text
        found = _USER.fullmatch(text)
        if found is None:
            raise InvalidScheduleError(
                f"{shorten(text)}: in a system crontab a user stands before the command; "
                "--user reads a crontab without"
            )
        if found["user"] != rules.user:
            raise InvalidScheduleError(
                f"it runs as {found['user']}, and sqlsched runs as you, {rules.user}: import it "
                "as that user, into a database of their own"
            )
        return found["command"]

    def _zone(self) -> str | timedelta | None:
        text = self._variables.get("CRON_TZ")
        return read_zone(text) if text else self._rules.zone

    def _note(self, comments: list[str]) -> str | None:
        text = "\n".join(comment[1:].removeprefix(" ") for comment in comments)
        said = list(filter(None, [text if self._exported else text.strip()]))
        said += [f"{n}={self._variables[n]}" for n in _NOTED if n in self._variables]
        return "\n".join(said) or None

    def _id(self, command: str) -> str:
        """The same at each import: from the command, and which of several equal ones it is."""
        self._met[command] += 1
        identity = f"{command}\n{self._met[command]}"
        return f"{_slug(command)}-{sha256(identity.encode()).hexdigest()[:8]}"

    def _line(self, text: str) -> str:
        """The line for /bin/sh that does what cron would do with this command."""
        command, data = split_command(text)
        set_up = self._exports()
        if not self._exported:
            set_up += "cd; "  # cron starts commands in $HOME
        shell = self._variables.get("SHELL", _SH)
        if data:
            return f"{set_up}{_printf(data)} | {quote(shell)} -c {quote(command)}"
        if shell != _SH:
            return f"{set_up}exec {quote(shell)} -c {quote(command)}"
        return set_up + command

    def _exports(self) -> str:
        variables = {k: v for k, v in self._variables.items() if k not in _NOT_SET}
        if variables.get("SHELL") == _SH:
            del variables["SHELL"]
        for name in variables:
            if not _NAME.fullmatch(name) or name in _SHELLS_OWN:
                raise InvalidScheduleError(
                    f"the variable {shorten(name)}, set above, cannot be set in a line of shell"
                )
        words = " ".join(f"{name}={quote(value)}" for name, value in variables.items())
        return f"export {words}; " if words else ""


def _text(line: bytes) -> str:
    if len(line) > LONGEST_LINE:
        raise InvalidScheduleError(f"{line[:40]!r}… is longer than {LONGEST_LINE} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InvalidScheduleError(f"{line[:40]!r} is not UTF-8; a schedule is text") from None


def _printf(data: str) -> str:
    """A command that prints exactly this."""
    *lines, rest = data.split("\n")
    if rest:
        return f"printf %s {quote(data)}"
    return f"printf '%s\\n' {' '.join(map(quote, lines))}"


def _slug(command: str) -> str:
    """A few words of a command that tell it from others."""
    words = []
    for word in re.findall(r"[\w./-]+", command, re.ASCII):
        name = word.rstrip("/").rpartition("/")[2].strip(".")
        if re.match(r"[A-Za-z]{2}", name) and name not in _NOISE:
            words.append(name)
    slug = ""
    for word in dict.fromkeys(words):
        longer = f"{slug}-{word}" if slug else word[:_LONGEST_SLUG]
        if len(longer) > _LONGEST_SLUG:
            break
        slug = longer
    return slug or "job"

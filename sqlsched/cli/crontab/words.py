r"""How cron writes commands, variables and clocks: what Debian's cron 3.0pl1 reads, to the letter.

In a command `%` ends it, and the rest is what it reads from stdin; `\%` is a percent sign and `\\`
a backslash; before anything else a backslash is itself. In the rest `%` ends a line, `\%` is a
percent sign and every other backslash itself. (cronie, the cron of Fedora, keeps `\\` as it is.)
"""

import re
from datetime import timedelta

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.serialization import shorten
from sqlsched.timezones import checked_cron_offset, format_cron_offset

LONGEST_COMMAND = 998
"""Bytes as written; Debian's cron refuses more."""

_UTC = "UTC"
"""What a schedule without a clock is on; as a clock that somebody named, it has a colon."""
_COMMAND = re.compile(r"(?:[^\\%]|\\.)*\\?", re.DOTALL)
_BACKSLASHES = re.compile(r"(\\++)(?!%)|(\\*+)%")
_VARIABLE = re.compile(
    r"""(?:(['"])(?P<quoted_name>(?:(?!\1)[^=])+)\1|(?P<name>[^\s='"][^\s=]*))
        \s*=\s*
        (?:(['"])(?P<quoted>(?:(?!\4).)*)\4\s*|(?P<plain>[^\s'"].*)?)""",
    re.ASCII | re.VERBOSE,
)
_POSIX_ZONE = re.compile(
    r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)([+-]?)(\d{1,2})(?::([0-5]\d))?(?::([0-5]\d))?", re.ASCII
)


def split_command(text: str) -> tuple[str, str]:
    """What the shell gets of a command's text, and what the command reads from stdin."""
    end = _end_of_command(text)
    command = re.sub(r"\\([\\%])", r"\1", text[:end])
    data = re.sub(r"\\?%", lambda found: "%" if found[0] == r"\%" else "\n", text[end + 1 :])
    said = data.rstrip("\\")
    return command, data + "\n" if said and not said.endswith("\n") else data


def _end_of_command(text: str) -> int:
    found = _COMMAND.match(text)
    assert found is not None
    return found.end()


def escape_command(command: str) -> str:
    """The text that cron reads as this command."""

    def escaped(found: re.Match[str]) -> str:
        if found[1] is not None:
            return "\\" * (2 * len(found[1]) - 1)
        return "\\" * (2 * len(found[2]) + 1) + "%"

    return _BACKSLASHES.sub(escaped, command)


def read_variable(text: str) -> tuple[str, str] | None:
    """The name and the value that a line sets; None if it sets none.

    Quotes keep blanks in front of a value, not behind it, and a second pair of them goes as well:
    crontab(5) says otherwise, and cron does so.
    """
    found = _VARIABLE.fullmatch(text)
    if found is None:
        return None
    name = found["name"] or found["quoted_name"]
    quoted = found["quoted"]
    value = ((found["plain"] or "") if quoted is None else quoted).rstrip(" \t\n\v\f\r")
    if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]:
        value = value[1:-1]
    return name, value


def read_zone(text: str) -> str | timedelta | None:
    """The clock that `CRON_TZ=text` sets: a zone, or a fixed offset as POSIX writes it."""
    if text == _UTC:
        return None
    text = text.removeprefix(":")
    if found := _POSIX_ZONE.fullmatch(text):
        sign, hours, minutes, seconds = found.groups(default="0")
        size = timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds))
        # POSIX counts to the west.
        return checked_cron_offset(size if sign == "-" else -size, "CRON_TZ")
    zone = checked_cron_offset(text, "CRON_TZ")
    if isinstance(zone, str):
        return zone
    raise InvalidScheduleError(
        f"CRON_TZ {shorten(text)}: cron would take it for UTC; write it like {write_zone(zone)}"
    )


def write_zone(cron_offset: str | timedelta | None) -> str:
    """What `CRON_TZ` is to be for a clock: `Europe/Berlin`, `<+0530>-05:30`."""
    if cron_offset is None:
        return _UTC
    if isinstance(cron_offset, str):
        return f":{_UTC}" if cron_offset == _UTC else cron_offset
    text = format_cron_offset(cron_offset)
    west = text.translate({ord("+"): "-", ord("-"): "+"})
    return f"<{text.replace(':', '')}>{west}"

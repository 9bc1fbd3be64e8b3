"""What cron knows of the machine that it runs on: who, where, and what the clock shows."""

import os
import pwd
from datetime import timedelta
from pathlib import Path

from sqlsched.cli.crontab.reading import Rules
from sqlsched.cli.crontab.words import write_zone
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.timezones import checked_cron_offset

_SYSTEM = (Path("/etc/crontab"), Path("/etc/cron.d"))
_LOCALTIME, _TIMEZONE = Path("/etc/localtime"), Path("/etc/timezone")
_UTC = {"UTC", "Etc/UTC"}


def rules(file: str, system: bool | None, zone: str | None) -> Rules:
    """How to read a crontab of this name; `system` and `zone` are what somebody said of it."""
    path = Path(file).resolve()
    place = any(path in (known, known / path.name) for known in _SYSTEM)
    return Rules(
        user=_user(),
        system=place if system is None else system,
        sure=place or system is not None,
        zone=_own_zone() if zone is None else _clock(zone, "--tz"),
    )


def zone_text() -> str | None:
    """This machine's clock as CRON_TZ has it; None if nobody knows."""
    try:
        return write_zone(_own_zone())
    except InvalidScheduleError:
        return None


def _user() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _own_zone() -> str | timedelta | None:
    """The zone of this machine, which is cron's; None is UTC."""
    name = _zone_name()
    try:
        return _clock(name, "the time zone of this machine")
    except InvalidScheduleError as error:
        raise InvalidScheduleError(f"{error}; --tz says which clock the crontab is on") from None


def _clock(name: str, what: str) -> str | timedelta | None:
    return None if name in _UTC else checked_cron_offset(name, what)


def _zone_name() -> str:
    """As Debian and macOS have it, a link to the zone's file; else as Debian also writes it."""
    if _LOCALTIME.is_symlink():
        return str(_LOCALTIME.readlink()).rpartition("zoneinfo/")[2]
    if _TIMEZONE.exists():
        return _TIMEZONE.read_text().strip()
    return "of a copied /etc/localtime" if _LOCALTIME.exists() else "UTC"

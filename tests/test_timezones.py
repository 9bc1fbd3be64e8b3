"""Zones and fixed offsets, and the line of clock changes that the cron walk reads."""

import importlib.resources
import struct
import subprocess
import sys
import zoneinfo
from bisect import bisect_right
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sqlsched.exceptions import InvalidScheduleError
from sqlsched.timezones import (
    DAY,
    checked_cron_offset,
    format_cron_offset,
    stretch_at,
    tzdata_version,
    zone_info,
)

EPOCH_1970 = datetime(1970, 1, 1).toordinal() * DAY  # noqa: DTZ001 - an ordinal has no zone
FIXED = {
    "+02:00": 7200,
    "-0530": -19800,
    "+02": 7200,
    "-01:30": -5400,
    "+00:00:20": 20,
    "-000020": -20,
    "-00:30": -1800,
    "-PT90M": -5400,
    "PT1H30M": 5400,
    "PT5400S": 5400,
    "+PT1H": 3600,
    "7200": 7200,
    "-3600": -3600,
    "+19800": 19800,
    "0": 0,
}


def names() -> list[str]:
    return importlib.resources.files("tzdata").joinpath("zones").read_text().split()


def listed_changes(name: str) -> list[tuple[int, int, int]]:
    """(instant, offset before, offset after), in seconds since 1970, read from the file itself.

    RFC 8536: a version 1 block to skip, then the same in 64 bits.
    """
    path = importlib.resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
    data = path.read_bytes()

    def counts(at: int) -> tuple[int, ...]:
        return struct.unpack(">6l", data[at + 20 : at + 44])

    utc, std, leap, times, types, chars = counts(0)
    at = 44 + times * 5 + types * 6 + chars + leap * 8 + std + utc
    *_, times, types, chars = counts(at)
    at += 44
    instants = struct.unpack(f">{times}q", data[at : at + 8 * times])
    kinds = data[at + 8 * times : at + 9 * times]
    at += 9 * times
    offsets = [struct.unpack(">l", data[at + 6 * n : at + 6 * n + 4])[0] for n in range(types)]
    after = [offsets[kind] for kind in kinds]
    steps = zip(instants, [offsets[0], *after], after, strict=False)
    return [step for step in steps if step[1] != step[2]]


def refusal(text: str) -> str | None:
    try:
        checked_cron_offset(text, "tz")
    except InvalidScheduleError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("text", "seconds"), FIXED.items())
def test_a_fixed_offset_is_read_in_every_spelling(text: str, seconds: int) -> None:
    assert checked_cron_offset(text, "--tz") == timedelta(seconds=seconds)


@settings(deadline=None)  # machines stall
@given(st.integers(-DAY + 1, DAY - 1))
def test_every_offset_survives_being_written_and_read(seconds: int) -> None:
    offset = timedelta(seconds=seconds)
    assert checked_cron_offset(format_cron_offset(offset), "tz") == offset
    assert zone_info(offset).utcoffset(None) == offset


def test_offsets_are_written_with_seconds_only_where_there_are_some() -> None:
    assert format_cron_offset(timedelta(hours=2)) == "+02:00"
    assert format_cron_offset(timedelta(minutes=-90)) == "-01:30"
    assert format_cron_offset(timedelta(seconds=-20)) == "-00:00:20"
    assert format_cron_offset("Europe/Berlin") == "Europe/Berlin"


def test_every_name_in_tzdata_is_a_zone() -> None:
    for name in names():
        assert checked_cron_offset(name, "tz") == name
        assert str(zone_info(name)) == name


REFUSED = ["", "\0", "../etc/passwd", "/etc/localtime", "x" * 10_000, " UTC", "UTC\n", "Z", "+2"]
REFUSED += [
    "2",
    "+24:00",
    "PT",
    "P1D",
    "PT30H",
    "+02:0030",
    "+02:60",
    "86400",
    "-36",
    "\uff10",
    "é",
]


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused_in_one_line_that_says_what_is_accepted(text: str) -> None:
    with pytest.raises(InvalidScheduleError, match=r"--tz .*Europe/Berlin") as caught:
        checked_cron_offset(text, "--tz")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, 5, True, b"UTC", timedelta(days=1), timedelta(0, 1, 1)])
def test_values_that_are_no_zone_are_refused(value: object) -> None:
    with pytest.raises(InvalidScheduleError, match="cron_offset"):
        checked_cron_offset(value, "cron_offset")


@settings(deadline=None)  # machines stall
@given(st.text())
def test_no_text_raises_anything_but_the_one_error(text: str) -> None:
    message = refusal(text)
    assert message is None or message.isprintable()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
        ("Amercia/Chicago", "America/Chicago"),
        ("CET+1", "CET"),
    ],
)
def test_a_slip_in_a_name_is_answered_with_the_closest_one(text: str, meant: str) -> None:
    with pytest.raises(InvalidScheduleError, match=rf"did you mean {meant}\?"):
        checked_cron_offset(text, "--tz")


def test_nobody_who_means_east_is_sent_west() -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        checked_cron_offset("GMT+2", "--tz")
    assert "Etc/GMT+2" not in str(caught.value)


@pytest.mark.parametrize("text", ["-1800", "+2359", "-600", "+530"])
def test_digits_that_may_be_hours_or_seconds_are_refused(text: str) -> None:
    with pytest.raises(InvalidScheduleError, match="may mean hours and minutes or seconds"):
        checked_cron_offset(text, "--tz")


def test_no_zone_is_utc_and_the_same_argument_gives_the_same_object() -> None:
    assert zone_info(None) is UTC
    assert zone_info("Asia/Tehran") is zone_info("Asia/Tehran")
    assert zone_info(timedelta(hours=2)) == timezone(timedelta(hours=2))


def test_zones_come_from_tzdata_whatever_the_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Europe").mkdir()
    wrong = importlib.resources.files("tzdata.zoneinfo").joinpath("Asia", "Tokyo").read_bytes()
    (tmp_path / "Europe" / "Vienna").write_bytes(wrong)
    monkeypatch.setattr(zoneinfo, "TZPATH", (str(tmp_path),))
    zone_info.cache_clear()
    offset = datetime(2026, 1, 1, tzinfo=zone_info("Europe/Vienna")).utcoffset()
    assert offset == timedelta(hours=1)
    assert (str(tmp_path),) == zoneinfo.TZPATH


def test_the_version_is_that_of_the_iana_release() -> None:
    assert tzdata_version()[:4].isdigit()
    assert tzdata_version()[4:].isalpha()


def test_importing_the_module_loads_no_zone_machinery() -> None:
    program = (
        "import sys, sqlsched.timezones; "
        "print([m for m in ('zoneinfo', 'importlib.resources', 'tzdata') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", names()[::9])
def test_the_stretches_of_a_zone_are_those_its_file_lists(name: str) -> None:
    zone = zone_info(name)
    changes = [change for change in listed_changes(name) if change[0] > -(2**40)]
    for instant, before, after in changes:
        at = instant + EPOCH_1970
        assert stretch_at(zone, at - 1).end == at
        assert stretch_at(zone, at - 1).offset == before
        assert stretch_at(zone, at)[0] == at
        assert stretch_at(zone, at)[2:] == (before, after)


def test_no_zone_changes_its_clock_twice_within_a_step_of_the_search() -> None:
    for name in names():
        instants = [instant for instant, *_ in listed_changes(name)]
        gaps = [later - earlier for earlier, later in pairwise(instants)]
        assert all(gap > 4 * DAY for gap in gaps), name


@settings(deadline=None)  # machines stall
@given(st.sampled_from(names()), st.integers(1, 3_652_059 * DAY))
def test_a_stretch_holds_its_instant_and_has_the_offset_that_zoneinfo_gives(
    name: str, instant: int
) -> None:
    stretch = stretch_at(zone_info(name), instant)
    assert stretch.start <= instant < stretch.end
    if 2 * DAY < instant < 3_652_058 * DAY:
        utc = datetime(1, 1, 1, tzinfo=UTC) + timedelta(-1, instant)
        offset = utc.astimezone(zone_info(name)).utcoffset()
        assert offset == timedelta(seconds=stretch.offset)


def test_the_stretches_of_a_year_follow_each_other_without_holes() -> None:
    zone = zone_info("Europe/Berlin")
    start = datetime(2026, 1, 1, tzinfo=UTC).toordinal() * DAY
    stretches = [stretch_at(zone, start)]
    while stretches[-1].end < start + 365 * DAY:
        stretches.append(stretch_at(zone, stretches[-1].end))
    for earlier, later in pairwise(stretches):
        assert (later.start, later.before) == (earlier.end, earlier.offset)
    assert [s.offset for s in stretches if s.before != s.offset] == [7200, 3600]
    assert bisect_right([s.start for s in stretches], start) == 1

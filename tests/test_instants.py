"""Times at the edge."""

from datetime import UTC, datetime

import pytest

from sqlsched import InvalidScheduleError
from sqlsched.instants import format_us, parse_time, to_us
from sqlsched.timezones import zone_info

BERLIN = zone_info("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-03-28T01:59", "2027-03-28T00:59:00+00:00"),
        ("2027-03-28T02:00", "2027-03-28T01:00:00+00:00"),
        ("2027-03-28T02:30", "2027-03-28T01:00:00+00:00"),
        ("2027-03-28T03:00", "2027-03-28T01:00:00+00:00"),
        ("2027-03-28T03:01", "2027-03-28T01:01:00+00:00"),
        ("2027-10-31T02:30", "2027-10-31T00:30:00+00:00"),
        ("2027-10-31T02:30+01:00", "2027-10-31T01:30:00+00:00"),
    ],
)
def test_a_time_that_a_clock_change_skips_or_repeats_means_what_it_means_to_cron(
    text: str, expected: str
) -> None:
    assert parse_time(text, BERLIN).isoformat() == expected


def test_instants_are_written_with_microseconds_only_when_there_are_some() -> None:
    moment = datetime(2026, 11, 23, 18, 5, tzinfo=UTC)
    assert format_us(to_us(moment)) == "2026-11-23T18:05:00+00:00"
    assert format_us(to_us(moment) + 1) == "2026-11-23T18:05:00.000001+00:00"


@pytest.mark.parametrize("text", ["", "now", "1969-12-31T23:59", "9999-12-31", "2026-13-01"])
def test_a_bad_time_is_refused_in_one_line_that_names_it(text: str) -> None:
    with pytest.raises(InvalidScheduleError) as told:
        parse_time(text, UTC, "--at")
    assert str(told.value).startswith("--at ")
    assert "\n" not in str(told.value)

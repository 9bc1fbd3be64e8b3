"""Cron expressions: what is accepted, what it means, and that all questions agree."""

import json
import random
import subprocess
import sys
import threading
from calendar import isleap
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from sqlsched import cron_fields, timezones
from sqlsched.cron import parse_cron
from sqlsched.cron_fields import FIELDS, Field, values
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.timezones import checked_cron_offset, zone_info

DATA = Path(__file__).parent / "data"
BERLIN = zone_info("Europe/Berlin")
MICROSECOND = timedelta(microseconds=1)


def lines(name: str) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").splitlines()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def fires(expression: str, after: str, number: int = 1, zone: tzinfo = UTC) -> list[str]:
    """The next firings, as local time without the year."""
    cron, found, moment = parse_cron(expression), [], at(after)
    for _ in range(number):
        following = cron.next_fire(moment, zone)
        assert following is not None
        moment = following
        found.append(moment.astimezone(zone).strftime("%m-%d %H:%M"))
    return found


def refusal(expression: str) -> str | None:
    try:
        parse_cron(expression)
    except InvalidScheduleError as error:
        return str(error)
    return None


# --- The worked examples -----------------------------------------------------------------------


@pytest.mark.parametrize("line", lines("cron_examples.jsonl"))
def test_a_worked_example_comes_out_as_written(line: str) -> None:
    case = json.loads(line)
    zone = zone_info(checked_cron_offset(case["zone"], "zone"))
    cron = parse_cron(case["expr"])
    instants = [at(text) for text in case["next"]]
    for earlier, later in zip([at(case["after"]), *instants], instants, strict=False):
        assert cron.next_fire(earlier, zone) == later
    for earlier, later in pairwise(instants):
        assert cron.previous_fire(later, zone) == earlier
    assert cron.count(at(case["after"]), instants[-1], zone) == len(instants)


@pytest.mark.parametrize("line", lines("good_crons.txt"))
def test_a_good_expression_is_accepted(line: str) -> None:
    assert parse_cron(json.loads(line)).next_fire(at("2026-01-01T00:00Z"), UTC) is not None


@pytest.mark.parametrize("line", lines("bad_crons.txt"))
def test_a_bad_expression_is_refused_in_one_line(line: str) -> None:
    with pytest.raises(InvalidScheduleError, match=r"^cron ") as caught:
        parse_cron(json.loads(line))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


# --- The grammar -------------------------------------------------------------------------------

SYNTAX = st.text(alphabet="0123456789*/-,?#LWHRlwr @\t\nJANSUNMONfri\0é", max_size=40)


@settings(deadline=None)  # machines stall
@given(st.one_of(st.text(), SYNTAX, st.lists(SYNTAX, min_size=5, max_size=5).map(" ".join)))
def test_no_text_raises_anything_but_the_one_error_in_one_line(text: str) -> None:
    message = refusal(text)
    assert message is None or (message.isprintable() and len(message) < 500)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("60 * * * *", "minute '60': 60 is out of range; give 0-59, "),
        ("* 24 * * *", "hour '24': 24 is out of range; give 0-23, "),
        ("* * 0 * *", r"day-of-month '0': 0 is out of range; give 1-31, .* L, LW, nW"),
        ("* * * 13 *", "month '13': 13 is out of range; give 1-12 or JAN-DEC, "),
        ("* * * * 8", "day-of-week '8': 8 is out of range; give 0-7 or SUN-SAT, .* D#1 to D#5, DL"),
        ("*/0 * * * *", "a step is at least 1"),
        ("* 22-2 * * *", "hour '22-2': the range runs backwards"),
        ("* * * * 7/2", "day-of-week '7/2': 7 and 0 are one day, so give 0/S"),
        ("H * * * *", "minute 'h': H .* not known"),
        ("R(0-5) * * * *", "R .* not known"),
        ("@reboot", "no boot to wait for"),
        ("@fortnightly", "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly"),
        ("*/5 * * * * *", "6 fields; .* --every"),
        ("0 0 1 1 * 0 2027", "7 fields; .* --every"),
        ("0 0", "give five fields, minute hour day-of-month month day-of-week"),
        ("0 0 31 2 *", "never fires"),
        ("0 0 29W 2 */6", "never fires"),
        ("0 0 " + "1," * 126 + "1 * *", "at most 256 characters"),
        ("00000 * * * *", "minute '00000'"),
    ],
)
def test_a_refusal_names_the_field_and_what_it_takes(text: str, message: str) -> None:
    with pytest.raises(InvalidScheduleError, match=message):
        parse_cron(text)


def test_a_field_has_the_values_that_croniter_finds_in_it() -> None:
    for field in FIELDS:
        for low in range(field.low, field.high, 3):
            for high in range(low + 1, field.high + 1):  # to croniter, a range of one is all
                for step in (1, 2, 5, 9999):
                    text = f"{low}-{high}/{step}"
                    assert values(field, text) == by_croniter(field, text)


def by_croniter(field: Field, text: str) -> tuple[int, ...]:
    parts = ["*"] * len(FIELDS)
    parts[field.place] = text
    found = croniter.expand(" ".join(parts))[0][field.place]
    every = range(field.low, field.top + 1)
    return tuple(every if found == ["*"] else map(int, found))


def test_importing_the_module_and_reading_plain_fields_loads_no_third_party() -> None:
    program = (
        "import sys, sqlsched.cron; sqlsched.cron.parse_cron('0 9 * * *'); "
        "print('croniter' in sys.modules, 'zoneinfo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


# --- Days --------------------------------------------------------------------------------------


def test_two_day_fields_without_a_star_in_front_match_either() -> None:
    assert fires("0 0 13 * FRI", "2026-01-01T00:00Z", 4) == [
        "01-02 00:00",
        "01-09 00:00",
        "01-13 00:00",
        "01-16 00:00",
    ]


def test_a_star_in_front_of_a_day_field_makes_both_match_even_with_a_step_or_a_list() -> None:
    assert fires("0 0 */2 * MON", "2026-01-01T00:00Z", 2) == ["01-05 00:00", "01-19 00:00"]
    assert fires("0 0 *,5 * MON", "2026-01-01T00:00Z", 2) == ["01-05 00:00", "01-12 00:00"]
    assert fires("0 0 5,* * MON", "2026-01-01T00:00Z", 2) == ["01-02 00:00", "01-03 00:00"]


def test_sunday_is_0_and_7_and_ends_a_week() -> None:
    for field in ("5-7", "FRI-SUN", "5-SUN", "0,5,6", "7,FRI-6"):
        assert fires(f"0 0 * * {field}", "2026-01-01T00:00Z", 3) == [
            "01-02 00:00",
            "01-03 00:00",
            "01-04 00:00",
        ]


def test_the_nearest_working_day_stays_in_its_month() -> None:
    assert fires("0 0 1W * *", "2026-07-15T00:00Z") == ["08-03 00:00"]  # a Saturday the 1st
    assert fires("0 0 31W * *", "2026-05-02T00:00Z") == ["05-29 00:00"]  # a Sunday the 31st
    assert fires("0 0 15W * *", "2026-08-01T00:00Z") == ["08-14 00:00"]  # a Saturday
    assert fires("0 0 29W * *", "2026-02-01T00:00Z") == ["03-30 00:00"]  # February has none


def test_the_last_and_the_nth_of_a_weekday_mix_with_plain_days() -> None:
    assert fires("0 0 * * 1#1,FRIL", "2026-01-01T00:00Z", 3) == [
        "01-05 00:00",
        "01-30 00:00",
        "02-02 00:00",
    ]
    assert fires("0 0 5,LW * *", "2026-01-01T00:00Z", 2) == ["01-05 00:00", "01-30 00:00"]
    assert fires("0 0 * * LFRI", "2026-01-01T00:00Z") == fires("0 0 * * 5L", "2026-01-01T00:00Z")


def test_a_fifth_monday_of_february_comes_after_the_forty_years_around_2100() -> None:
    cron = parse_cron("0 0 * 2 MON#5")
    years, moment = [], cron.next_fire(at("2050-01-01T00:00Z"), UTC)
    while moment and moment.year < 2200:
        assert moment.isoweekday() == 1
        years.append(moment.year)
        following = cron.next_fire(moment, UTC)
        assert following is not None
        assert cron.previous_fire(following, UTC) == moment
        moment = following
    assert years == [2072, 2112, 2140, 2168, 2196]


def test_the_calendar_is_right_in_every_year_from_the_first_to_the_last() -> None:
    leap_days, mondays = parse_cron("0 0 29 2 *"), parse_cron("0 0 * * 1")
    start, end = at("0001-01-01T00:00Z"), at("9999-12-31T00:00Z")
    assert leap_days.count(start, end, UTC) == sum(map(isleap, range(1, 10_000)))
    assert mondays.count(start, end, UTC) == (end - start).days // 7
    assert parse_cron("0 0 31 12 *").next_fire(at("9998-12-31T00:00Z"), UTC) == end
    assert parse_cron("0 0 1 1 *").previous_fire(end, UTC) == at("9999-01-01T00:00Z")


# --- Clock changes -----------------------------------------------------------------------------


def test_a_fixed_job_in_a_gap_fires_once_at_its_end() -> None:
    found = fires("0,30 2 * * *", "2026-03-28T12:00Z", 2, BERLIN)
    assert found == ["03-29 03:00", "03-30 02:00"]


def test_a_wildcard_job_goes_on_after_a_gap() -> None:
    assert fires("*/30 2 * * *", "2026-03-28T12:00Z", 1, BERLIN) == ["03-30 02:00"]


def test_a_fixed_job_in_a_fold_fires_in_the_first_pass_only() -> None:
    assert (
        parse_cron("30 2 * * *").count(at("2026-10-24T22:00Z"), at("2026-10-25T22:59Z"), BERLIN)
        == 1
    )
    assert fires("30 2 * * *", "2026-10-25T00:30Z", 1, BERLIN) == ["10-26 02:30"]


def test_a_wildcard_job_in_a_fold_fires_in_both_passes() -> None:
    found = fires("*/30 2 * * *", "2026-10-24T22:00Z", 5, BERLIN)
    assert found == ["10-25 02:00", "10-25 02:30", "10-25 02:00", "10-25 02:30", "10-26 02:00"]


def test_a_second_pass_is_not_skipped_by_a_job_that_fires_again_in_a_week() -> None:
    assert fires("*/30 2 * * SUN", "2026-10-25T00:30Z", 1, BERLIN) == ["10-25 02:00"]


def test_a_first_pass_is_not_skipped_on_the_way_back_by_a_job_that_fired_a_week_before() -> None:
    azores = zone_info("Atlantic/Azores")  # 01:00 becomes 00:00
    found = parse_cron("30 */23 * * SUN").previous_fire(at("2026-10-25T01:10Z"), azores)
    assert found == at("2026-10-25T00:30Z")


def test_a_job_is_wildcard_by_the_first_character_of_its_minute_or_hour() -> None:
    wildcard = {"* 1 * * *", "*/5 1 * * *", "5 *,1 * * *", "5 */2 * * *", "@hourly"}
    fixed = {"5,* 1 * * *", "0-59 0-23 * * *", "0 0 * * *", "@daily", "0/5 1 * * *"}
    assert all(parse_cron(text).is_wildcard for text in wildcard)
    assert not any(parse_cron(text).is_wildcard for text in fixed)


# --- next_fire, previous_fire and count agree --------------------------------------------------

EXPRESSIONS = ["*/7 * * * *", "30 2 * * *", "*/10 2 * * SUN", "0-59/9 1-3 * * *", "0 0 29 2 */7"]
ZONES = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Apia"]


@settings(deadline=None)  # machines stall
@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001 - hypothesis wants it
)
def test_previous_is_the_mirror_of_next(expression: str, name: str, naive: datetime) -> None:
    cron, zone = parse_cron(expression), zone_info(name)
    a = cron.next_fire(naive.replace(tzinfo=UTC), zone)
    assert a is not None
    b = cron.next_fire(a, zone)
    assert b is not None
    assert a < b
    assert cron.previous_fire(b, zone) == a
    assert cron.next_fire(b - MICROSECOND, zone) == b
    assert cron.previous_fire(a + MICROSECOND, zone) == a
    assert cron.next_fire(a - MICROSECOND, zone) == a
    assert cron.previous_fire(b + MICROSECOND, zone) == b
    assert cron.count(a, b, zone) == 1
    assert cron.count(a, b - MICROSECOND, zone) == 0
    assert cron.count(a - MICROSECOND, b, zone) == 2


def test_the_answer_depends_on_nothing_asked_before() -> None:
    rng = random.Random(7)
    start = at("2026-10-24T00:00Z")
    asked = [
        (expression, name, start + timedelta(minutes=rng.randrange(4000)))
        for expression in EXPRESSIONS
        for name in ZONES
        for _ in range(8)
    ]

    def answer(expression: str, name: str, moment: datetime) -> datetime | None:
        return parse_cron(expression).next_fire(moment, zone_info(name))

    first = {question: answer(*question) for question in asked}
    rng.shuffle(asked)
    for question in asked:
        parse_cron.cache_clear()
        timezones._block.cache_clear()
        assert answer(*question) == first[question]


def test_threads_that_share_an_expression_get_the_same_answers() -> None:
    cron_fields.days.cache_clear()
    parse_cron.cache_clear()
    cron, start = parse_cron("*/20 1-3 * * 1#1,FRIL"), at("2026-01-01T00:00Z")
    answers: list[list[datetime | None]] = []

    def ask() -> None:
        answers.append([cron.next_fire(start + timedelta(days=n), BERLIN) for n in range(400)])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)


def test_fifty_years_are_counted_to_the_minute() -> None:
    start, end = at("2026-01-01T00:00Z"), at("2076-01-01T00:00Z")
    minutes = (end - start) // timedelta(minutes=1)
    assert parse_cron("* * * * *").count(start, end, BERLIN) == minutes
    assert parse_cron("0-59 * * * *").count(start, end, BERLIN) == minutes
    assert parse_cron("30 2 * * *").count(start, end, BERLIN) == (end - start).days
    assert parse_cron("30 2 * * *").count(end, start, BERLIN) == 0


# --- The ends of the calendar ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_nothing_fires_past_the_calendar(name: str) -> None:
    zone, cron = zone_info(name), parse_cron("* * * * *")
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert cron.next_fire(last, zone) is None
    assert cron.previous_fire(first, zone) is None
    assert cron.next_fire(first, zone) is not None
    assert cron.previous_fire(last, zone) is not None
    assert parse_cron("0 0 29 2 */7").next_fire(at("9990-01-01T00:00Z"), zone) is None

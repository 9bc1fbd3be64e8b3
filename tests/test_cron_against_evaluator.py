"""CronExpression against a plain evaluator: slow, minute by minute, written from the rules alone.

It walks UTC, reads the wall clock of each minute with zoneinfo, decides by set membership, and
learns of gaps and folds from the jumps it sees. It shares no code with the package but the zones.
"""

import random
import time
from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from importlib.resources import files

import pytest

from sqlsched.cron import parse_cron
from sqlsched.exceptions import InvalidScheduleError
from sqlsched.timezones import zone_info

MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIRST, LAST = datetime(1973, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)

Wall = tuple[datetime, datetime, timedelta]
"""A minute of UTC, the naive local time it shows, and the offset."""


# --- The evaluator -----------------------------------------------------------------------------


def numbers(item: str, low: int, high: int, names: list[str]) -> set[int]:
    base, _, step = item.partition("/")

    def number(word: str) -> int:
        return names.index(word) + low if word in names else int(word)

    if base == "*":
        first, last = low, high
    elif "-" in base:
        first, last = (number(word) for word in base.split("-"))
        if base.endswith("-sun") and first > 0:
            last = 7
    else:
        first = number(base)
        last = high if step else first
    return {value for value in range(first, last + 1) if (value - first) % int(step or 1) == 0}


def plain(text: str, low: int, high: int, names: list[str] | None = None) -> set[int]:
    return set().union(*(numbers(item, low, high, names or []) for item in text.split(",")))


def weekday(day: date) -> int:
    return day.isoweekday() % 7


def month_of(day: date) -> list[date]:
    return [day.replace(day=n + 1) for n in range(monthrange(day.year, day.month)[1])]


def day_of_month_matches(item: str, day: date) -> bool:
    working = [other for other in month_of(day) if weekday(other) in range(1, 6)]
    if item in "*?":
        return True
    if item == "l":
        return day == month_of(day)[-1]
    if item == "lw":
        return day == working[-1]
    if item.endswith("w"):
        wanted = int(item[:-1])
        exists = wanted <= len(month_of(day))
        return exists and day == min(working, key=lambda other: abs(other.day - wanted))
    return day.day in numbers(item, 1, 31, [])


def day_of_week_matches(item: str, day: date) -> bool:
    same = [other for other in month_of(day) if weekday(other) == weekday(day)]
    if item in "*?":
        return True
    if "#" in item:
        word, nth = item.split("#")
        return weekday(day) in {n % 7 for n in numbers(word, 0, 6, WEEKDAYS)} and (
            same.index(day) == int(nth) - 1
        )
    if item.startswith("l") or item.endswith("l"):
        word = item.removeprefix("l").removesuffix("l")
        return day == same[-1] and weekday(day) in {n % 7 for n in numbers(word, 0, 6, WEEKDAYS)}
    return weekday(day) in {n % 7 for n in numbers(item, 0, 6, WEEKDAYS)}


def matcher(expression: str) -> Callable[[datetime], bool]:
    minute, hour, dom, month, dow = expression.lower().split()
    minutes, hours, months = plain(minute, 0, 59), plain(hour, 0, 23), plain(month, 1, 12, MONTHS)
    combine = all if dom[0] in "*?" or dow[0] in "*?" else any

    @cache
    def day_matches(day: date) -> bool:
        return day.month in months and combine(
            [
                any(day_of_month_matches(item, day) for item in dom.split(",")),
                any(day_of_week_matches(item, day) for item in dow.split(",")),
            ]
        )

    return lambda at: at.minute in minutes and at.hour in hours and day_matches(at.date())


def walk(zone: tzinfo, start: datetime, end: datetime) -> list[Wall]:
    found = []
    while start < end:
        local = start.astimezone(zone)
        naive = local.replace(tzinfo=None)
        found.append((start, naive, naive - start.replace(tzinfo=None)))
        start += MINUTE
    return found


def firings(expression: str, walls: list[Wall]) -> list[datetime]:
    minute, hour, *_ = expression.split()
    wildcard = minute[0] == "*" or hour[0] == "*"
    matches = matcher(expression)
    found = []
    seen_until = datetime.min  # noqa: DTZ901 - a wall clock
    before = walls[0][2]
    for instant, wall, offset in walls:
        fires = matches(wall)
        if not wildcard:
            fires = fires and wall >= seen_until
            skipped = wall - (offset - before)
            while skipped < wall:
                fires = fires or matches(skipped)
                skipped += MINUTE
            if offset < before:
                seen_until = wall + (before - offset)
                fires = False
        if fires:
            found.append(instant)
        before = offset
    return found


# --- Random cases ------------------------------------------------------------------------------


def random_item(rng: random.Random, low: int, high: int, names: list[str]) -> str:
    first, last = sorted(rng.choices(range(low, high + 1), k=2))

    def word(number: int) -> str:
        if names and number - low < len(names) and rng.random() < 0.4:
            return rng.choice([str.lower, str.upper])(names[number - low])
        return str(number)

    step = rng.choice([1, 2, 3, 5, 7, 10, 15, 45, 59, 60, 9999])
    return rng.choice(
        [
            "*",
            word(first),
            word(last),
            f"{first}-{word(last)}",
            f"*/{step}",
            f"{first}-{last}/{step}",
            f"{word(min(first, high - 1))}/{step}",
        ]
    )


def random_field(rng: random.Random, low: int, high: int, names: list[str], stars: float) -> str:
    if rng.random() < stars:
        return "*"
    items = [random_item(rng, low, high, names) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return ",".join(items)


def random_expression(rng: random.Random) -> str:
    dom = random_field(rng, 1, 31, [], 0.55)
    dow = random_field(rng, 0, 7, WEEKDAYS, 0.55)
    if rng.random() < 0.15:
        dom = rng.choice(["?", "L", "LW", "l,5", f"{rng.randint(1, 31)}W", "1W,15w,*/9", "*/8,LW"])
    if rng.random() < 0.15:
        day = rng.choice([*WEEKDAYS, *map(str, range(8))])
        dow = rng.choice(["?", f"{day}#{rng.randint(1, 5)}", f"{day}L", f"L{day}", f"{day}#2,fri"])
    fields = [
        random_field(rng, 0, 59, [], 0.15),
        random_field(rng, 0, 23, [], 0.35) if rng.random() < 0.6 else rng.choice(NIGHT_HOURS),
        dom,
        random_field(rng, 1, 12, MONTHS, 0.8),
        dow,
    ]
    return " ".join(fields)


NIGHT_HOURS = ["0", "1", "2", "3", "0-3", "1,2", "*/2", "2-3", "23,0-4/2", "*"]


def changes(zone: tzinfo) -> list[datetime]:
    """Days around the clock changes of a zone, by looking at its offset every six days."""
    days = range(0, (LAST - FIRST).days, 6)
    offsets = [(FIRST + timedelta(days=n)).astimezone(zone).utcoffset() for n in days]
    pairs = zip(days, offsets, offsets[1:], strict=False)
    return [exact_change(zone, FIRST + timedelta(days=n)) for n, a, b in pairs if a != b]


def exact_change(zone: tzinfo, start: datetime) -> datetime:
    before = start.astimezone(zone).utcoffset()
    minutes = range(6 * 1440)
    index = bisect_left(
        minutes, True, key=lambda n: (start + n * MINUTE).astimezone(zone).utcoffset() != before
    )
    return start + index * MINUTE


def random_window(rng: random.Random, at: datetime | None) -> tuple[datetime, datetime]:
    days = 40 if rng.random() < 0.01 else 3
    if at is None:
        at = FIRST + timedelta(minutes=rng.randrange((LAST - FIRST) // MINUTE))
    start = at - timedelta(minutes=rng.randrange(60, 2880))
    return start, start + timedelta(days=days)


def instants(
    rng: random.Random, start: datetime, end: datetime, found: list[datetime]
) -> list[datetime]:
    inside = timedelta(seconds=rng.randrange(int((end - start).total_seconds())))
    chosen = [start + inside, start + inside + timedelta(microseconds=rng.randrange(10**6))]
    for firing in rng.sample(found, min(3, len(found))):
        chosen += [firing + n * MICROSECOND for n in (-1, 0, 1)]
    return [at for at in chosen if start <= at < end]


def compare(rng: random.Random, expression: str, zone: tzinfo, walls: list[Wall]) -> int:
    """Compare one expression over a window whose first 26 hours only set the stage."""
    start, end = walls[26 * 60][0], walls[-1][0] + MINUTE
    found = [at for at in firings(expression, walls) if at >= start]
    cron = parse_cron(expression)
    chosen = instants(rng, start, end, found)
    for at in chosen:
        case = f"{expression!r} in {zone} at {at}"
        following, preceding = bisect_right(found, at), bisect_left(found, at)
        after, before = cron.next_fire(at, zone), cron.previous_fire(at, zone)
        if following < len(found):
            assert after == found[following], case
        else:
            assert after is None or after >= end, case
        if preceding:
            assert before == found[preceding - 1], case
        else:
            assert before is None or before < start, case
        assert cron.count(at, end - MICROSECOND, zone) == len(found) - following, case
        assert cron.count(start - MICROSECOND, at, zone) == following, case
    return 4 * len(chosen)


def compare_zone(rng: random.Random, name: str, windows: int, expressions: int) -> int:
    zone = zone_info(name)
    around: list[datetime | None] = list(changes(zone))
    cases = 0
    for _ in range(windows):
        at = rng.choice(around) if around and rng.random() < 0.8 else None
        start, end = random_window(rng, at)
        walls = walk(zone, start - timedelta(hours=26), end)
        for _ in range(expressions):
            cases += compare(rng, satisfiable(rng), zone, walls)
    return cases


def satisfiable(rng: random.Random) -> str:
    while True:
        expression = random_expression(rng)
        if not never_fires(expression):
            return expression


def never_fires(expression: str) -> bool:
    try:
        parse_cron(expression)
    except InvalidScheduleError as error:
        if "never fires" in str(error):
            return True
        raise
    return False


def zone_names() -> list[str]:
    return files("tzdata").joinpath("zones").read_text().split()


# --- The tests ---------------------------------------------------------------------------------

KNOWN = ["Europe/Berlin", "Australia/Lord_Howe", "Antarctica/Troll", "Pacific/Apia", "Africa/Cairo"]


@pytest.mark.parametrize("seed", range(24))
def test_every_answer_is_that_of_the_plain_evaluator(seed: int) -> None:
    rng = random.Random(seed)
    name = KNOWN[seed] if seed < len(KNOWN) else rng.choice(zone_names())
    assert compare_zone(rng, name, windows=2, expressions=3) > 0


def test_a_skipped_day_is_made_up_for_once() -> None:
    zone, rng = zone_info("Pacific/Apia"), random.Random(1)
    start = datetime(2011, 12, 28, tzinfo=UTC)
    walls = walk(zone, start, start + timedelta(days=4))
    for expression in [
        "0 1 * * *",
        "*/10 1 30 12 *",
        "0 * * * *",
        "0-59 0-23 * * 5",
        "59 23 30 * *",
    ]:
        assert compare(rng, expression, zone, walls) > 0


@pytest.mark.long
def test_100_000_answers_over_all_zones_are_those_of_the_plain_evaluator() -> None:
    rng = random.Random(20261123)
    started = time.monotonic()  # the length of the run is part of what it reports
    cases = 0
    while cases < 100_000:
        for name in zone_names():
            cases += compare_zone(rng, name, windows=2, expressions=6)
    print(f"{cases} answers, {time.monotonic() - started:.0f} s, no mismatch")

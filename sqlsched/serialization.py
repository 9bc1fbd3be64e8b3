"""Strict JSON: what goes into the database is what comes out, and any JSON reader agrees on it.

Refused, with the place named: NaN and Infinity, duplicate keys, integers beyond 64 bits, lone
surrogates, keys that are not strings, anything that JSON has no word for, nesting beyond 64.
An error names the place and not the value, which may be a secret and would come into the log.
"""

import json
from collections import Counter
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from sqlsched.exceptions import InvalidScheduleError

MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1

_ARRAYS = (list, tuple)
_NESTED = (list, tuple, dict)


def dumps(value: Any) -> str:
    """Write a checked value in one canonical form: sorted keys, no spaces, text as it is."""
    return _ENCODER.encode(value)


def loads(text: str, what: str) -> Any:
    """Read JSON strictly; `what` names the value in an error ("--args")."""
    return checked(parse(text, what), what)


def parse(text: str, what: str) -> Any:
    """Read JSON whose values are still to be `checked`: it may have text that is not Unicode,
    and numbers or a depth out of range."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise InvalidScheduleError(f"{what} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidScheduleError(f"{what} is not valid JSON: {error}") from None


def checked(value: Any, what: str) -> Any:
    """Return a deep copy of `value` that is plain JSON, or raise InvalidScheduleError."""
    return _checked(value, what, 0)


def checked_array(value: Any, what: str) -> list[Any]:
    """The same of what must be an array."""
    if isinstance(value, _ARRAYS):
        return [_checked(item, what, 1) for item in value]
    raise InvalidScheduleError(f"{what} is {kind(value)}: give a JSON array, like [1, 2]")


def checked_object(value: Any, what: str) -> dict[str, Any]:
    """The same of what must be an object."""
    if isinstance(value, dict):
        return {_key(k, what): _checked(item, what, 1) for k, item in value.items()}
    raise InvalidScheduleError(f'{what} is {kind(value)}: give a JSON object, like {{"a": 1}}')


def checked_text(value: Any, what: str) -> str:
    """The same of what must be text."""
    if isinstance(value, str):
        return _checked_text(value, what)
    raise InvalidScheduleError(f"{what} is {kind(value)}: give text")


def as_json(value: Any, what: str) -> Any:
    """A deep copy as plain JSON, with dataclasses and pydantic models as objects.

    Raises InvalidScheduleError, which names `what`, for anything that JSON has no word for.
    """
    try:
        return checked(_plain(value), what)
    except RecursionError:
        raise InvalidScheduleError(f"{what} is nested deeper than {MAX_DEPTH} levels") from None


def kind(value: object) -> str:
    """Say what a value is where it must not be shown: "an array", "a set"."""
    return _KINDS.get(type(value)) or f"a {type(value).__name__}"


def shorten(value: object, limit: int = 60) -> str:
    """Quote a value for an error message: one line, printable, of bounded length."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        return value
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if is_dataclass(value):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    return value


def _checked(value: Any, what: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _checked_text(value, what)
    if isinstance(value, int):
        if -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
            return int(value)
        raise InvalidScheduleError(f"{what} has an integer outside 64 bits")
    if isinstance(value, float):
        if value - value == 0:
            return float(value)
        raise InvalidScheduleError(f"{what} has {value}, which JSON does not know")
    return _checked_nested(value, what, depth)


def _checked_nested(value: Any, what: str, depth: int) -> Any:
    if depth == MAX_DEPTH and isinstance(value, _NESTED):
        raise InvalidScheduleError(f"{what} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, _ARRAYS):
        return [_checked(item, what, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_key(k, what): _checked(item, what, depth + 1) for k, item in value.items()}
    raise InvalidScheduleError(
        f"{what} has {kind(value)}; JSON has text, numbers, true, false, null, arrays and objects"
    )


def _key(key: Any, what: str) -> str:
    if isinstance(key, str):
        return _checked_text(key, what)
    raise InvalidScheduleError(f"{what} has the key {shorten(key)}; keys are text")


def _checked_text(text: str, what: str) -> str:
    if text.isascii():
        return str(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidScheduleError(f"{what} has text that is not Unicode") from None
    return str(text)


_KINDS: dict[type, str] = {
    **dict.fromkeys((list, tuple), "an array"),
    dict: "an object",
    str: "text",
    bool: "true or false",
    **dict.fromkeys((int, float), "a number"),
    type(None): "null",
}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shorten(twice)} stands twice")
    return result


def _int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"an integer of {len(digits)} digits does not fit in 64 bits")
    return int(digits)


# Made once: json.loads and json.dumps make theirs anew for each value that is not read plainly.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,  # a checked value is a tree
    allow_nan=False,
    separators=(",", ":"),
    sort_keys=True,
)
_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, object_pairs_hook=_unique_keys, parse_int=_int
)

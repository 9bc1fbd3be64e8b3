"""TOML, written: `tomllib` reads back exactly what was given, which must be plain JSON or a time.

The standard library reads TOML and writes none. JSON's null has no word in TOML.
"""

import re
from datetime import datetime
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPES = dict(zip('"\\\b\t\n\f\r', '"\\btnfr', strict=True))
"""Characters that have a short escape, and the letter of it."""


def toml_value(value: Any) -> str:
    """Write a value, in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return toml_text(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    raise TypeError(f"TOML has no word for a {type(value).__name__}: {value!r}")


def toml_key(name: str) -> str:
    """Write a key, bare where that is allowed."""
    return name if _BARE_KEY.fullmatch(name) else toml_text(name)


def toml_text(text: str) -> str:
    """Write a string: in single quotes where that says it as it is, else with escapes."""
    if not text.isprintable():
        text = "".join(map(_escaped, text))
    elif "'" not in text and ('"' in text or "\\" in text):
        return f"'{text}'"
    else:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def has_null(value: Any) -> bool:
    """Whether there is a null in it, so that TOML cannot say it."""
    if isinstance(value, list):
        return any(map(has_null, value))
    if isinstance(value, dict):
        return any(map(has_null, value.values()))
    return value is None


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return f"\\{_ESCAPES[character]}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

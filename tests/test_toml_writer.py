"""What is written as TOML is read back by `tomllib` as exactly what it was."""

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sqlsched.toml_writer import has_null, toml_key, toml_text, toml_value

scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.datetimes(min_value=datetime(1970, 1, 1)).map(  # noqa: DTZ001
        lambda moment: moment.replace(tzinfo=UTC, fold=0)
    ),
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner))
)


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types: to Python 1, 1.0 and True are equal."""
    return one == other and repr(one) == repr(other)


@settings(max_examples=60, deadline=None)
@given(st.text(), values)
@example("", "")
@example("a.b", "it's \\ and \"")
@example("a", [1e16, -0.0, 5e-324, 1e-7, 2.0])
@example("\x7f\x85\u2028", {"'": "'''", '"': '"""', "\0": "\r\n\t\x1b"})
def test_a_value_comes_back_as_it_was(key: str, value: Any) -> None:
    line = f"{toml_key(key)} = {toml_value(value)}"
    assert alike(tomllib.loads(line), {key: value})


@settings(max_examples=60, deadline=None)
@given(st.text(), values)
def test_it_is_one_line_that_steers_no_terminal(key: str, value: Any) -> None:
    assert f"{toml_key(key)} = {toml_value(value)}".isprintable()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", '"plain"'),
        ("it's", '"it\'s"'),
        ('say "hi"', "'say \"hi\"'"),
        ("a\\b", "'a\\b'"),
        ("it's \\", '"it\'s \\\\"'),
        ('"\n"', '"\\"\\n\\""'),
        ("☃", '"☃"'),
        ("\U000e0001", '"\\U000e0001"'),
    ],
)
def test_text_is_written_as_people_would(text: str, written: str) -> None:
    assert toml_text(text) == written


def test_what_toml_cannot_say_is_found() -> None:
    assert has_null({"a": [{"b": None}]})
    assert not has_null({"a": [{"b": ["", 0, False, {}]}]})
    with pytest.raises(TypeError, match="NoneType"):
        toml_value([None])

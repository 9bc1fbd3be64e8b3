"""Each key of a TOML file is found in its line, in whatever form it is written."""

import tomllib
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlsched.toml_lines import Lines, Path
from sqlsched.toml_writer import toml_key

FORMS = dedent(
    """\
    # schedules.decoy = 1
    [schedules.a]
    cron = "x"  # cron = 2
    "quoted key" . 'b.c'.d = [  # an array
        1, ["]", '}'], # ]
        {x = 1, "y" = {z = 2}},
    ]
    text = \"\"\"
    [schedules.decoy]
    cron = "\\\\" ""\\"
    \"\"\"\"\"
    raw = '''
    [no]'''''
    [ schedules . "b.c" ]
    time = 2030-01-01 00:00:00
    kwargs = {a = "}", b = [], c = {}}
    [schedules]
    c = {task = "m:f", interval = 5}
    d.task = "m:f"
    d.interval = 7
    [[tables]]
    one = 1
    [[tables]]
    one = 2
    [e.f.g]
    [e]
    """
)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("schedules", "a"), 2),
        (("schedules", "a", "cron"), 3),
        (("schedules", "a", "quoted key"), 4),
        (("schedules", "a", "quoted key", "b.c", "d"), 4),
        (("schedules", "a", "quoted key", "b.c", "d", "x"), 6),
        (("schedules", "a", "quoted key", "b.c", "d", "y", "z"), 6),
        (("schedules", "a", "text"), 8),
        (("schedules", "a", "raw"), 12),
        (("schedules", "b.c"), 14),
        (("schedules", "b.c", "time"), 15),
        (("schedules", "b.c", "kwargs", "c"), 16),
        (("schedules",), 17),
        (("schedules", "c", "interval"), 18),
        (("schedules", "d"), 19),
        (("schedules", "d", "interval"), 20),
        (("tables", "one"), 22),
        (("e", "f"), 25),
        (("e", "f", "g"), 25),
        (("e",), 26),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_of_a_key_is_found(path: Path, line: int, end: str) -> None:
    text = FORMS.replace("\n", end)
    assert tomllib.loads(text)
    assert Lines(text).of(*path) == line


def test_what_is_not_there_is_where_it_would_be() -> None:
    lines = Lines(FORMS)
    assert lines.of("schedules", "a", "kwargs", "x") == 2
    assert lines.of("schedules", "decoy") == 17
    assert lines.of("nothing") == lines.of() == Lines("").of("x") == 1


def test_nesting_as_deep_as_tomllib_reads_it_is_no_trouble() -> None:
    depth = 200
    text = f"a = {'[' * depth}{{b = 1}}{']' * depth}\nc = 1"
    assert tomllib.loads(text)
    assert Lines(text).of("c") == 2


# -- whole files, made of parts whose lines are known ----------------------------------------------

names = st.one_of(st.sampled_from(["a", "b-c", "1", "x.y", "", "\n", 'q"', "'", "ü"]), st.text())
VALUES = [
    '"x"',
    "1",
    "1979-05-27T07:32:00Z",
    "[]",
    "[ # ]\n  'a',\n\n  { k = '#' }, # {\n]",
    '"""\nk = 1\n[t]\n\\""\\" ""\\\n  """',
    "'''\n[t]\nk = \\'''''",
    '{ k = "}", l = [ 1,\n 2 ] }',
]
gaps = st.sampled_from(["", "\n", "# k = 1\n", "  \t# [t]\n\n"])
entries = st.tuples(gaps, names, st.sampled_from(VALUES))
tables = st.tuples(gaps, names, st.lists(entries, max_size=4, unique_by=lambda entry: entry[1]))


@given(st.lists(tables, max_size=5, unique_by=lambda table: table[1]), st.booleans())
def test_in_any_file_every_table_and_key_is_found(
    content: list[tuple[str, str, list[tuple[str, str, str]]]], dotted: bool
) -> None:
    text, expected = "", dict[Path, int]()

    def at() -> int:
        return text.count("\n") + 1

    for before, name, keys in content:
        text += before
        if not dotted:
            expected["t", name] = at()
            text += f"[ t.{toml_key(name)} ]\n"
        for gap, key, value in keys:
            text += gap
            expected.setdefault(("t", name), at())
            expected["t", name, key] = at()
            text += f"t . {toml_key(name)} ." if dotted else ""
            text += f"{toml_key(key)} = {value}\n"
    assert tomllib.loads(text) is not None
    lines = Lines(text)
    assert {path: lines.of(*path) for path in expected} == expected

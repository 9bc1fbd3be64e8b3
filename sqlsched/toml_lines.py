"""In which line of a TOML file a key stands: `tomllib` tells of values, and not of places.

The text is one that `tomllib` has read; of any other the answers are of no use.
"""

import re
import tomllib

Path = tuple[str, ...]
"""The keys that lead to a value, from the outermost on."""

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BLANK_OR_COMMA = re.compile(r"(?:[ \t\n,]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_BARE = re.compile(r"[^\s=.\]\"'#,{}\[]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")


class Lines:
    """The line of every key and table in a text, from 1."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._counted = (0, 1)
        self._defined: dict[Path, int] = {}
        self._mentioned: dict[Path, int] = {}
        self._read()

    def of(self, *path: str) -> int:
        """The line of a key or table; of what contains it, if it is not there by itself."""
        while path:
            found = self._defined.get(path) or self._mentioned.get(path)
            if found is not None:
                return found
            path = path[:-1]
        return 1

    def _read(self) -> None:
        table: Path = ()
        while self._skip(_BLANK):
            if self._text[self._at] == "[":
                self._at += 2 if self._text.startswith("[[", self._at) else 1
                table = self._key(())
                self._at = self._text.index("]", self._at)
                self._at += 2 if self._text.startswith("]]", self._at) else 1
            else:
                path = self._key(table)
                self._skip(_EQUALS)
                self._value(path)

    def _value(self, path: Path) -> None:
        """Go past a value, and note the keys within it."""
        enclosing: list[tuple[Path, bool]] = []  # the arrays and inline tables (True) around here
        while True:
            opening = self._text[self._at]
            if opening in "[{":
                self._at += 1
                enclosing.append((path, opening == "{"))
            else:
                self._skip(_STRING if opening in "\"'" else _SCALAR)
            while enclosing:
                self._skip(_BLANK_OR_COMMA)
                if self._text[self._at] not in "]}":
                    break
                self._at += 1
                enclosing.pop()
            if not enclosing:
                return
            path, is_table = enclosing[-1]
            if is_table:
                path = self._key(path)
                self._skip(_EQUALS)

    def _key(self, within: Path) -> Path:
        """Go past a key, dotted or not, and note its line."""
        line = self._line()
        path = (*within, self._part())
        while dot := _DOT.match(self._text, self._at):
            self._at = dot.end()
            self._mentioned.setdefault(path, line)
            path = (*path, self._part())
        self._defined.setdefault(path, line)
        return path

    def _part(self) -> str:
        self._skip(_BLANK)
        quoted = _STRING.match(self._text, self._at)
        found = quoted or _BARE.match(self._text, self._at)
        assert found is not None  # tomllib has read it
        self._at = found.end()
        text = found[0]
        if not quoted:
            return text
        return text[1:-1] if text[0] == "'" else str(tomllib.loads(f"key = {text}")["key"])

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Go past what matches; False at the end of the text."""
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at < len(self._text)

    def _line(self) -> int:
        """The line of this place; asked for in order, it costs one look at the text in all."""
        before, line = self._counted
        line += self._text.count("\n", before, self._at)
        self._counted = (self._at, line)
        return line

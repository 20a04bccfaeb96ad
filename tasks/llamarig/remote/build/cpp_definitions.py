"""Finds the top-level definitions of a C++ source text: their names, their text, and the `#if`s they are under.

Not a parser of C++: it knows enough of the grammar for the style of ggml. A definition that it cannot identify gets no
name and is not extracted. Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)"""
    r"""|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+')"""
    r"""|(?P<word>[A-Za-z_0-9][\w.']*)"""
    r"""|(?P<mark>.)""",
    re.DOTALL | re.VERBOSE,
)
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(\w*)(?:[^\n\\]|\\\n|\\.)*")
_TYPE = re.compile(r"(?:typedef\s+)?(?:struct|class|enum(?:\s+(?:class|struct))?|union)\s+(\w+)[^;{(=]*\{")
_ALIAS = re.compile(r"using\s+(\w+)\s*=")
_FUNCTION_POINTER = re.compile(r"typedef\b[^;]*\(\s*\*\s*(\w+)\s*\)")
_TYPEDEF = re.compile(r"typedef\b.*?(\w+)\s*;\s*$", re.DOTALL)
_CALLABLE = re.compile(r"((?:\w+::)*~?\w+)\s*\(")
_VARIABLE = re.compile(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?:=|\{|;)")
_TEMPLATE = re.compile(r"template\s*<")
_BODY_WORDS = ("struct", "class", "enum", "union", "typedef", "namespace", "using")


@dataclass(frozen=True)
class Definition:
    """A definition; ``guards`` are the preprocessor directives it is under, outermost first.

    ``declared``: the text only declares a function that is defined elsewhere.
    """

    name: str
    text: str
    guards: tuple[str, ...] = ()
    declared: bool = False

    @property
    def words(self) -> frozenset[str]:
        """Identifiers in the text, without comments and string literals."""
        return frozenset(words_of(self.text))

    @property
    def guarded(self) -> str:
        """The text under its directives."""
        return "\n".join([*self.guards, self.text, *("#endif" for guard in self.guards if guard.startswith("#if"))])


def words_of(text: str) -> Iterator[str]:
    """Identifiers in a text, without comments and string literals."""
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "word":
            yield token.group()


def definitions(source: str) -> list[Definition]:
    """All top-level definitions of a source text, in order."""
    return list(_Scanner(source).scan())


class _Scanner:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._guards: list[str] = []

    def scan(self) -> Iterator[Definition]:
        while self._at < len(self._source):
            if directive := self._directive():
                if directive[0] == "define":
                    macro = re.match(r"\s*#\s*define\s+(\w+)", directive[1])
                    if macro:
                        yield Definition(macro[1], directive[1].strip(), tuple(self._guards))
                else:
                    self._guard(*directive)
                continue
            token = _TOKEN.match(self._source, self._at)
            if token is None or token.lastgroup == "space":
                self._at = self._at + 1 if token is None else self._line_end(token)
                continue
            guards = tuple(self._guards)
            text = self._declaration()
            name, declared = _name_of(text)
            if name:
                yield Definition(name, text, guards, declared)

    def _line_end(self, token: re.Match[str]) -> int:
        """End of white space, or the start of its last line, as a directive begins at the start of a line."""
        text = token.group()
        if "\n" in text and not text.startswith("/"):
            last = token.start() + text.rindex("\n") + 1
            return last if last > self._at else token.end()
        return token.end()

    def _directive(self) -> tuple[str, str] | None:
        if self._at and self._source[self._at - 1] != "\n":
            return None
        match = _DIRECTIVE.match(self._source, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[1], match.group()

    def _guard(self, kind: str, text: str) -> None:
        if kind in ("if", "ifdef", "ifndef", "elif", "else"):
            self._guards.append(text.strip())
        elif kind == "endif":
            while self._guards and not self._guards.pop().startswith("#if"):
                pass

    def _declaration(self) -> str:
        """Text of the declaration that begins here: up to its semicolon, or the brace that closes a function's body."""
        begin, depth = self._at, 0
        branches: list[int] = []
        while self._at < len(self._source):
            if directive := self._directive():
                # The branches of an #if are alternatives: only one of them counts towards the braces.
                if directive[0] in ("if", "ifdef", "ifndef"):
                    branches.append(depth)
                elif directive[0] in ("elif", "else") and branches:
                    depth = branches[-1]
                elif directive[0] == "endif" and branches:
                    branches.pop()
                continue
            token = _TOKEN.match(self._source, self._at)
            assert token is not None
            self._at = self._line_end(token) if token.lastgroup == "space" else token.end()
            mark = token.group() if token.lastgroup == "mark" else ""
            if mark in ("(", "{", "["):
                depth += 1
            elif mark in (")", "}", "]"):
                depth -= 1
                if mark == "}" and depth <= 0 and self._ends_here(begin):
                    break
            elif mark == ";" and depth <= 0:
                break
        return self._source[begin : self._at]

    def _ends_here(self, begin: int) -> bool:
        """Whether a closing brace at top level ends the declaration: of a function it does, of a type a `;` follows."""
        head = _without_template(self._source[begin : self._at])
        before_body = head.split("{", 1)[0]
        if head.startswith(_BODY_WORDS) and "(" not in before_body:
            return head.startswith("namespace")
        return "=" not in before_body.split("(")[0]


def _without_template(text: str) -> str:
    while match := _TEMPLATE.match(text):
        depth, at = 1, match.end()
        while depth and at < len(text):
            depth += {"<": 1, ">": -1}.get(text[at], 0)
            at += 1
        text = text[at:].lstrip()
    return text


def _name_of(text: str) -> tuple[str, bool]:
    """Name of a declaration, empty if unknown, and whether it only declares a function that is defined elsewhere."""
    head = _without_template(text)
    for pattern in (_TYPE, _ALIAS, _FUNCTION_POINTER, _TYPEDEF):
        if match := pattern.match(head):
            return match[1], False
    if head.startswith(("struct", "class", "union", "enum")) and re.fullmatch(r"\w+\s+\w+\s*;", head):
        return "", False  # a forward declaration of a type
    before_value = re.split(r"[={]", head, maxsplit=1)[0]
    if match := _CALLABLE.search(re.sub(r"__\w+__\s*\([^()]*(?:\([^()]*\)[^()]*)*\)", "", before_value)):
        return match[1], text.endswith(";")
    if match := _VARIABLE.search(head):
        return match[1], head.startswith("extern")
    return "", False

"""Finds the top-level definitions of a C++ source text: their names, their text, and the `#if`s they are under.

Not a parser of C++: it relies on the style of ggml, in which a definition begins in the first column, and ends with its
first balanced line or with a brace in the first column. A definition that it cannot identify gets no name and is not
extracted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+')|//[^\n]*|/\*.*?\*/""", re.DOTALL)
_LITERAL = re.compile(r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""")
_LINE = re.compile(r"(?:[^\n\\]|\\[\s\S])*\n|(?:[^\n\\]|\\[\s\S])+")
"""A line, with those that a backslash continues it on."""
_WORD = re.compile(r"[A-Za-z_0-9][\w.']*")
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(\w*)(?:[ \t]+(\w+))?")
_TEMPLATE = re.compile(r"template\s*<(?:[^<>]|<[^<>]*>)*>\s*")
_TYPE = re.compile(r"(?:typedef\s+)?(?:struct|class|enum(?:\s+(?:class|struct))?|union)\s+(\w+)[^;{(=]*\{")
_ALIAS = re.compile(r"using\s+(\w+)\s*=")
_FUNCTION_POINTER = re.compile(r"typedef\b[^;]*\(\s*\*\s*(\w+)\s*\)")
_TYPEDEF = re.compile(r"typedef\b.*?(\w+)\s*;\s*$", re.DOTALL)
_FORWARD = re.compile(r"(?:struct|class|union|enum)\s+\w+\s*;\s*$")
_ATTRIBUTE = re.compile(r"__\w+__\s*\([^()]*(?:\([^()]*\)[^()]*)*\)")
_CALLABLE = re.compile(r"((?:\w+::)*~?\w+)\s*\(")
_VARIABLE = re.compile(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?:=|\{|;)")


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
        """Identifiers in the text, without string literals."""
        return frozenset(_WORD.findall(_LITERAL.sub(" ", self.text)))

    @property
    def guarded(self) -> str:
        """The text under its directives."""
        return "\n".join([*self.guards, self.text, *("#endif" for guard in self.guards if guard.startswith("#if"))])


def definitions(source: str) -> list[Definition]:
    """All top-level definitions of a source text, in order, without comments."""
    found: list[Definition] = []
    guards: list[str] = []
    text, depth = "", 0
    for line in _LINE.findall(_COMMENT.sub(lambda match: match[1] or " ", source)):
        directive = _DIRECTIVE.match(line)
        if not text and directive:
            if directive[1] == "define":
                found.append(Definition(directive[2], line.strip(), tuple(guards)))
            elif directive[1] in ("if", "ifdef", "ifndef", "elif", "else"):
                guards.append(line.strip())
            elif directive[1] == "endif":
                while guards and not guards.pop().startswith("#if"):
                    pass
        elif text or line[0] not in " \t\n}":
            text += line
            if not directive:
                code = _LITERAL.sub("", line)
                depth += sum(code.count(mark) for mark in "({") - sum(code.count(mark) for mark in ")}")
            # The branches of an #if may open more braces than they close: the column tells the last one.
            if line.startswith("}") or (depth <= 0 and line.rstrip().endswith((";", "}"))):
                name, declared = _name_of(text.strip())
                if name:
                    found.append(Definition(name, text.strip(), tuple(guards), declared))
                text, depth = "", 0
    return found


def _name_of(text: str) -> tuple[str, bool]:
    """Name of a declaration, empty if unknown, and whether it only declares a function that is defined elsewhere."""
    head = _TEMPLATE.sub("", text)
    for pattern in (_TYPE, _ALIAS, _FUNCTION_POINTER, _TYPEDEF):
        if match := pattern.match(head):
            return match[1], False
    if _FORWARD.match(head):
        return "", False
    before_value = re.split(r"[={]", head, maxsplit=1)[0]
    if match := _CALLABLE.search(_ATTRIBUTE.sub("", before_value)):
        return match[1], text.endswith(";")
    if match := _VARIABLE.search(head):
        return match[1], head.startswith("extern")
    return "", False

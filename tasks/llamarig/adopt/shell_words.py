"""The commands of a shell script, with quotes, line continuations, and variables that the same script sets.

Nothing is run: what only the shell could know (`$(nproc)`, `$1`) stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_OPERATORS = (
    "&&",
    "||",
    ";;",
    "&>>",
    "&>",
    ">>",
    "<<<",
    "<<-",
    "<<",
    ">&",
    "<&",
    "\n",
    ";",
    "&",
    "|",
    "(",
    ")",
    ">",
    "<",
)
_REDIRECTIONS = frozenset({"&>>", "&>", ">>", "<<<", ">&", "<&", ">", "<"})
_LEADING = frozenset(
    {
        "if",
        "then",
        "elif",
        "else",
        "do",
        "while",
        "until",
        "!",
        "{",
        "}",
        "time",
        "fi",
        "done",
        "esac",
        "$",
        "#",
        "call",
    }
)
"""Words before a command that are not part of it; also the prompt of a pasted one."""
_DECLARING = frozenset({"export", "readonly", "local", "declare", "typeset"})
_PROMPT = re.compile(r"^(?:PS )?[A-Za-z]:\\[^>\n]*> ?|^>> ", re.MULTILINE)
"""What is pasted with a command: the directory before it, and the beginning of a line that continues it."""
_WINDOWS_PATH = re.compile(r"(?<![\w/])[A-Za-z]:\\[\w.]|\.\\\w")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[[@*]\])?(?:(:?[-=+?])(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command. ``assignments``: variables set for it alone; ``exported``: those that were exported before it;
    ``document``: the text of its here-document; ``unknown``: what only a shell could have replaced."""

    words: tuple[str, ...]
    line: int
    assignments: Mapping[str, str] = field(default_factory=dict)
    exported: Mapping[str, str] = field(default_factory=dict)
    document: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    text: str
    kind: Literal["text", "variable", "substitution"] = "text"
    quoted: bool = False


_Word = list[_Part]


@dataclass(frozen=True)
class _Token:
    """An operator, or a word."""

    line: int
    operator: str = ""
    word: tuple[_Part, ...] = ()
    document: str = ""


def shell_commands(script: str, variables: Mapping[str, str] | None = None) -> Iterator[Command]:
    """The commands of a script in their order, in every branch of an `if`, and once for a loop.

    :param variables: that are set and exported when the script begins
    """
    yield from _Script(dict(variables or {})).commands(_Reader(script).tokens())


def split_words(text: str, variables: Mapping[str, str] | None = None) -> list[str]:
    """The words of one command line."""
    return [word for command in shell_commands(text, variables) for word in command.words]


class _Reader:
    """Tokens of a script."""

    def __init__(self, script: str) -> None:
        self.text = _PROMPT.sub("", script.replace("\r\n", "\n"))
        # There a backslash is a part of a path.
        self.is_windows = _WINDOWS_PATH.search(script) is not None and "\\\n" not in self.text
        self.at = 0
        self.line = 1

    def tokens(self) -> Iterator[_Token]:
        while self.at < len(self.text):
            character = self.text[self.at]
            if self._continuation():
                continue
            if character in " \t":
                self.at += 1
            elif character == "#":
                self._skip_line()
            elif operator := next((one for one in _OPERATORS if self.text.startswith(one, self.at)), ""):
                line = self.line
                self._advance(len(operator))
                yield self._here_document(line, operator) if operator in ("<<", "<<-") else _Token(line, operator)
            else:
                line = self.line
                yield _Token(line, word=tuple(self._word()))

    def _advance(self, count: int) -> str:
        passed = self.text[self.at : self.at + count]
        self.at += count
        self.line += passed.count("\n")
        return passed

    def _continuation(self) -> bool:
        """Whether a line went on here; cmd.exe writes that as ^ and PowerShell as a backtick."""
        found = re.compile(r"[\\^`][ \t]*\n").match(self.text, self.at)
        if found:
            self._advance(len(found[0]))
        return found is not None

    def _skip_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _here_document(self, line: int, operator: str) -> _Token:
        while self.text[self.at : self.at + 1] in (" ", "\t"):
            self.at += 1
        ending = "".join(part.text for part in self._word())
        rest = self.text.find("\n", self.at)
        if rest < 0:
            return _Token(line, operator)
        end = re.compile(rf"^[ \t]*{re.escape(ending)}[ \t]*$", re.MULTILINE).search(self.text, rest + 1)
        body = self.text[rest + 1 : end.start() if end else len(self.text)]
        # What is left of this line is still part of the command.
        tail = self.text[self.at : rest]
        self.text = f"{self.text[: self.at]}{tail}{self.text[end.end() if end else len(self.text) :]}"
        return _Token(line, operator, document=body)

    def _word(self) -> _Word:
        parts: _Word = []
        while self.at < len(self.text):
            character = self.text[self.at]
            if self._continuation():
                break
            if character in " \t\n;&|<>()":
                break
            if character == "\\" and not self.is_windows:
                self._advance(1)
                parts.append(_Part(self._advance(1), quoted=True))
            elif character == "'":
                parts.append(_Part(self._until("'"), quoted=True))
            elif character == '"':
                parts += self._double_quoted()
            elif self.text.startswith("$'", self.at):
                self._advance(1)
                parts.append(_Part(self._c_string(), quoted=True))
            elif character in "$`":
                parts.append(self._substitution(quoted=False))
            else:
                parts.append(_Part(self._advance(1)))
        return parts

    def _until(self, quote: str) -> str:
        """Text up to the next quote, which is passed over, as the one before it is."""
        self._advance(1)
        end = self.text.find(quote, self.at)
        text = self._advance((len(self.text) if end < 0 else end) - self.at)
        self._advance(1)
        return text

    def _c_string(self) -> str:
        found = re.compile(r"'((?:[^'\\]|\\.)*)'?", re.DOTALL).match(self.text, self.at)
        assert found is not None  # it begins at a quote
        self._advance(len(found[0]))
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), found[1], flags=re.DOTALL)

    def _double_quoted(self) -> _Word:
        self._advance(1)
        parts: _Word = [_Part("", quoted=True)]
        while self.at < len(self.text) and self.text[self.at] != '"':
            character = self.text[self.at]
            if character == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`", "\n"):
                self._advance(1)
                escaped = self._advance(1)
                parts.append(_Part("" if escaped == "\n" else escaped, quoted=True))
            elif character in "$`":
                parts.append(self._substitution(quoted=True))
            else:
                parts.append(_Part(self._advance(1), quoted=True))
        self._advance(1)
        return parts

    def _substitution(self, *, quoted: bool) -> _Part:
        start = self.at
        if self.text[self.at] == "`":
            self._until("`")
            return _Part(self.text[start : self.at], "substitution", quoted)
        self._advance(1)
        following = self.text[self.at : self.at + 1]
        if following in ("(", "{"):
            self._nested(following, ")" if following == "(" else "}")
            text = self.text[start : self.at]
            return _Part(text, "substitution" if following == "(" else "variable", quoted)
        if found := _NAME.match(self.text, self.at):
            self._advance(len(found[0]))
            return _Part(f"${{{found[0]}}}", "variable", quoted)
        if following and following in "0123456789@*#?$!-":
            self._advance(1)
            return _Part(f"${following}", "substitution", quoted)
        return _Part("$", quoted=quoted)

    def _nested(self, opening: str, closing: str) -> None:
        depth = 0
        while self.at < len(self.text):
            character = self._advance(1)
            depth += (character == opening) - (character == closing)
            if character == "\\":
                self._advance(1)
            if not depth:
                return


class _Script:
    """The state of a script: its variables."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables: dict[str, list[str]] = {name: [value] for name, value in variables.items()}
        self.exported = set(variables)
        self.unknown: list[str] = []

    def commands(self, tokens: Iterator[_Token]) -> Iterator[Command]:
        pending: list[_Token] = []
        document = ""
        depth = 0
        for token in [*tokens, _Token(0, "\n")]:
            if token.document:
                document = token.document
            elif not token.operator or depth or (token.operator == "(" and _begins_array(pending)):
                depth += (token.operator == "(") - (token.operator == ")")
                pending.append(token)
            elif token.operator in _REDIRECTIONS:
                pending.append(token)
            else:
                yield from self._command(pending, document)
                pending, document = [], ""

    def _command(self, tokens: list[_Token], document: str) -> Iterator[Command]:
        words = _without_redirections(tokens)
        self.unknown = []
        while words and _plain(words[0]) in _LEADING:
            words = words[1:]
        if not words:
            return
        line = words[0].line
        declares = _plain(words[0]) in _DECLARING
        exports = _plain(words[0]) == "export"
        if declares:
            words = [word for word in words[1:] if not _plain(word).startswith("-")]
        assigned, words = self._assignments(words)
        if not words or declares:
            for name, (value, adds) in assigned.items():
                self.variables[name] = [*(self.variables.get(name, ()) if adds else ()), *value]
            names = [*assigned, *(_plain(word) for word in words)]
            if exports:
                self.exported.update(names)
            return
        expanded = [text for word in words for text in self._expanded(word.word)]
        alone = {name: " ".join(value) for name, (value, _) in assigned.items()}
        if expanded:
            exported = {name: " ".join(self.variables.get(name, [])) for name in sorted(self.exported)}
            yield Command(tuple(expanded), line, alone, exported, document, tuple(dict.fromkeys(self.unknown)))

    def _assignments(self, words: list[_Token]) -> tuple[dict[str, tuple[list[str], bool]], list[_Token]]:
        """The assignments at the beginning, each with whether it adds to the variable; and the words after them."""
        found: dict[str, tuple[list[str], bool]] = {}
        while words and (name := _ASSIGNMENT.match(_unquoted_start(words[0]))):
            parts = words[0].word[len(name[0]) :]  # each character is a part of its own
            if not parts and len(words) > 1 and words[1].operator == "(":
                end = next((at for at, word in enumerate(words) if word.operator == ")"), len(words))
                inside = [text for word in words[2:end] if not word.operator for text in self._expanded(word.word)]
                found[name[1]] = (inside, bool(name[2]))
                words = words[end + 1 :]
            else:
                value = "".join(self._expanded(tuple(_Part(one.text, one.kind, True) for one in parts)))
                earlier = "".join(self.variables.get(name[1], [])) if name[2] else ""
                found[name[1]] = ([earlier + value], False)
                words = words[1:]
        return found, [word for word in words if not word.operator]

    def _expanded(self, word: tuple[_Part, ...]) -> list[str]:
        """The words that a word becomes: none for an empty variable without quotes, several for a list."""
        fields: list[str] = []
        current: str | None = None
        if [part.text for part in word if part.text] in (["$@"], ["$*"]):
            self.unknown.append("$@")  # the script's own arguments
            return []
        for part in word:
            if part.kind != "variable":
                if part.kind == "substitution":
                    self.unknown.append(part.text)
                current = (current or "") + part.text
                continue
            values = self._value(part.text)
            if values is None:
                self.unknown.append(part.text)
                values = [part.text]
            elif not part.quoted:
                values = [piece for value in values for piece in value.split()]
            if not values:
                current = current if current is not None or not part.quoted else ""
                continue
            fields += [(current or "") + values[0], *values[1:]]
            current = fields.pop()
        return fields if current is None else [*fields, current]

    def _value(self, text: str) -> list[str] | None:
        """The value of ``${NAME...}``; None where the script does not set it."""
        found = _BRACED.fullmatch(text[2:-1])
        if found is None:
            return None
        name, whole, operator, alternative = found.groups()
        value = self.variables.get(name)
        if operator and "+" in operator:
            return [] if value is None else [self._plainly(alternative)]
        if value is None or (value == [""] and operator and operator.startswith(":")):
            return [self._plainly(alternative)] if operator and operator[-1] in "-=" else None
        return value if whole or len(value) < 2 else value[:1]

    def _plainly(self, text: str) -> str:
        tokens = [*_Reader(text.strip()).tokens()]
        return " ".join(word for token in tokens if token.word for word in self._expanded(token.word))


def _begins_array(pending: list[_Token]) -> bool:
    return bool(pending) and _ASSIGNMENT.fullmatch(_unquoted_start(pending[-1])) is not None


def _without_redirections(tokens: list[_Token]) -> list[_Token]:
    kept: list[_Token] = []
    skip = False
    for token in tokens:
        if token.operator in _REDIRECTIONS:
            if kept and _plain(kept[-1]).isdecimal():
                kept.pop()  # the number of the redirected stream
            skip = True
        elif skip and not token.operator:
            skip = False
        else:
            kept.append(token)
    return kept


def _plain(token: _Token) -> str:
    """A word without any quotes or variables; empty for another."""
    return "" if any(part.quoted or part.kind != "text" for part in token.word) else _unquoted_start(token)


def _unquoted_start(token: _Token) -> str:
    start = ""
    for part in token.word:
        if part.quoted or part.kind != "text":
            break
        start += part.text
    return start

"""Finds members of a JSON object that comes in pieces, in constant memory.

A request of 100 MB names its model anywhere in it, often last, and the front needs nothing else of it. A parser would
hold all of it, several times over. This one passes over what lies between quotes and braces with `bytes.find` and a
regular expression, both of which are C. It does not validate: what the front forwards, the model's server parses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

DEEPEST = 200
"""Nested arrays and objects. llama.cpp's JSON library recurses, and a chat request is some ten deep."""
LONGEST = 4096
"""Bytes of a name or value that is looked at; a longer name is not one of those that are wanted."""
_SPACE = b" \t\r\n"
_STOP = re.compile(rb'["{}\[\],:]')
_DEEPER_STOP = re.compile(rb'["{}\[\]]')
_BACKSLASH, _QUOTE = 0x5C, 0x22


class JsonError(ValueError):
    """Not a JSON object, as far as can be told; the message says why, in words for who sent it."""


class Members:
    """Feed it pieces with `feed`, then call `end`; ``found`` has name -> text of the value of each wanted member.

    Of a repeated member the last one counts, as llama.cpp's JSON library has it. The value of a wanted member that is
    an object or an array is not kept: its text in ``found`` is empty.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self.found: dict[str, bytes] = {}
        self.start = -1
        """Offset of the first byte behind the object's opening brace; -1 before it has come."""
        self.is_empty = True
        """Whether the object has no members."""
        self._wanted = frozenset(wanted)
        self._read = 0
        self._closers: list[int] = []
        self._in_string = self._is_escaped = False
        self._text = bytearray()
        """Of the name or scalar that is being read at the first level."""
        self._name = ""
        self._is_value = self._is_over = False

    def feed(self, piece: bytes) -> None:
        """Read the next piece.

        :raises JsonError: where it cannot be JSON
        """
        position = 0
        while position < len(piece):
            position = self._string(piece, position) if self._in_string else self._between(piece, position)
        self._read += len(piece)

    def end(self) -> None:
        """There is no more.

        :raises JsonError: where the object is not complete
        """
        if not self._is_over:
            raise JsonError("the body is not a whole JSON object")

    # --- strings --------------------------------------------------------------------------------------------------

    def _string(self, piece: bytes, position: int) -> int:
        """Read within a string, to its end or that of the piece; return where it goes on."""
        began = position
        if self._is_escaped:
            self._is_escaped, position = False, position + 1
        while True:
            quote = piece.find(b'"', position)
            stop = len(piece) if quote < 0 else quote
            backslashes = 0
            while stop - backslashes > position and piece[stop - backslashes - 1] == _BACKSLASH:
                backslashes += 1
            if quote < 0:
                self._is_escaped = backslashes % 2 == 1
                self._keep(piece, began, stop)
                return stop
            if backslashes % 2 == 0:
                self._in_string = False
                self._keep(piece, began, quote + 1)
                return quote + 1
            position = quote + 1

    def _keep(self, piece: bytes, began: int, stop: int) -> None:
        if len(self._closers) == 1 and len(self._text) <= LONGEST:
            self._text += piece[began : min(stop, began + LONGEST + 1)]

    # --- structure ------------------------------------------------------------------------------------------------

    def _between(self, piece: bytes, position: int) -> int:
        """Read outside of strings, to the next string, brace, comma or colon; return where it goes on."""
        match = (_DEEPER_STOP if len(self._closers) > 1 else _STOP).search(piece, position)
        stop = len(piece) if match is None else match.start()
        if len(self._closers) == 1:
            self._keep(piece, position, stop)
        elif not self._closers and piece[position:stop].strip(_SPACE):
            raise JsonError("the body is not a JSON object" + (" alone" if self._is_over else ""))
        if match is None:
            return stop
        character = piece[stop : stop + 1]
        if not self._closers:
            if self._is_over or character != b"{":
                raise JsonError("the body is not a JSON object" + (" alone" if self._is_over else ""))
            self.start = self._read + stop + 1
        if character == b'"':
            self._keep(piece, stop, stop + 1)
            self._in_string = True
        elif character in b"{[":
            self._open(character)
        elif character in b"}]":
            self._close(character[0])
        elif len(self._closers) == 1:
            self._separate(character)
        return stop + 1

    def _open(self, character: bytes) -> None:
        if len(self._closers) >= DEEPEST:
            raise JsonError(f"the body is nested more than {DEEPEST} deep")
        if len(self._closers) == 1:
            self._text.clear()
        self._closers.append(0x7D if character == b"{" else 0x5D)

    def _close(self, character: int) -> None:
        if self._closers.pop() != character:
            raise JsonError("the body is not JSON: its brackets do not match")
        if not self._closers:
            self._member()
            self._is_over = True

    def _separate(self, character: bytes) -> None:
        if character == b",":
            self._member()
        elif not self._is_value:
            self._name, self._is_value = _decoded(bytes(self._text)), True
            self.is_empty = False
            self._text.clear()

    def _member(self) -> None:
        if self._is_value and self._name in self._wanted:
            text = bytes(self._text).strip(_SPACE)
            self.found[self._name] = text if len(text) <= LONGEST else b""
        self._is_value = False
        self._text.clear()


def _decoded(text: bytes) -> str:
    """The name of a member, or a text that is none's."""
    if len(text) > LONGEST:
        return ""
    try:
        name = json.loads(text)
    except (ValueError, RecursionError):
        raise JsonError("the body is not JSON: the name of a member is no text") from None
    if not isinstance(name, str):
        raise JsonError("the body is not JSON: the name of a member is no text")
    return name


def text_of(value: bytes) -> str | None:
    """A value that is a text; None for any other.

    :raises JsonError: for bytes that are not UTF-8, or an escape that does not exist
    """
    if not value.startswith(b'"'):
        return None
    try:
        text = json.loads(value)
        assert isinstance(text, str)
        text.encode()  # half of a surrogate pair cannot be sent or shown
    except (ValueError, AssertionError):
        raise JsonError("a text of the body is not UTF-8, or has an escape that JSON does not know") from None
    return text

"""Makes text that came from a box, the Hub or a file safe to show: it cannot move the cursor, hide or reorder text.

A file name on the Hub, the name of a process of any user, or an error response may contain control characters. A
terminal obeys them: ESC sequences rewrite lines that were printed before, or answer for the user.
"""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    r"""Return the text on one line, with each character that has no glyph as an escape such as ``\x1b`` or ``\u202e``.

    These are control characters (C0, DEL, C1), line breaks, bidirectional and other invisible format characters, lone
    surrogates, and what Unicode has not assigned. Tabs stay, and every kind of space becomes an ordinary one.
    """
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")

"""Text that a systemd unit cannot contain."""

from __future__ import annotations


def unit_syntax_error(text: str, *, assignment: bool = False) -> str | None:
    """Return why no unit can contain this text; None where it can.

    :param assignment: whether it is for Environment=, where systemd refuses control characters (src/basic/env-util.c)
    """
    if any(character in "\n\r\0" for character in text):
        return "a systemd unit cannot contain a line break here"
    for character in text:
        code = ord(character)
        # systemd takes these for invalid UTF-8 and drops the whole line (src/basic/utf8.c).
        if 0xD800 <= code < 0xE000 or 0xFDD0 <= code < 0xFDF0 or code & 0xFFFE == 0xFFFE:
            return f"U+{code:04X} is not a character; systemd would drop the line"
        if assignment and (code < 32 or 127 <= code < 160) and character != "\t":
            return f"systemd refuses the control character U+{code:04X} in the environment"
    return None

"""Which words a systemd unit can carry at all."""

from __future__ import annotations


def unfit_for_a_unit(text: str, *, assignment: bool = False) -> str | None:
    """Why no unit can carry this text, None where it can.

    :param assignment: in Environment=, where systemd refuses control characters (src/basic/env-util.c)
    """
    if any(character in "\n\r\0" for character in text):
        return "a newline cannot stand in a systemd unit"
    for character in text:
        code = ord(character)
        # What systemd calls invalid UTF-8, and drops the whole line for (src/basic/utf8.c).
        if 0xD800 <= code < 0xE000 or 0xFDD0 <= code < 0xFDF0 or code & 0xFFFE == 0xFFFE:
            return f"U+{code:04X} is no character; systemd would drop the line"
        if assignment and (code < 32 or 127 <= code < 160) and character != "\t":
            return f"systemd takes no control character (U+{code:04X}) in the environment"
    return None

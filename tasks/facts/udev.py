"""Kernel settings that udev writes when a device appears, later than systemd-sysctl and over what that has set."""

from __future__ import annotations

import re

Rules = tuple[tuple[str, int], ...]
"""(file, value) of the rules that set vm.swappiness, in the order in which udev applies them: the last one wins."""

# udev(7): in the order of these directories a file hides others of its name (a link to /dev/null hides them all);
# what is left is read by name, whatever its directory.
_DIRECTORIES = "/etc /run /usr/local/lib /usr/lib /lib"
_ASSIGNS = r"^[^#]*SYSCTL\{vm[./]swappiness\}[[:space:]]*:?=[[:space:]]*\""


def swappiness_rules(root: str = "") -> str:
    """The shell command that prints them as file:line. ``root``: another one than the box's own, for tests."""
    return (
        f"export LC_ALL=C; for f in $(for d in {_DIRECTORIES}; do "
        f"grep -lsE '{_ASSIGNS}' {root}$d/udev/rules.d/*.rules; done | sed 's#.*/##' | sort -u); do "
        f'for d in {_DIRECTORIES}; do p={root}$d/udev/rules.d/$f; if [ -e "$p" ] || [ -L "$p" ]; then '
        f"grep -HsE '{_ASSIGNS}' \"$p\"; break; fi; done; done; true"
    )


def parsed(lines: list[str]) -> Rules:
    """What that command printed."""
    pattern = r'(/[^:]*\.rules):[^#]*SYSCTL\{vm[./]swappiness\}\s*:?=\s*"(\d{1,4})".*'
    return tuple((match[1], int(match[2])) for line in lines if (match := re.fullmatch(pattern, line, re.ASCII)))

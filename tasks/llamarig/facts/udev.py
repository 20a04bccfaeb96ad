"""udev rules that set vm.swappiness. udev applies them when a device appears, so they override systemd-sysctl."""

from __future__ import annotations

import re

Rules = tuple[tuple[str, int], ...]
"""(file, value) of each rule, in the order in which udev applies them: the last one is in effect."""

# udev(7): a file hides files of the same name in later directories (a link to /dev/null hides them all). The remaining
# files are applied in the order of their names.
_DIRECTORIES = "/etc /run /usr/local/lib /usr/lib /lib"
_ASSIGNS = r"^[^#]*SYSCTL\{vm[./]swappiness\}[[:space:]]*:?=[[:space:]]*\""


def swappiness_rules(root: str = "") -> str:
    """Shell command that prints the rules as file:line. ``root``: another root directory, for tests."""
    return (
        f"export LC_ALL=C; for f in $(for d in {_DIRECTORIES}; do "
        f"grep -lsE '{_ASSIGNS}' {root}$d/udev/rules.d/*.rules; done | sed 's#.*/##' | sort -u); do "
        f'for d in {_DIRECTORIES}; do p={root}$d/udev/rules.d/$f; if [ -e "$p" ] || [ -L "$p" ]; then '
        f"grep -HsE '{_ASSIGNS}' \"$p\"; break; fi; done; done; true"
    )


def parse_rules(lines: list[str]) -> Rules:
    """Parse the output of `swappiness_rules`."""
    pattern = r'(/[^:]*\.rules):[^#]*SYSCTL\{vm[./]swappiness\}\s*:?=\s*"(\d{1,4})".*'
    return tuple((match[1], int(match[2])) for line in lines if (match := re.fullmatch(pattern, line, re.ASCII)))

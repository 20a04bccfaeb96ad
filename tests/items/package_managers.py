"""Boxes of each distribution family, as far as the facts about packages read them."""

from __future__ import annotations

import re
from typing import Any

from tests.items.converged_box import FILE_FOUND

MANAGERS = {
    "debian": ("/usr/bin/apt-get", "dpkg -l", "ii  {name} 1.0 amd64 x", "apt-get .*install"),
    "arch": ("/usr/bin/pacman", "pacman -Q", "{name} 1.0-1", "pacman --noconfirm -S "),
    "fedora": ("/usr/bin/dnf", "rpm --queryformat", "{name} 1.0-1", "dnf install"),
}
"""Family -> its package manager, how packages are listed, one line of that list, and how packages are installed."""


def package_replies(family: str, names: list[str]) -> dict[Any, Any]:
    """Replies of a box of this family with these packages."""
    manager, listing, line, _ = MANAGERS[family]
    others = [path for path, *_ in MANAGERS.values() if path != manager]
    return {
        "@@llamarig": "",  # each fact is read alone
        **{re.compile(rf"{path}\b"): "" for path in others},
        re.compile(rf"stat .*{manager}\b"): FILE_FOUND.format(path=manager),
        listing: [line.format(name=name) for name in names],
    }

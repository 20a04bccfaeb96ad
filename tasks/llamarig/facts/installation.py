"""Everything of llamarig's that is on a box, whatever is declared: units, directories, settings, the service user."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.declare.front import UPSTREAM_KEYS
from llamarig.facts.output import parse_sections, sections_command, whole_number
from llamarig.render import layout

DIRECTORIES = ("/opt/llamarig", layout.STATE, layout.CACHE)
SETTINGS = (layout.SYSCTL_FILE, layout.UDEV_FILE, layout.PRESETS, layout.FRONT, UPSTREAM_KEYS)
_LINKABLE = (*DIRECTORIES, *layout.DIRECTORIES, layout.CUDA)


@dataclass(frozen=True)
class Installation:
    """What is there.

    :param units: unit file -> its state and whether it starts at boot: ``active enabled``
    :param sizes: path below our directories, without model files -> bytes on disk
    :param settings: files and directories that change the system
    :param links: our directories that are links -> where they lead
    :param has_user: whether the service user exists
    :param owners: files that the owner has made for us: keys, and drop-ins of our units
    """

    units: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    has_user: bool = False
    owners: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of ours is there."""
        return not (self.units or self.sizes or self.settings or self.has_user)


class Installed(FactBase[Installation]):
    """Units, directories, settings and user. Reads every entry of the directories: for interactive commands only.

    Output::

        == units
        llamarig-tiny.service active enabled
        llamarig_liveness.timer active enabled

        == sizes
        19251200	/opt/llamarig/llama.cpp
        245538816	/var/lib/llamarig/work

        == user
        llamarig
    """

    ends_within_s = 1800
    """It reads every entry of the directories, of a slow disk too."""

    default = Installation

    def command(self) -> str:
        units = (
            f"cd {layout.UNITS} && for u in llamarig[-_]*.service llamarig_*.timer llamarig_*.socket; do test -f $u && "
            'echo "$u $(systemctl is-active $u) $(systemctl is-enabled $u)"; done'
        )
        below = " ".join(f"{directory}/*" for directory in DIRECTORIES)
        sizes = (
            f"for d in {below}; do case $d in {layout.MODELS}) continue;; esac; "
            'test -e "$d" && du --summarize --block-size=1 --one-file-system "$d"; done'
        )
        links = f'for d in {shlex.join(dict.fromkeys(_LINKABLE))}; do test -L $d && echo "$d $(readlink -f $d)"; done'
        return sections_command(
            {
                "units": units,
                "sizes": sizes,
                "settings": f"ls -d {shlex.join(SETTINGS)}",
                "links": links,
                "user": f"id -un {layout.USER}",
                "owners": f"ls -d /etc/llamarig/keys/* {layout.UNITS}/llamarig[-_]*.d/*",
            }
        )

    def process(self, output: list[str]) -> Installation:
        sections = parse_sections(output)
        sizes = (line.split(maxsplit=1) for line in sections["sizes"])
        measured = {row[1]: whole_number(row[0]) for row in sizes if len(row) == 2}
        return Installation(
            units=dict(_pairs(sections["units"])),
            sizes={path: size for path, size in measured.items() if size is not None},
            settings=tuple(sections["settings"]),
            links=dict(_pairs(sections["links"])),
            has_user=sections["user"] == [layout.USER],
            owners=tuple(sections["owners"]),
        )


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    return [(first, rest) for first, space, rest in (line.partition(" ") for line in lines) if space]

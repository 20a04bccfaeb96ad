"""The base of a box, which every other item needs: the service user, our directories, our programs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.operations import files, server

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.upload import upload
from llamarig.facts.files import Ownership, Sha256Sums, UserExists
from llamarig.render import layout

_OWNERSHIP = "root root 755 directory"


class ServiceUser(Item):
    """The model servers' user is a system user without a shell or a home."""

    name = "Service user"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Whether the user exists."""
        yield query(UserExists, user=layout.USER)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One where the user is missing."""
        return (
            []
            if seen.get(UserExists, user=layout.USER)
            else [Difference(f"user {layout.USER}", "a system user", "missing")]
        )

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Create the user."""
        yield from server.user._inner(
            user=layout.USER,
            system=True,
            shell="/usr/sbin/nologin",
            home=layout.STATE,
            ensure_home=False,
            create_home=False,
        )


class Directories(Item):
    """Our directories, or the directories they link to, are owned by root and readable by everybody."""

    name = "Directories"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Their owners and modes."""
        yield query(Ownership, paths=list(layout.DIRECTORIES))

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each directory."""
        owners = seen.get(Ownership, paths=list(layout.DIRECTORIES))
        return [
            Difference(path, "a directory owned by root, mode 755", owners.get(path, "") or "missing")
            for path in layout.DIRECTORIES
            if owners.get(path) != _OWNERSHIP
        ]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Create them, or correct owner and mode."""
        for difference in differences:
            yield from files.directory._inner(path=difference.what, user="root", group="root", mode="755")


class Programs(Item):
    """The programs of llamarig.remote are on the box, with the same sha256 as here."""

    name = "Programs"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Their sha256."""
        yield query(Sha256Sums, paths=list(here.programs))

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one, for all programs: they belong to one version."""
        found = seen.get(Sha256Sums, paths=list(seen.here.programs))
        other = [path for path, file in seen.here.programs.items() if found.get(path) != file.sha256]
        if not other:
            return []
        shown = ", ".join(path.removeprefix(f"{layout.PROGRAMS}/llamarig/") for path in other[:3])
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        found_text = f"{shown}{more} missing or of another version"
        return [Difference("llamarig's programs on the box", "those of this version", found_text)]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Copy those that differ."""
        found = seen.get(Sha256Sums, paths=list(seen.here.programs))
        other = {path: file for path, file in seen.here.programs.items() if found.get(path) != file.sha256}
        yield StringCommand("mkdir", "-p", *sorted({path.rpartition("/")[0] for path in other}))
        for path, file in other.items():
            yield upload(Path(file.source).read_bytes(), path)

"""Node.js and npm, with which the pages of the web UI are compiled into a release."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.engine.shared_builds import is_received
from llamarig.facts.nodejs import NodeFound
from llamarig.items.packages import Packages, install_missing, package_differences, package_queries
from llamarig.items.releases import incomplete, release_queries
from llamarig.render.release import has_pages

_FAMILIES = {family: ["nodejs", "npm"] for family in ("debian", "arch")} | {"fedora": ["nodejs", "nodejs-npm"]}
_TAKES = "20.19 or newer of version 20, or 22.12 or newer"
"""tools/ui/package-lock.json of the pinned commit: ^20.19.0 || >=22.12.0, and .npmrc has engine-strict."""


class NodeInstalled(Item):
    """If a model has web_ui=True, its builder has a Node.js that can compile the pages, until they are compiled."""

    name = "Web UI tools"
    needs = (Packages,)
    severity = Severity.WARNING

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where no release has the pages."""
        if any(has_pages(build, rig.models) for build in rig.builds):
            yield query(NodeFound)
            yield from release_queries(rig)
            yield from package_queries()

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one, and none once the releases are built: a box that only serves needs no Node.js."""
        if not any(has_pages(build, rig.models) for build in rig.builds):
            return []
        wanting = [
            build.name
            for build, _ in incomplete(rig, seen)
            if has_pages(build, rig.models) and not is_received(build, seen.host)
        ]
        if not wanting:
            return []
        node = seen.get(NodeFound)
        if node.own and node.npm and compiles_pages(node.own):
            return []
        if not node.own and compiles_pages(node.offered):
            return package_differences(_FAMILIES, seen)
        has = f"Node.js {node.own} is installed" if node.own else f"its distribution has {node.offered or 'none'}"
        npm = " without npm" if node.own and not node.npm else ""
        message = (
            f"build {', '.join(wanting)}: the pages of the web UI are compiled with Node.js {_TAKES}, and {has}{npm}: "
            "let another box build it (built_by), install such a Node.js with npm, or leave web_ui out; nothing was "
            "built"
        )
        return [Difference.refusal_of("Node.js", _TAKES, message)]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Install the distribution's packages."""
        yield from install_missing(_FAMILIES, seen)


def compiles_pages(version: str) -> bool:
    """Whether a Node.js of this version can compile the pages of the pinned commit."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return (20, 19) <= numbers < (21,) or numbers >= (22, 12)

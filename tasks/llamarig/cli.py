"""`llamarig INVENTORY COMMAND`: pyinfra, from the environment that llamarig is installed in; and what needs no box.

`uv tool install` puts only this program on the path, so it takes everything that pyinfra takes.
"""

from __future__ import annotations

import sys
from importlib.metadata import version


def main() -> int | None:
    """Run `adopt` or `init`, or print the version with ``--version``; hand anything else to pyinfra."""
    command, *arguments = sys.argv[1:] or [""]
    if [command, *arguments] == ["--version"]:
        print(f"llamarig {version('llamarig')}, pyinfra {version('pyinfra')}")
        return None
    # Imported late: each is needed for itself alone, and pyinfra patches the standard library for gevent.
    if command == "adopt":
        from llamarig.commands.adopt import adopt

        return adopt(arguments)
    if command == "init":
        from llamarig.commands.init import init

        return init(arguments)
    from pyinfra_cli.main import main as pyinfra

    pyinfra()
    return None

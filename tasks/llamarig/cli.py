"""`llamarig INVENTORY COMMAND`: pyinfra, from the environment that llamarig is installed in.

`uv tool install llamarig` puts only this program on the path, so it takes everything that pyinfra takes.
"""

from __future__ import annotations

import sys
from importlib.metadata import version


def main() -> None:
    """Print the version with ``--version``; hand anything else to pyinfra."""
    if sys.argv[1:] == ["--version"]:
        print(f"llamarig {version('llamarig')}, pyinfra {version('pyinfra')}")
        return
    # Imported late: it patches the standard library for gevent as it is imported.
    from pyinfra_cli.main import main as pyinfra

    pyinfra()

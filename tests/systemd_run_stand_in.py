"""A stand-in for systemd-run, for tests on a machine that systemd did not boot: it runs the command without a sandbox.

The sandbox itself is tested on boxes (tests/box/test_sandbox_reach.py).
"""

from __future__ import annotations

import os
from pathlib import Path

SCRIPT = """\
#!/bin/sh
while [ "$1" != -- ]; do
  case $1 in --property=WorkingDirectory=*) cd "${1#--property=WorkingDirectory=}" ;; esac
  shift
done
shift
exec "$@"
"""


def search_path(directory: Path) -> str:
    """Write the stand-in into a directory; return a PATH that finds it first."""
    program = directory / "systemd-run"
    program.write_text(SCRIPT)
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"

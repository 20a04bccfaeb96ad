"""The commands of the READMEs, grouped by the test that runs them as printed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    name: (ROOT / name).read_text()
    for name in ("README.md", "group_data/README.md", "tasks/README.md", "tests/README.md")
}
"""Path -> text. tests/gpu/README.md is for machines that no test has."""


def blocks(text: str, language: str) -> list[str]:
    """The contents of a document's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """A document's commands, one a line of its blocks of shell."""
    return "".join(blocks(text, "sh")).splitlines()


COMMANDS = list(dict.fromkeys(command for text in DOCUMENTS.values() for command in commands(text)))
"""Each command once, those of the first page first."""
CHECK = "python3 -m tests check"
# Commands for the user's boxes. Tests replace the inventory by the test box's; everything else is as printed.
HOME = [
    command
    for command in COMMANDS
    if "inventory/home.py" in command and not any(name in command for name in ("rollback", "bench", "adopt"))
]
# test_adopt.py runs the first beside a script, tests/box/test_adopt.py the second beside a server started by hand.
ADOPT = [command for command in COMMANDS if "adopt" in command]
# test_releases.py runs this command after a switch.
ROLLBACK = [command for command in COMMANDS if "tasks/rollback.py" in command]
# test_bench.py runs this command with a separate ledger.
BENCH = [command for command in COMMANDS if "tasks/bench.py" in command]
# Commands of the quick start; the environment makes them use the test box.
REHEARSAL = [command for command in COMMANDS if "rehearsal" in command or "tests.box ssh" in command]
# Requests to a box; tests replace its address by the test box's.
CLIENT = [command for command in COMMANDS if command.startswith("curl ")]
# test_installation.py runs them in a fresh clone.
INSTALL = [command for command in COMMANDS if command.startswith("uv ")]
DESTROY = "python3 -m tests.box destroy"

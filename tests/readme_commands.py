"""The README's commands, sorted by the test that runs them as printed."""

from __future__ import annotations

import re

from tests.box.deployment import REPOSITORY_ROOT

README = (REPOSITORY_ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
CHECK = "python3 -m tests check"
# Commands for the owner's own boxes; here they are given the test box instead, everything else as printed.
HOME = [
    command
    for command in COMMANDS
    if "inventory/home.py" in command and "rollback" not in command and "bench" not in command
]
# test_releases.py rolls a real switch back, with this command line.
ROLLBACK = [command for command in COMMANDS if "tasks/rollback.py" in command]
# test_bench.py times with this command line, against a ledger of its own.
BENCH = [command for command in COMMANDS if "tasks/bench.py" in command]
# The quick start's own, on its own box: given the test box by its environment.
REHEARSAL = [command for command in COMMANDS if "rehearsal" in command or "tests.box ssh" in command]
# Clients of a box somewhere in the house; here it is the test box.
CLIENT = [command for command in COMMANDS if command.startswith("curl ")]
DESTROY = "python3 -m tests.box destroy"

"""The commands of the README, grouped by the test that runs them as printed."""

from __future__ import annotations

import re

from tests.box.deployment import REPOSITORY_ROOT

README = (REPOSITORY_ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
CHECK = "python3 -m tests check"
# Commands for the user's boxes. Tests replace the inventory by the test box's; everything else is as printed.
HOME = [
    command
    for command in COMMANDS
    if "inventory/home.py" in command and "rollback" not in command and "bench" not in command
]
# test_releases.py runs this command after a switch.
ROLLBACK = [command for command in COMMANDS if "tasks/rollback.py" in command]
# test_bench.py runs this command with a separate ledger.
BENCH = [command for command in COMMANDS if "tasks/bench.py" in command]
# Commands of the quick start; the environment makes them use the test box.
REHEARSAL = [command for command in COMMANDS if "rehearsal" in command or "tests.box ssh" in command]
# Requests to a box; tests replace its address by the test box's.
CLIENT = [command for command in COMMANDS if command.startswith("curl ")]
DESTROY = "python3 -m tests.box destroy"

"""The files of a repository of the owner's own, as texts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from llamarig.commands.installed_from import Origin

GITIGNORE = """\
.venv/
__pycache__/
pyinfra-debug.log
"""

_INVENTORY = '''\
"""Your boxes. The group of a box names the file in group_data/ that declares what it gets.

A group is a list, also of one box:

    boxes = ["box.lan"]  # log in as SSH does
    others = [("other.lan", {{"ssh_user": "you", "_sudo": True}})]  # log in as another user than root
"""

{listed}
'''

_EXAMPLE_INVENTORY = '''\
"""Your boxes. The group of a box names the file in group_data/ that declares what it gets.

{remark}To log in as another user than root:
[("box.lan", {{"ssh_user": "you", "_sudo": True}})].
"""

{group} = {hosts}
'''

_PYPROJECT = """\
[project]
name = "{name}"
version = "0"
description = "llama.cpp servers on boxes of our own"
requires-python = ">=3.11"
# {upgrade}
dependencies = ["{requirement}"]

[tool.uv]
package = false
"""

_README = """\
# {title}

What our boxes serve, declared for llamarig. `inventory/home.py` lists the boxes, `group_data/` says what they get.

```sh
uv sync                                                   # once, and after a change of pyproject.toml
.venv/bin/pyinfra -y inventory/home.py tasks/survey.py    # writes group_data/ for hardware that is not declared
.venv/bin/pyinfra inventory/home.py deploy.py --dry       # what would change
.venv/bin/pyinfra -y inventory/home.py deploy.py          # make it so
.venv/bin/pyinfra -y inventory/home.py tasks/audit.py     # is everything as declared?
```

Commit `uv.lock`, and what a deploy writes beside the inventory: `models.lock.json`, `plans.json`, `bench.jsonl`.

The scripts in `tasks/` run those of the installed llamarig, each by its name. The dependency is in `pyproject.toml`:
{upgrade}
"""

_SCRIPT = '''\
"""{summary}"""

from llamarig.commands.packaged_files import run_script

run_script(__file__)
'''


def inventory(hosts: Sequence[str]) -> str:
    """inventory/home.py with these hosts in one group, or without any."""
    listed = f"boxes = {_listed(hosts)}" if hosts else "boxes: list[str] = []"
    return _INVENTORY.format(listed=listed)


def example_inventory(group: str, hosts: Sequence[str]) -> str:
    """inventory/home.py with one group; without hosts, with a name to replace."""
    remark = "" if hosts else "Replace the name below, which never resolves (RFC 6761). "
    return _EXAMPLE_INVENTORY.format(group=group, remark=remark, hosts=_listed(hosts or ["your-box.invalid"]))


def _listed(hosts: Sequence[str]) -> str:
    """The hosts as Python; ``user@host`` logs in as that user, and becomes root with sudo."""
    return f"[{', '.join(map(_host, hosts))}]"


def _host(host: str) -> str:
    user, at, name = host.rpartition("@")
    if not at:
        return json.dumps(name)
    sudo = "" if user == "root" else ', "_sudo": True'
    return f'({json.dumps(name)}, {{"ssh_user": {json.dumps(user)}{sudo}}})'


def pyproject(name: str, origin: Origin) -> str:
    """pyproject.toml with the package as a dependency, by a direct reference."""
    project = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "boxes"
    return _PYPROJECT.format(name=project, requirement=origin.requirement, upgrade=origin.upgrade)


def readme(name: str, origin: Origin) -> str:
    """README.md with the commands of every day."""
    return _README.format(title=name, upgrade=origin.upgrade)


def script(source: str) -> str:
    """A script that runs the packaged one of its name.

    :param source: of the packaged script, whose first line says what it does
    """
    lines = source.splitlines()
    summary = lines[0].strip().strip('"') if lines and lines[0].startswith('"""') else "A command of llamarig."
    return _SCRIPT.format(summary=summary)


def next_steps(directory: str, groups: Sequence[str], hosts: Sequence[str] = ()) -> list[str]:
    """What to do next, one command or sentence a line."""
    listing = [] if hosts else ["list your box in inventory/home.py"]
    if groups:
        steps = [*listing, f"group_data/{groups[0]}.py says what it gets: change it to your needs"]
    else:
        survey = ".venv/bin/pyinfra -y inventory/home.py tasks/survey.py"
        steps = [*listing, f"{survey}    # writes group_data/ for your hardware"]
    return [f"cd {directory} && uv sync", *steps, ".venv/bin/pyinfra inventory/home.py deploy.py --dry"]

"""Record the pictures of the documentation on the rehearsal box: `.venv/bin/python -m tests.pictures`.

Every command runs as an owner would type it, against the box that `python3 -m tests rehearsal` makes (it is made here
where there is none). The plan is that of a real model's header, by the box's own llama.cpp, for two simulated GPUs.
Afterwards the box is as before. LLAMARIG_REHEARSAL_DIR and LLAMARIG_REHEARSAL_PORT name another box.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamarig.render import layout
from rich.text import Text

from tests.box import local_hub, machine
from tests.box.deployment import REPOSITORY_ROOT, rehearsal_rig
from tests.box.host import BoxError
from tests.box.hub import Hub
from tests.box.paths import Rehearsal
from tests.box.sparse_models import write_sparse
from tests.pictures.screen import Screen, recorded, svg
from tests.placement.model_shapes import SHAPES
from tests.prepared_pyinfra import PYINFRA

PICTURES: Mapping[str, tuple[str, ...]] = {
    "dry": ("inventory/home.py", "deploy.py", "--dry"),
    "deploy": ("-y", "inventory/home.py", "deploy.py"),
    "rollback": ("-y", "inventory/home.py", "tasks/rollback.py"),
    "audit": ("-y", "inventory/home.py", "tasks/audit.py"),
    "bench": ("-y", "inventory/home.py", "tasks/bench.py"),
    "lock": ("-y", "inventory/home.py", "tasks/lock.py"),
    "prune": ("-y", "inventory/home.py", "tasks/prune.py"),
    "plan": ("-y", "inventory/home.py", "tasks/plan.py"),
}
"""Picture -> the arguments of pyinfra, as typed."""

FINDINGS = 1
"""Exit code of an audit that has found something."""

HOST = "box.lan"
PLANNED = "qwen3-coder-next-q6"
PLAN_PREREQUISITES = REPOSITORY_ROOT / "tests/box/deploy_plan_prerequisites.py"

_INVENTORY = """\
import json
from pathlib import Path

boxes = [tuple(host) for host in json.loads(Path("inventory/hosts.json").read_text())]
"""


class RecordingError(Exception):
    """A command that did not end as it should; the message has its screen."""


@dataclass(frozen=True)
class Owner:
    """An owner's repository with one box in its inventory. Paths that a command prints are relative to it."""

    directory: Path
    box: Rehearsal

    @classmethod
    def in_directory(cls, directory: Path, box: Rehearsal) -> Owner:
        """A fresh repository, with links to the commands and a copy of the rehearsal's model lock."""
        (directory / "inventory").mkdir()
        (directory / "inventory/home.py").write_text(_INVENTORY)
        for name in ("config.py", "deploy.py", "tasks"):
            (directory / name).symlink_to(REPOSITORY_ROOT / name)
        if box.model_lock.exists():
            (directory / "inventory/models.lock.json").write_text(box.model_lock.read_text())
        return cls(directory, box)

    def declare(self, rig: Mapping[str, Any]) -> None:
        """Make this the declaration of the box; its files on this machine are the owner's own."""
        files = {
            "model_lock": "inventory/models.lock.json",
            "bench_ledger": "inventory/bench.jsonl",
            "plan_file": "inventory/plans.json",
        }
        hosts = [(HOST, {**self.box.login, "rig": {**rig, **files}})]
        (self.directory / "inventory/hosts.json").write_text(json.dumps(hosts))

    def run(self, *arguments: str, code: int = 0) -> Screen:
        """Run pyinfra.

        :raises RecordingError: where it ends with another exit code
        """
        print(f"$ pyinfra {' '.join(arguments)}", flush=True)
        screen = recorded([PYINFRA, *arguments], self.directory, os.environ)
        if screen.code != code:
            raise RecordingError(
                f"pyinfra {' '.join(arguments)} ended with {screen.code}, not {code}:\n"
                + Text.from_ansi(screen.text).plain
            )
        return screen

    def screen(self, picture: str, code: int = 0) -> Screen:
        """The screen of one of PICTURES."""
        return self.run(*PICTURES[picture], code=code)


def main() -> int:
    """Record all screens, and write them only where every command ended as it should."""
    try:
        box = Rehearsal.from_environment()
        machine.up(box)
        local_hub.start(box)
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "owner").mkdir()
            owner = Owner.in_directory(Path(directory) / "owner", box)
            screens = {**_of_a_box(owner), "plan": _of_a_plan(owner, Path(directory) / "hub")}
    except (BoxError, RecordingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, screen in screens.items():
        picture = svg(screen.text, " ".join(("pyinfra", *PICTURES[name])), name)
        (Path(__file__).parent / f"{name}.svg").write_text(picture)
    print(f"Wrote {', '.join(f'{name}.svg' for name in screens)}.")
    return 0


def _of_a_box(owner: Owner) -> dict[str, Screen]:
    """A changed context is looked at, deployed and taken back; a stopped model is found; and the rest as it is."""
    rig = rehearsal_rig(owner.box)
    changed = copy.deepcopy(rig)
    changed["models"][0]["serve"]["context"] = 6144
    deploy = PICTURES["deploy"]
    screens: dict[str, Screen] = {}
    owner.declare(rig)
    owner.run(*deploy)
    try:
        owner.declare(changed)
        for name in ("dry", "deploy", "rollback"):
            screens[name] = owner.screen(name)
        owner.declare(rig)
        owner.run(*deploy)
        machine.ssh(owner.box, f"systemctl stop llamarig-{rig['models'][0]['name']}")
        screens["audit"] = owner.screen("audit", FINDINGS)
    finally:
        owner.declare(rig)
        owner.run(*deploy)
    for name in ("bench", "lock", "prune"):
        screens[name] = owner.screen(name)
    return screens


def _of_a_plan(owner: Owner, directory: Path) -> Screen:
    """Qwen3-Coder-Next for an RTX 4090 and an RTX 5070 Ti that drives a display: a header, over a hole of 64 GiB."""
    rig = rehearsal_rig(owner.box)
    files = write_sparse(directory, PLANNED, SHAPES[PLANNED], shards=3, tokens=True)
    with Hub(directory) as hub:
        hub.add_sparse_repo("acme/Planned-GGUF", {file.name: file for file in files})
        serve = {"port": 8080, "context": 262144, "ubatch": 2048, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
        model = {
            **rig["models"][0],
            "name": "qwen3-coder",
            "repo": "acme/Planned-GGUF",
            "quant": None,
            "files": [file.name for file in files],
            "serve": {**serve, "placement": {"kind": "auto"}},
        }
        gpus = [
            {"name": "RTX 4090", "total_mib": 24564, "free_mib": 23671},
            {"name": "RTX 5070 Ti", "total_mib": 16303, "free_mib": 12761},
        ]
        own = {"hub": {**rig["hub"], "endpoint": hub.endpoint}, "models": [model], "simulated_gpus": gpus}
        owner.declare({**rig, **own})
        owner.run("-y", "inventory/home.py", str(PLAN_PREREQUISITES))
        try:
            return owner.screen("plan")
        finally:
            machine.ssh(owner.box, f"rm -rf {layout.HEADERS}/*")


if __name__ == "__main__":
    with chdir(REPOSITORY_ROOT):
        sys.exit(main())

"""A larger model of random weights, whose work takes seconds: what a setting is worth can be measured with it."""

from __future__ import annotations

import shutil
from typing import Any

from tests.box.deployment import Deployment
from tests.box.hub import Hub
from tests.box.local_hub import SEED
from tests.box.tiny_model import write_shards

LARGER = "llamarig/Larger-GGUF"
NAME = "larger"


def declare(variant: Deployment, hub: Hub, **serve: Any) -> None:
    """Add the repository to the Hub, and the model to the rig, at the port of the tiny one, which it excludes.

    :param serve: settings in which it differs from the tiny one
    """
    folder = hub.store.root.parent / "larger-model"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write_shards(part / "F16", "Larger-F16", seed=SEED + 2, layers=16)
        part.rename(folder)
    hub.add_repo(LARGER, {str(path.relative_to(folder)): path for path in folder.rglob("*.gguf")})
    tiny = variant.rig["models"][0]
    larger = {**tiny, "name": NAME, "repo": LARGER, "serve": {**tiny["serve"], **serve}}
    variant.rig["models"] = [tiny, larger]


def remove(deployment: Deployment) -> None:
    """Serve the tiny model again, and remove the larger one's unit."""
    deployment.shell(
        f"systemctl stop 'llamarig-job-*'; systemctl disable --quiet --now llamarig-{NAME} 2>/dev/null; "
        f"rm -rf /etc/systemd/system/llamarig-{NAME}.service /var/lib/llamarig/jobs/switch-{NAME}.tune; "
        "systemctl daemon-reload; systemctl start --no-block llamarig-tiny"
    )

"""A second model for tests that need a download: the tiny model with other weights, in its own repository and unit."""

from __future__ import annotations

import shutil

from tests.box.deployment import Deployment
from tests.box.hub import Hub
from tests.box.local_hub import SEED
from tests.box.tiny_model import write_shards

SECOND = "llamarig/Second-GGUF"
STORE = "/var/lib/llamarig/models"
PORT = 11
"""Offset from the box's SSH port."""


def declare(variant: Deployment, hub: Hub, *, gated_token: str | None = None) -> None:
    """Add the repository to the Hub and the model to the rig."""
    # The weights must differ from the tiny model's: identical files on the box would be linked, not downloaded.
    folder = hub.store.root.parent / "second-model"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write_shards(part / "F16", "Second-F16", seed=SEED + 1)
        part.rename(folder)
    hub.add_repo(SECOND, {str(path.relative_to(folder)): path for path in folder.rglob("*.gguf")}, gated_token)
    tiny = variant.rig["models"][0]
    serve = {**tiny["serve"], "port": variant.box.port + PORT, "coexists": True}
    variant.rig["models"] = [tiny, {**tiny, "name": "second", "repo": SECOND, "serve": serve}]


def remove(deployment: Deployment) -> None:
    """Remove the model, its unit and its downloads from the box, so that the next test downloads it again."""
    deployment.shell(
        "systemctl stop 'llamarig-job-fetch_*'; systemctl disable --quiet --now llamarig-second 2>/dev/null; "
        "rm -f /etc/systemd/system/llamarig-second.service; systemctl daemon-reload; "
        f"rm -rf {STORE}/{SECOND} {STORE}/.partial"
    )

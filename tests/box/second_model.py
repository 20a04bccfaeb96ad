"""The tiny model with other weights, as another repository, model, port and unit: for tests that need a download."""

from __future__ import annotations

import shutil

from tests.box.deployment import Deployment
from tests.box.hub import Hub
from tests.box.local_hub import SEED
from tests.box.tiny_model import write_shards

SECOND = "llamarig/Second-GGUF"
STORE = "/var/lib/llamarig/models"
PORT = 11
"""Counted from the box's own."""


def declare(variant: Deployment, hub: Hub, *, gated_token: str | None = None) -> None:
    """Put the repository on the Hub and the model into the rig."""
    # Other bytes: those of the tiny model are on the box, and would be linked.
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


def forget(deployment: Deployment) -> None:
    """Nothing of it is left on the box. Files that stayed would be found by the next test, which then fetches none."""
    deployment.shell(
        "systemctl stop 'llamarig-job-fetch_*'; systemctl disable --quiet --now llamarig-second 2>/dev/null; "
        "rm -f /etc/systemd/system/llamarig-second.service; systemctl daemon-reload; "
        f"rm -rf {STORE}/{SECOND} {STORE}/.partial"
    )

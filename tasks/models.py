"""The model files: locked once, fetched once, checked by their sha256."""

from __future__ import annotations

from pyinfra.api.deploy import deploy
from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.operations import long_work, model_lock, sharing


@deploy("Models")
def models() -> None:
    """Lock and fetch; ends when every build is there too. ``--data deep=1`` reads every byte of what is there."""
    rig = rig_of_host()
    model_lock.models_locked(name="Model lock", rig=rig)
    long_work.downloads_started(name="Downloads under way", rig=rig, deep=bool(host.data.get("deep")))
    long_work.long_work_finished(name="Builds and downloads finished", rig=rig)
    if any(build.built_by for build in rig.builds):
        sharing.releases_handed_out(name="Releases handed out", rig=rig)
        sharing.releases_received(name="Releases received", rig=rig)

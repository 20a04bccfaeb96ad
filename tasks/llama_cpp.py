"""llama.cpp at its pinned commits, each build a release of its own."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from tasks.box import rig_of_host
from tasks.operations import long_work, sharing


@deploy("llama.cpp")
def llama_cpp() -> None:
    """Start what is to be built; it goes on while models are fetched."""
    rig = rig_of_host()
    if any(build.built_by for build in rig.builds):
        sharing.releases_asked_for(name="Releases asked for", rig=rig)
    long_work.builds_started(name="Builds under way", rig=rig)

"""What tasks/plan.py would do with the rehearsal's model on a graphics card, which dry runs simulate."""

from llamarig import declare as d

from group_data import rehearsal
from inventory.rehearsal_box import RehearsalBox

__all__ = ["rig"]

_tiny = rehearsal.rig["models"][0]

rig = d.rig(
    **{
        **rehearsal.rig,
        "models": [{**_tiny, "serve": {**_tiny["serve"], "placement": d.auto()}}],
        "simulated_gpus": [d.simulated_gpu(name="RTX 5070 Ti", total_mib=16303, free_mib=15800)],
        # Nothing to commit, and another file than a deploy of the rehearsal would read.
        "plan_file": str(RehearsalBox.from_environment().directory / "plans-of-card.json"),
    }
)

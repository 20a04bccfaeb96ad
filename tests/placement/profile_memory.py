"""Memory of the profiles of group_data/ on their owners' cards, by dry runs of the pinned llama.cpp on simulated GPUs.

tests/box/test_pinned_weights.py makes these dry runs and compares. Free memory is what the owners saw (RTX 4090 and
5070 Ti), else the card's size less what a driver and a desktop usually take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.placement.pinned_weights import ServerMemory


@dataclass(frozen=True)
class Profile:
    """One model, by the shape of its file (tests/placement/model_shapes.py): MiB that its server takes and leaves
    free."""

    shape: str
    left_mib: tuple[int, ...]
    weights_mib: int
    rest_mib: int
    pinnable_mib: int
    mode: Literal["auto", "none", "mlock"]
    """Its load mode on a box with 64 GB of RAM."""

    def memory(self, *, fitted: bool) -> ServerMemory:
        """Input of the load mode decision.

        :param fitted: whether llama.cpp itself keeps fit()'s margin free
        """
        return ServerMemory(self.pinnable_mib, self.weights_mib, self.rest_mib, () if fitted else self.left_mib)


@dataclass(frozen=True)
class Group:
    """The cards of a group, and its models."""

    gpus: tuple[SimulatedGpu, ...]
    models: dict[str, Profile]


RAM = 63 << 30
"""MemTotal of a box with 64 GB, in bytes."""

PROFILES = {
    "rtx4090_rtx5070ti": Group(
        (
            SimulatedGpu(name="RTX 4090", total_mib=24564, free_mib=23671),
            SimulatedGpu(name="RTX 5070 Ti", total_mib=16303, free_mib=12761),
        ),
        {
            "qwen3-coder": Profile("qwen3-coder-next-q6", (2228, 1582), 36783, 11660, 36539, "none"),
            "qwen3-coder-q5": Profile("qwen3-coder-next-q5", (2963, 1861), 27660, 11660, 27455, "none"),
            "qwen3-coder-q5-fit": Profile("qwen3-coder-next-q5", (855, 1284), 23089, 10868, 22884, "none"),
            "gpt-oss-120b": Profile("gpt-oss-120b", (483, 3002), 33462, 11429, 32357, "auto"),
        },
    ),
    "rtx4070": Group(
        (SimulatedGpu(name="RTX 4070", total_mib=12282, free_mib=11600),),
        {"qwen3-coder-mxfp4": Profile("qwen3-coder-next-mxfp4", (570,), 34321, 10740, 34005, "mlock")},
    ),
    "rtx_16gb": Group(
        (SimulatedGpu(name="RTX 16 GB", total_mib=16380, free_mib=15700),),
        {
            "qwen35-a3b": Profile("qwen35-35b-a3b-q4", (5625,), 11366, 10274, 11093, "none"),
            "qwen35-a3b-q8": Profile("qwen35-35b-a3b-q8", (1367,), 22004, 10274, 21488, "none"),
        },
    ),
}

"""Everything that the plan of one model is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llamarig.declare.model import Model
from llamarig.placement.candidate import Prediction
from llamarig.placement.dry_run import DryRunError, parse_prediction
from llamarig.placement.planned_loading import Pinning
from llamarig.placement.ram_budget import RESERVE_MIB, prompt_cache_mib
from llamarig.placement.speculation_memory import with_speculation
from llamarig.placement.unified_memory import is_shared, system_reserve_mib
from llamarig.records.plan_file import MeasuredMargin, PlanInputs, PlannedDevice
from llamarig.remote.shared.gguf_header import Header


@dataclass(frozen=True)
class PlanRequest:
    """Everything a plan is made from.

    ``header_path`` and ``short_header_path`` are on the box: the model's header, and a copy with a shortened vocabulary
    whose logits are as large as llama-server's (None if the whole header's are already).
    """

    model: Model
    flags: frozenset[str]
    header: Header
    header_path: str
    short_header_path: str | None
    simulated: bool
    inputs: PlanInputs
    ram_available_mib: int
    pinning: Pinning = field(default_factory=Pinning)
    box_ram_mib: int = 0
    """MemTotal of the box, 0 if unknown."""
    measured: tuple[MeasuredMargin, ...] = ()
    """Margins of this model that were measured on this box; those for other inputs are left out by the planner."""

    @property
    def others_mib(self) -> tuple[int, ...]:
        """MiB per GPU for the vision projector and the draft model."""
        return self.inputs.others_mib or (0,) * len(self.inputs.devices)

    def budgets(self, margins_mib: Sequence[int]) -> tuple[int, ...]:
        """MiB per GPU for the model itself: free memory less the margin, the projector and the draft model.

        Of a GPU that shares the RAM, what the prompt cache and the system leave of it.
        """
        each = zip(self.inputs.devices, margins_mib, self.others_mib, strict=True)
        return tuple(max(0, self._free(device) - margin - other) for device, margin, other in each)

    def _free(self, device: PlannedDevice) -> int:
        if self.simulated or not self.ram_available_mib or not is_shared(device):
            return device.free_mib
        room = self.ram_available_mib - self.reserve_mib - prompt_cache_mib(self.model.serve) + device.set_aside_mib
        return min(device.free_mib, room)

    @property
    def reserve_mib(self) -> int:
        """MiB of RAM that stay free for the system."""
        shared = any(is_shared(device) for device in self.inputs.devices)
        return system_reserve_mib(self.box_ram_mib, RESERVE_MIB) if shared else RESERVE_MIB

    @property
    def simulated_names(self) -> tuple[str, ...]:
        """Names of the simulated devices; empty for the box's own GPUs."""
        return tuple(device.name for device in self.inputs.devices) if self.simulated else ()

    def prediction(self, output: str) -> Prediction:
        """Parse the output of a dry run of the model, and add what speculation takes.

        :raises DryRunError: if it failed, or used other devices
        """
        found = parse_prediction(output, f"llama-fit-params with model {self.model.name!r}")
        if len(found.gpus) != len(self.inputs.devices):
            raise DryRunError(f"a dry run names {len(found.gpus)} GPUs, the box lists {len(self.inputs.devices)}")
        return with_speculation(found, self.model, self.header)

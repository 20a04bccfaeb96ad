"""Check of what the kernel has logged about failing GPUs, in words: Xids of NVIDIA's driver, timeouts of amdgpu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.rig import Rig
from llamarig.facts.gpus import Gpu, GpuState, shown
from llamarig.facts.kernel_messages import GpuMessage, shown_time
from llamarig.items.cards_in_use import backends_in_use

_PROGRAM = "if it comes back, try another llama.cpp commit, and report it there with model and flags"
_CARD = (
    "power the box off and on, check the card's seat, power cables and temperature; if it comes back, the card or the "
    "power supply is failing"
)
_MEMORY = "restart the box; if it comes back, the card's memory is failing"
_DRIVER = "restart the box; if it comes back, install another version of the driver"

# Code -> severity, what it means, what to do. Xids: NVIDIA's catalog (docs.nvidia.com/deploy/xid-errors), which names
# the possible causes; the others are texts of amdgpu (drivers/gpu/drm/amd/amdgpu of Linux).
_MEANINGS: dict[str, tuple[Severity, str, str]] = {
    "8": (Severity.WARNING, "a task of the GPU did not end in time", _PROGRAM),
    "13": (Severity.WARNING, "a computation failed, usually by a fault of its program", _PROGRAM),
    "31": (Severity.WARNING, "a program used GPU memory that was not its own", _PROGRAM),
    "32": (Severity.WARNING, "damaged commands reached the GPU", _CARD),
    "38": (Severity.ERROR, "the driver's firmware failed", _DRIVER),
    "43": (Severity.WARNING, "a program was stopped after its own fault", _PROGRAM),
    "45": (Severity.NOTE, "a program's work was cleared away after an earlier error, or because it was killed", ""),
    "48": (Severity.ERROR, "GPU memory had an error that could not be corrected", _MEMORY),
    "61": (Severity.ERROR, "the GPU's controller halted", _CARD),
    "62": (Severity.ERROR, "the GPU's controller halted", _CARD),
    "63": (Severity.WARNING, "a bad row of GPU memory is replaced at the next restart", "restart the box"),
    "64": (Severity.ERROR, "a bad row of GPU memory could not be replaced", "the card's memory is failing"),
    "69": (Severity.WARNING, "a computation failed, usually by a fault of its program", _PROGRAM),
    "74": (Severity.ERROR, "the NVLink between GPUs failed", "reseat the NVLink bridge, then restart the box"),
    "79": (Severity.ERROR, "the card fell off the bus", _CARD),
    "92": (Severity.WARNING, "GPU memory had many errors, all of them corrected", _MEMORY),
    "94": (Severity.ERROR, "GPU memory had an error; the programs that used it were stopped", _MEMORY),
    "95": (Severity.ERROR, "GPU memory had an error that may have reached any program", _MEMORY),
    "109": (Severity.WARNING, "the GPU did not switch between programs in time", _PROGRAM),
    "119": (Severity.ERROR, "the GPU's own processor (GSP) did not answer the driver", _DRIVER),
    "120": (Severity.ERROR, "the GPU's own processor (GSP) failed", _DRIVER),
    "140": (Severity.ERROR, "GPU memory had an error that could not be corrected", _MEMORY),
    "143": (Severity.ERROR, "the GPU could not be initialized", _CARD),
    "154": (Severity.ERROR, "the driver asks for a reset of the GPU, or a restart", "restart the box"),
    "ring timeout": (Severity.ERROR, "a task of the GPU did not end in time, so amdgpu reset it", _PROGRAM),
    "MES hang": (
        Severity.ERROR,
        "the GPU's own scheduler did not answer amdgpu",
        "restart the box; if it comes back, try another kernel and linux-firmware",
    ),
    "VRAM lost": (Severity.ERROR, "a reset lost everything in GPU memory", _PROGRAM),
    "page fault": (Severity.WARNING, "a program used GPU memory that was not its own", _PROGRAM),
    "command submission": (
        Severity.WARNING,
        "memory lacked for commands to the GPU",
        "declare a smaller placement or ubatch; on integrated graphics give the GPU more RAM (amdgpu.gttsize, "
        "ttm.pages_limit of the kernel)",
    ),
}
_CONSEQUENCES = {"45", "154", "VRAM lost"}
"""Left out where another error of the same card explains them."""
_SLOW_GRAPHS = {"8", "109"}
_GRAPHS = "GGML_CUDA_DISABLE_GRAPHS"


class GpuErrors(Check):
    """A driver reports a failing card to the kernel's log alone; the server only crashes, or computes nonsense."""

    id = "gpu.errors"
    expects = (
        "no Xid of NVIDIA's driver, and no ring timeout or page fault of amdgpu, in the kernel's messages since boot; "
        "a restart of the box clears them"
    )
    remedy = _CARD

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """One finding for each card and error."""
        if not box.kernel.readable and backends_in_use(rig):
            yield self.not_known("the box does not show its kernel's messages, as containers do not")
        by_error = sorted(box.kernel.gpu, key=_error)
        for (bus, code), group in groupby(by_error, key=_error):
            messages = list(group)
            others = {message.code for message in by_error if _slot(message.bus) == bus} - _CONSEQUENCES
            if code in _CONSEQUENCES and others:
                continue
            yield self._of_error(rig, box.gpus, bus, code, messages)

    def _of_error(self, rig: Rig, gpus: GpuState, bus: str, code: str, messages: Sequence[GpuMessage]) -> Finding:
        card = next((card for card in gpus.cards if bus and _slot(card.bus_id) == bus), None)
        unknown = (Severity.WARNING, "see NVIDIA's list of Xids", "look it up: docs.nvidia.com/deploy/xid-errors")
        severity, words, remedy = _MEANINGS.get(code, unknown)
        name = f"Xid {code}" if code.isdigit() else " ".join(filter(None, (code, messages[-1].detail)))
        times = f"{len(messages)} times since boot, last at" if len(messages) > 1 else "at"
        return self.finding(
            f"{name}: {words} ({times} {shown_time(messages[-1].time)})",
            "none since boot",
            about=shown(card) if card is not None else messages[-1].bus,
            severity=severity,
            remedy=_without_graphs(rig, code, card) or remedy,
        )


def _without_graphs(rig: Rig, code: str, card: Gpu | None) -> str:
    """The remedy for a consumer Blackwell card that CUDA graphs hang (llama.cpp #27330); empty for other cards."""
    if code not in _SLOW_GRAPHS or card is None or card.compute_capability != "12.0":
        return ""
    models = [model for model in rig.models if rig.build_of(model).backend == "cuda"]
    with_graphs = [model.name for model in models if _GRAPHS not in model.serve.environment]
    if not with_graphs:
        return ""
    return (
        f'declare environment={{"{_GRAPHS}": "1"}} for {", ".join(with_graphs)}: CUDA graphs hang some cards of this '
        "kind (llama.cpp #27330)"
    )


def _error(message: GpuMessage) -> tuple[str, str]:
    return _slot(message.bus), message.code


def _slot(bus: str) -> str:
    """A PCI address without function, and with a domain of four digits, however it was written; empty for others."""
    parts = bus.lower().partition(".")[0].split(":")
    return ":".join((parts[0][-4:].rjust(4, "0"), *parts[1:])) if len(parts) == 3 else ""

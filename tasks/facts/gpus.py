"""The graphics cards of a box: what nvidia-smi, the kernel module and sysfs say."""

from __future__ import annotations

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning.gpus import Gpu, GpuState

_FIELDS = (
    "index,uuid,name,memory.total,memory.free,compute_cap,driver_version,pci.bus_id,pcie.link.gen.current,"
    "pcie.link.gen.max,pcie.link.width.current,pcie.link.width.max,power.limit"
)
_AMD = "0x1002"


class Gpus(FactBase[GpuState]):
    """Cards and driver. A missing or broken nvidia-smi is an answer too, never a failure of the fact."""

    @staticmethod
    @override
    def default() -> GpuState:
        return GpuState(problem="nothing was found out about the graphics cards")

    @override
    def command(self) -> str:
        return (
            "if command -v nvidia-smi >/dev/null; then "
            # Its errors come on stdout, with exit codes of their own (18: module and library differ).
            f"nvidia-smi --query-gpu={_FIELDS} --format=csv,noheader,nounits 2>&1 | sed 's/^/smi=/'; "
            "else echo missing=nvidia-smi; fi; "
            "sed -n 's/^NVRM version:/module=/p' /proc/driver/nvidia/version 2>/dev/null; "
            "cat /sys/class/drm/card[0-9]*/device/vendor 2>/dev/null | sort | uniq -c | sed 's/^ */vendor=/'; true"
        )

    @override
    def process(self, output: list[str]) -> GpuState:
        gpus: list[Gpu] = []
        complaints: list[str] = []
        module, amd, missing = "", 0, False
        for line in output:
            kind, _, text = line.partition("=")
            if kind == "smi":
                gpu = _gpu(text)
                if gpu is not None:
                    gpus.append(gpu)
                elif text.strip():
                    complaints.append(text.strip())
            elif kind == "missing":
                missing = True
            elif kind == "module":
                module = next((word for word in text.split() if word[:1].isdigit() and "." in word), "")
            elif kind == "vendor" and text.endswith(_AMD):
                amd = int(text.split()[0]) if text.split()[0].isdigit() else 0
        problem = ""
        if not gpus:
            problem = "no nvidia-smi on this box" if missing else " ".join(complaints) or "nvidia-smi lists no card"
        return GpuState(tuple(gpus), module, problem, amd)


def _gpu(line: str) -> Gpu | None:
    """One CSV line; None for anything else nvidia-smi may print."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != 13 or not words[0].isdigit() or not words[1].startswith("GPU-"):
        return None
    if not all(part.isdigit() for part in words[5].split(".")):
        return None
    numbers = [_number(word) for word in words[8:]]
    return Gpu(
        index=int(words[0]),
        uuid=words[1],
        name=words[2],
        total_mib=int(_number(words[3])),
        free_mib=int(_number(words[4])),
        compute_capability=words[5],
        driver=words[6],
        bus_id=words[7],
        pcie_generation=int(numbers[0]),
        pcie_generation_max=int(numbers[1]),
        pcie_width=int(numbers[2]),
        pcie_width_max=int(numbers[3]),
        power_limit_w=numbers[4],
    )


def _number(text: str) -> float:
    """0 for ``[N/A]`` and the like."""
    try:
        return float(text)
    except ValueError:
        return 0.0

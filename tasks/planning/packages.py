"""Which of the distribution's packages builds, downloads and audits take, by its family's own names."""

from __future__ import annotations

from collections.abc import Iterable

FAMILIES = ("debian", "arch", "fedora")
"""Debian and Ubuntu, Arch and its kin, Fedora and its kin."""

_EVERYWHERE = ("ca-certificates", "ccache", "cmake", "curl", "dmidecode", "git")
_BASE = {
    "debian": ("build-essential", "iproute2", "ninja-build", "procps", "python3", "python3-venv"),
    "arch": ("base-devel", "iproute2", "ninja", "procps-ng", "python"),
    "fedora": ("gcc", "gcc-c++", "iproute", "make", "ninja-build", "procps-ng", "python3"),
}
# Fedora's as its own llama-cpp.spec asks for them.
_BACKENDS = {
    ("debian", "vulkan"): ("libvulkan-dev", "glslc", "spirv-headers"),
    ("debian", "hip"): ("hipcc", "libhipblas-dev", "librocblas-dev", "rocminfo"),
    ("arch", "vulkan"): ("vulkan-headers", "vulkan-icd-loader", "shaderc", "spirv-headers"),
    ("arch", "hip"): ("rocm-hip-sdk",),
    ("fedora", "vulkan"): ("vulkan-loader-devel", "glslc", "spirv-headers-devel"),
    ("fedora", "hip"): ("hipcc", "hipblas-devel", "rocblas-devel", "rocm-hip-devel", "rocminfo"),
}


def wanted_packages(backends: Iterable[str]) -> dict[str, list[str]]:
    """Family -> names of the packages, for builds of these backends (the CUDA toolkit comes from elsewhere)."""
    kinds = sorted(set(backends))
    return {
        family: [*_EVERYWHERE, *_BASE[family], *(name for kind in kinds for name in _BACKENDS.get((family, kind), ()))]
        for family in FAMILIES
    }

"""The distribution's packages a box needs, by its family's own names: to serve, and to compile where it compiles."""

from __future__ import annotations

from tasks.planning.sharing import is_received
from tasks.spec.rig import Rig

FAMILIES = ("debian", "arch", "fedora")
"""Debian and Ubuntu, Arch and its kin, Fedora and its kin."""

_EVERYWHERE = ("ca-certificates", "curl", "dmidecode")
_BASE = {
    "debian": ("iproute2", "procps", "python3", "python3-venv"),
    "arch": ("iproute2", "procps-ng", "python"),
    "fedora": ("iproute", "procps-ng", "python3"),
}
_COMPILERS_EVERYWHERE = ("ccache", "cmake", "git")
_COMPILERS = {
    "debian": ("build-essential", "ninja-build"),
    "arch": ("base-devel", "ninja"),
    "fedora": ("gcc", "gcc-c++", "make", "ninja-build"),
}
# Fedora's as its own llama-cpp.spec asks for them. The CUDA toolkit comes from elsewhere, and so may ROCm.
_BACKENDS = {
    ("debian", "vulkan"): ("libvulkan-dev", "glslc", "spirv-headers"),
    ("arch", "vulkan"): ("vulkan-headers", "vulkan-icd-loader", "shaderc", "spirv-headers"),
    ("fedora", "vulkan"): ("vulkan-loader-devel", "glslc", "spirv-headers-devel"),
}
# What a release that came from another box is linked with; where it is built, the compilers bring it along.
_LIBRARIES = {
    "debian": ("libgomp1", "libstdc++6"),
    "arch": ("gcc-libs",),
    "fedora": ("libgomp", "libstdc++"),
}
_BACKEND_LIBRARIES = {
    ("debian", "vulkan"): ("libvulkan1",),
    ("arch", "vulkan"): ("vulkan-icd-loader",),
    ("fedora", "vulkan"): ("vulkan-loader",),
}
ROCM = {
    "debian": ["hipcc", "libhipblas-dev", "librocblas-dev", "rocminfo"],
    "arch": ["rocm-hip-sdk"],
    "fedora": ["hipcc", "hipblas-devel", "rocblas-devel", "rocm-hip-devel", "rocminfo"],
}
"""For HIP, unless AMD's own packages are there; a release from another box is linked with the same libraries."""


def wanted_packages(rig: Rig, name: str) -> dict[str, list[str]]:
    """Family -> names of what the box called ``name`` needs; no compiler where others build for it."""
    return {family: _of_family(family, rig, name) for family in FAMILIES}


def _of_family(family: str, rig: Rig, name: str) -> list[str]:
    built = sorted({build.backend for build in rig.builds if not is_received(build, name)})
    received = sorted({build.backend for build in rig.builds if is_received(build, name)})
    return [
        *_EVERYWHERE,
        *_BASE[family],
        *((*_COMPILERS_EVERYWHERE, *_COMPILERS[family]) if built else ()),
        *(package for backend in built for package in _BACKENDS.get((family, backend), ())),
        *(_LIBRARIES[family] if received else ()),
        *(package for backend in received for package in _BACKEND_LIBRARIES.get((family, backend), ())),
    ]

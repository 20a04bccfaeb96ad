"""The distribution's packages a box needs: for serving, and for compiling where it compiles."""

from __future__ import annotations

from tasks.planning.sharing import is_received
from tasks.spec.rig import Rig

_EVERYWHERE = ("ca-certificates", "curl", "dmidecode", "iproute2")
_DEBIAN = (*_EVERYWHERE, "procps", "python3", "python3-venv")
_ARCH = (*_EVERYWHERE, "procps-ng", "python")
_COMPILERS = ("ccache", "cmake", "git")
_DEBIAN_COMPILERS = (*_COMPILERS, "build-essential", "ninja-build")
_ARCH_COMPILERS = (*_COMPILERS, "base-devel", "ninja")
_DEBIAN_BACKENDS = {
    "vulkan": ("libvulkan-dev", "glslc", "spirv-headers"),
}
_ARCH_BACKENDS = {
    "vulkan": ("vulkan-headers", "vulkan-icd-loader", "shaderc", "spirv-headers"),
}
DEBIAN_ROCM = ("hipcc", "libhipblas-dev", "librocblas-dev", "rocminfo")
ARCH_ROCM = ("rocm-hip-sdk",)
"""For HIP, unless AMD's own packages are there; a release from another box is linked with the same libraries."""
# What a release that came from another box is linked with; where it is built, the compilers bring it along.
_DEBIAN_LIBRARIES = ("libgomp1", "libstdc++6")
_ARCH_LIBRARIES = ("gcc-libs",)
_DEBIAN_BACKEND_LIBRARIES = {"vulkan": ("libvulkan1",)}
_ARCH_BACKEND_LIBRARIES = {"vulkan": ("vulkan-icd-loader",)}


def debian_packages(rig: Rig, name: str) -> list[str]:
    """What the box called ``name`` needs of Debian or Ubuntu; no compiler where others build for it."""
    built, received = _backends(rig, name)
    return [
        *_DEBIAN,
        *(_DEBIAN_COMPILERS if built else ()),
        *(package for backend in built for package in _DEBIAN_BACKENDS.get(backend, ())),
        *(_DEBIAN_LIBRARIES if received else ()),
        *(package for backend in received for package in _DEBIAN_BACKEND_LIBRARIES.get(backend, ())),
    ]


def arch_packages(rig: Rig, name: str) -> list[str]:
    """The same of Arch and its kin."""
    built, received = _backends(rig, name)
    return [
        *_ARCH,
        *(_ARCH_COMPILERS if built else ()),
        *(package for backend in built for package in _ARCH_BACKENDS.get(backend, ())),
        *(_ARCH_LIBRARIES if received else ()),
        *(package for backend in received for package in _ARCH_BACKEND_LIBRARIES.get(backend, ())),
    ]


def _backends(rig: Rig, name: str) -> tuple[list[str], list[str]]:
    """Those this box builds for, and those whose builds it receives."""
    built = {build.backend for build in rig.builds if not is_received(build, name)}
    return sorted(built), sorted({build.backend for build in rig.builds if is_received(build, name)})

"""A release: a build of llama.cpp in its own directory, named by everything that determines it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from llamarig.declare.build import Build
from llamarig.declare.kv_cache import KERNEL_TYPES
from llamarig.declare.model import Model
from llamarig.remote.shared.jobs import BuildJob, Source
from llamarig.render import layout

TARGETS = ("llama-server", "llama-bench", "llama-fit-params")
_RECIPE = 1
"""Raised when the build procedure changes, so that releases of the old procedure get other names."""

# The pairs with flash-attention kernels by default (ggml/cmake/common.cmake, pinned commit).
_DEFAULT_KV_PAIRS = ("q4_0-q4_0", "q8_0-q8_0", "f16-f16", "bf16-bf16")


def kv_pairs(build: Build, models: Iterable[Model]) -> list[str]:
    """The K-V cache type pairs, used or declared, that need kernels besides llama.cpp's default ones.

    A model with a type that has no kernels runs without them.
    """
    types = [(model.serve.cache_type_k, model.serve.cache_type_v) for model in models if model.build == build.name]
    used = {f"{k}-{v}" for k, v in types if KERNEL_TYPES.issuperset((k, v))}
    return sorted((used | set(build.kv_cache_pairs)) - set(_DEFAULT_KV_PAIRS))


def has_pages(build: Build, models: Iterable[Model]) -> bool:
    """Whether the pages of the web UI are compiled into a release."""
    return build.web_ui or any(model.serve.web_ui for model in models if model.build == build.name)


def cmake_definitions(build: Build, models: Iterable[Model]) -> dict[str, str]:
    """All -D definitions of a build, in a fixed order."""
    models = tuple(models)
    definitions = {
        "CMAKE_BUILD_TYPE": "Release",
        # Libraries are found beside the binary, so that a release needs nothing outside its directory.
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "$ORIGIN",
        "GGML_CCACHE": "ON",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        "LLAMA_BUILD_UI": "ON" if has_pages(build, models) else "OFF",
        # Would be an unpinned download at build time.
        "LLAMA_USE_PREBUILT_UI": "OFF",
        # Without a certificate only needed for HTTPS downloads by llama-server, which a unit does not do.
        "LLAMA_OPENSSL": "ON" if build.tls else "OFF",
        # Without these two, a binary from a shallow fetch or an archive reports its commit as "unknown".
        "LLAMA_BUILD_COMMIT": build.source.commit,
        # Counted on the box where the source has its history (remote/build/source_tree.py).
        "LLAMA_BUILD_NUMBER": "0",
    }
    if build.backend == "cuda":
        definitions |= {
            "GGML_CUDA": "ON",
            # Would be linked wherever it is installed; only --split-mode tensor uses it.
            "GGML_CUDA_NCCL": "OFF",
            "CMAKE_CUDA_ARCHITECTURES": ";".join(build.architectures),
        }
        toolkit = cuda_root(build)
        definitions |= {
            "CMAKE_CUDA_COMPILER": f"{toolkit}/bin/nvcc",
            "CUDAToolkit_ROOT": toolkit,
            "CMAKE_INSTALL_RPATH": f"$ORIGIN;{toolkit}/lib64",
        }
    elif build.backend == "vulkan":
        definitions["GGML_VULKAN"] = "ON"
    elif build.backend == "hip":
        definitions |= {"GGML_HIP": "ON", "GPU_TARGETS": ";".join(build.architectures)}
    pairs = kv_pairs(build, models)
    if pairs and build.backend in ("cuda", "hip"):
        definitions["GGML_CUDA_FA_QUANTS"] = ";".join([*_DEFAULT_KV_PAIRS, *pairs])
    return definitions | dict(sorted(build.cmake.items()))


def cuda_root(build: Build) -> str:
    """Root of a build's CUDA toolkit: the declared path, or that of the toolkit from PyPI."""
    toolkit = build.cuda_toolkit or ""
    return toolkit if toolkit.startswith("/") else f"{layout.CUDA}/{toolkit}/root"


def release_id(build: Build, models: Iterable[Model]) -> str:
    """``<commit>-<build key>``, equal for two builds exactly when their results are.

    Where the source comes from is not part of it: the commit, or the sha256 of the archive, identifies the source.
    """
    shape = {
        "recipe": _RECIPE,
        "source": build.source.model_dump(mode="json", exclude={"url", "package", "version"}),
        "cmake": cmake_definitions(build, models),
    }
    key = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:8]
    return f"{build.source.commit}-{key}"


def release_path(build: Build, models: Iterable[Model]) -> str:
    """Directory of a release on the box."""
    return f"{layout.RELEASES}/{release_id(build, models)}"


def build_job(build: Build, models: Iterable[Model]) -> BuildJob:
    """Describe a build for remote/build/build_release.py."""
    models = tuple(models)
    return BuildJob(
        release=release_path(build, models),
        work=f"{layout.WORK}/{release_id(build, models)}",
        cache=layout.CACHE,
        source=Source.from_json(build.source.model_dump(mode="json")),
        backend=build.backend,
        cmake=cmake_definitions(build, models),
        targets=TARGETS,
        pip=f"{layout.HUB_VENV}/bin/python" if build.source.kind == "sdist" and build.source.package else "",
    )

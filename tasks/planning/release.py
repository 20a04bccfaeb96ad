"""A release: one build of llama.cpp in a directory of its own, named by everything that shaped it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tasks.planning import layout
from tasks.planning.difference import Difference
from tasks.spec.build import Build
from tasks.spec.kv_cache import KERNEL_TYPES
from tasks.spec.model import Model

TARGETS = ("llama-server", "llama-bench", "llama-fit-params")
_RECIPE = 1
"""Raised when the way of building changes, so that a release built the old way is not mistaken for a new one."""

# The pairs llama.cpp compiles flash-attention kernels for unasked (ggml/cmake/common.cmake, pinned commit).
_DEFAULT_KV_PAIRS = ("q4_0-q4_0", "q8_0-q8_0", "f16-f16", "bf16-bf16")


def kv_pairs(build: Build, models: Iterable[Model]) -> list[str]:
    """The K-V cache type pairs that are used or declared and that llama.cpp would not compile kernels for by itself.

    A model with a type that no kernels exist for runs without them.
    """
    types = [(model.serve.cache_type_k, model.serve.cache_type_v) for model in models if model.build == build.name]
    used = {f"{k}-{v}" for k, v in types if KERNEL_TYPES.issuperset((k, v))}
    return sorted((used | set(build.kv_cache_pairs)) - set(_DEFAULT_KV_PAIRS))


def cmake_definitions(build: Build, models: Iterable[Model]) -> dict[str, str]:
    """The -D definitions of a build, complete and in a fixed order."""
    definitions = {
        "CMAKE_BUILD_TYPE": "Release",
        # Libraries are found beside the binary, so that a release directory is all a server needs.
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "$ORIGIN",
        "GGML_CCACHE": "ON",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        # The prebuilt web UI is an unpinned download at build time, and npm is no toolchain of ours.
        "LLAMA_BUILD_UI": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",
        # Only for HTTPS downloads by llama-server itself, which a unit of ours never does.
        "LLAMA_OPENSSL": "OFF",
        # A shallow fetch and a source archive know no commit; without these two the binary says "unknown".
        "LLAMA_BUILD_COMMIT": build.source.commit,
        # Counted where the source is fetched with its history; see tasks/files/source_tree.py.
        "LLAMA_BUILD_NUMBER": "0",
    }
    if build.backend == "cuda":
        definitions |= {
            "GGML_CUDA": "ON",
            # Linked silently where it happens to be installed; used only by --split-mode tensor.
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
    """Root of the CUDA toolkit of a build: the declared path, or the one installed from PyPI."""
    toolkit = build.cuda_toolkit or ""
    return toolkit if toolkit.startswith("/") else f"{layout.CUDA}/{toolkit}/root"


def release_id(build: Build, models: Iterable[Model]) -> str:
    """``<commit>-<build key>``: equal exactly when the same thing would be built in the same way.

    Where the source comes from is not part of it: the commit, or the archive's sha256, says what it is.
    """
    shape = {
        "recipe": _RECIPE,
        "source": build.source.model_dump(mode="json", exclude={"url"}),
        "cmake": cmake_definitions(build, models),
    }
    key = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:8]
    return f"{build.source.commit}-{key}"


def release_path(build: Build, models: Iterable[Model]) -> str:
    """Directory of the release on the box."""
    return f"{layout.RELEASES}/{release_id(build, models)}"


def build_job(build: Build, models: Iterable[Model]) -> dict[str, Any]:
    """What tasks/files/build_release.py is told."""
    models = tuple(models)
    return {
        "release": release_path(build, models),
        "work": f"{layout.WORK}/{release_id(build, models)}",
        "cache": layout.CACHE,
        "source": build.source.model_dump(mode="json"),
        "backend": build.backend,
        "cmake": cmake_definitions(build, models),
        "targets": list(TARGETS),
    }


def release_differences(path: str, manifest: dict[str, Any] | None, files: dict[str, int]) -> list[Difference]:
    """Is a release whole?

    :param manifest: the release's own manifest, None where there is none
    :param files: name -> size in bytes of what lies in its bin directory
    """
    what = f"llama.cpp release {path.rsplit('/', 1)[-1][:20]}"
    if manifest is None:
        return [Difference(what, "built", "not there")]
    wrong = [name for name, recorded in manifest.get("files", {}).items() if files.get(name) != recorded["size"]]
    if wrong:
        return [Difference(what, "whole", f"{', '.join(sorted(wrong))} missing or of another size")]
    return []

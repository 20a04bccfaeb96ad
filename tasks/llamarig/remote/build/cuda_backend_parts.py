"""Extracts from a llama.cpp source tree the parts of its CUDA backend that determine memory and need no GPU.

The parts are named below; the definitions they use are extracted with them. So the simulated GPU changes with the tree
it is built from, and a tree without one of the parts is refused with a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llamarig.remote.build.cpp_definitions import Definition, definitions
from llamarig.remote.shared.job_status import JobFailedError

BACKEND = Path("ggml/src/ggml-cuda")

PARTS = (
    "ggml_cuda_device_info",
    "ggml_cuda_stream_context",
    "ggml_backend_cuda_device_context",
    "ggml_backend_cuda_buffer_type_context",
    "ggml_backend_cuda_buffer_type_get_name",
    "ggml_backend_cuda_buffer_type_get_alignment",
    "ggml_backend_cuda_buffer_type_get_alloc_size",
    "ggml_backend_cuda_device_get_props",
    "ggml_backend_cuda_device_supports_op",
    "ggml_backend_cuda_device_supports_buft",
    "ggml_backend_cuda_device_offload_op",
    "ggml_backend_cuda_graph_optimize",
)


def parts_of(tree: Path, own: Iterable[str]) -> str:
    """C++ text of PARTS and of all they use, each definition after those it uses.

    :param own: names that the simulation defines itself
    :raises JobFailedError: when the tree has no CUDA backend, or one without a part that is needed
    """
    index = _index(tree)
    if not index:
        raise JobFailedError(
            f"this source tree has no CUDA backend ({BACKEND}): declare a source that is llama.cpp's own tree"
        )
    missing = [name for name in PARTS if name not in index]
    if missing:
        raise JobFailedError(
            f"this commit's CUDA backend has no {', '.join(missing)} (in {BACKEND}): GPUs cannot be simulated for it; "
            "plan on a box that has the GPUs, or with a commit near the default one"
        )
    extracted = set(own)
    text: list[str] = []

    def extract(name: str, nearby: Path | None) -> None:
        if name in extracted or name not in index:
            return
        extracted.add(name)
        file, found = _chosen(index[name], nearby)
        for definition in found:
            for word in sorted(definition.words - {name}):
                extract(word, file)
        text.append(f"// {file.name}\n" + "\n".join(definition.guarded for definition in found) + "\n")

    for name in PARTS:
        extract(name, None)
    return "\n".join(text)


def _index(tree: Path) -> dict[str, dict[Path, list[Definition]]]:
    """Name -> file -> its definitions there, without GPU kernels and their launches."""
    index: dict[str, dict[Path, list[Definition]]] = {}
    for file in sorted((tree / BACKEND).glob("*.cu*")):
        for definition in definitions(file.read_text(encoding="utf-8", errors="replace")):
            if definition.declared or "__global__" in definition.text or "<<<" in definition.text:
                continue
            index.setdefault(definition.name, {}).setdefault(file, []).append(definition)
    return index


def _chosen(places: dict[Path, list[Definition]], nearby: Path | None) -> tuple[Path, list[Definition]]:
    """The definition to use: the file's own, or a header's, or another file's."""
    for file, found in places.items():
        if file == nearby:
            return file, found
    return min(places.items(), key=lambda place: (place[0].suffix != ".cuh", place[0]))

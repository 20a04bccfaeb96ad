"""Takes out of a llama.cpp source tree those parts of its CUDA backend that decide about memory and need no GPU.

What is taken stands below by name; what the taken parts call, and only that, follows by itself. So the simulated GPU
changes with the tree it is built from, and a tree that has it differently is refused in words.
Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tasks.files.cpp_definitions import Definition, definitions
from tasks.files.job_status import JobFailedError

BACKEND = Path("ggml/src/ggml-cuda")

TAKEN = (
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
    """C++ text of TAKEN and of all it needs, each definition after those it uses.

    :param own: names that are not to be taken, because the simulation has its own
    :raises JobFailedError: when the tree has no CUDA backend, or one without a part that is needed
    """
    index = _index(tree)
    if not index:
        raise JobFailedError(
            f"this source tree has no CUDA backend ({BACKEND}): declare a source that is llama.cpp's own tree"
        )
    missing = [name for name in TAKEN if name not in index]
    if missing:
        raise JobFailedError(
            f"this commit's CUDA backend has no {', '.join(missing)} (in {BACKEND}): GPUs cannot be simulated for it; "
            "plan on a box that has the GPUs, or with a commit near the default one"
        )
    done = set(own)
    text: list[str] = []

    def take(name: str, nearby: Path | None) -> None:
        if name in done or name not in index:
            return
        done.add(name)
        file, found = _chosen(index[name], nearby)
        for definition in found:
            for word in sorted(definition.words - {name}):
                take(word, file)
        text.append(f"// {file.name}\n" + "\n".join(definition.guarded for definition in found) + "\n")

    for name in TAKEN:
        take(name, None)
    return "\n".join(text)


def _index(tree: Path) -> dict[str, dict[Path, list[Definition]]]:
    """Name -> file -> its definitions there. Code for the GPU itself is left out: nothing here runs on one."""
    index: dict[str, dict[Path, list[Definition]]] = {}
    for file in sorted((tree / BACKEND).glob("*.cu*")):
        for definition in definitions(file.read_text(encoding="utf-8", errors="replace")):
            if definition.declared or "__global__" in definition.text or "<<<" in definition.text:
                continue
            index.setdefault(definition.name, {}).setdefault(file, []).append(definition)
    return index


def _chosen(places: dict[Path, list[Definition]], nearby: Path | None) -> tuple[Path, list[Definition]]:
    """A file's own definition comes before a header's, and that before another file's."""
    for file, found in places.items():
        if file == nearby:
            return file, found
    return min(places.items(), key=lambda place: (place[0].suffix != ".cuh", place[0]))

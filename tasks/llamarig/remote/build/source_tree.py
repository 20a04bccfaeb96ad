"""Reads from a llama.cpp source tree which CMake options it has, and from its git server the build number.

A table of versions instead would be wrong for forks and for later commits.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from llamarig.remote.shared.companion_files import ARCHITECTURES
from llamarig.remote.shared.job_status import JobFailedError

FA_QUANTS = "GGML_CUDA_FA_QUANTS"
FA_ALL_QUANTS = "GGML_CUDA_FA_ALL_QUANTS"


def definitions_for(source: Path, cmake: dict[str, str]) -> dict[str, str]:
    """Translate the -D definitions to the options of this tree.

    Commits before llama.cpp #28079 cannot compile kernels for single pairs of KV cache types, only for all or a few.

    :raises JobFailedError: for a tree that has neither option
    """
    if FA_QUANTS not in cmake or _has_option(source, FA_QUANTS):
        return cmake
    if not _has_option(source, FA_ALL_QUANTS):
        raise JobFailedError(
            f"this llama.cpp can compile no flash-attention kernels for the KV cache types {cmake[FA_QUANTS]}: declare "
            "cache types f16 or q8_0, or a newer commit"
        )
    return {name: value for name, value in cmake.items() if name != FA_QUANTS} | {FA_ALL_QUANTS: "ON"}


def known_architectures(source: Path) -> list[str]:
    """The model architectures that this tree serves: what general.architecture of a GGUF file may be.

    Empty for a tree with another list than src/llama-arch.cpp of the pinned commit has. Those of files that are loaded
    with a model are left out.
    """
    try:
        text = (source / "src" / "llama-arch.cpp").read_text(errors="replace")
    except FileNotFoundError:
        return []
    found = re.findall(r'\{\s*LLM_ARCH_\w+,\s*"([\w.-]+)"\s*\}', text)
    return sorted(set(found) - ARCHITECTURES.keys())


def _has_option(source: Path, option: str) -> bool:
    word = re.compile(rf"\b{option}\b")
    return any(
        word.search(path.read_text(errors="replace"))
        for pattern in ("CMakeLists.txt", "ggml/CMakeLists.txt", "ggml/cmake/*.cmake", "ggml/src/*/CMakeLists.txt")
        for path in source.glob(pattern)
    )


def build_number(url: str, commit: str) -> int:
    """Number of commits up to this one, as in upstream's release names (b8149).

    0 where the server cannot send commits without their files (a few megabytes instead of hundreds), or does not
    answer: the number is only shown to people.
    """
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    # git shows the server's capabilities only in a trace of its packets.
    listing = ["git", "-c", "protocol.version=2", "ls-remote", url, "refs/heads/no-such-branch"]
    listed = subprocess.run(listing, capture_output=True, text=True, env={**environment, "GIT_TRACE_PACKET": "1"})
    if not re.search(r"< fetch=[^\n]*\bfilter\b", listed.stderr):
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        for arguments in (
            ["init", "--quiet", "--bare"],
            ["remote", "add", "origin", url],
            ["fetch", "--quiet", "--no-tags", "--filter=tree:0", "origin", commit],
            ["rev-list", "--count", commit],
        ):
            done = subprocess.run(["git", "-C", scratch, *arguments], capture_output=True, text=True, env=environment)
            if done.returncode:
                return 0
    return int(done.stdout)

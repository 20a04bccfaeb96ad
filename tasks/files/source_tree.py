"""What a llama.cpp source tree can tell of itself: which CMake options it has, and the build number upstream gives it.

Asked of the tree that is there and not of a table of versions, which would be wrong for forks and for tomorrow.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from tasks.files.job_status import JobFailedError

FA_QUANTS = "GGML_CUDA_FA_QUANTS"
FA_ALL_QUANTS = "GGML_CUDA_FA_ALL_QUANTS"


def definitions_for(source: Path, cmake: dict[str, str]) -> dict[str, str]:
    """The -D definitions in the words of this tree.

    Commits before llama.cpp #28079 cannot compile kernels for single KV pairs, only for all of them or for few.

    :raises JobFailedError: for a tree that knows neither way
    """
    if FA_QUANTS not in cmake or has_option(source, FA_QUANTS):
        return cmake
    if not has_option(source, FA_ALL_QUANTS):
        raise JobFailedError(
            f"this llama.cpp can compile no flash-attention kernels for the KV cache types {cmake[FA_QUANTS]}: declare "
            "cache types f16 or q8_0, or a newer commit"
        )
    return {name: value for name, value in cmake.items() if name != FA_QUANTS} | {FA_ALL_QUANTS: "ON"}


def has_option(source: Path, option: str) -> bool:
    """Whether the tree's CMake files name an option (with their own prefix or a longer word, they do not)."""
    word = re.compile(rf"\b{option}\b")
    return any(
        word.search(path.read_text(errors="replace"))
        for pattern in ("CMakeLists.txt", "ggml/CMakeLists.txt", "ggml/cmake/*.cmake", "ggml/src/*/CMakeLists.txt")
        for path in source.glob(pattern)
    )


def build_number(url: str, commit: str) -> int:
    """How many commits lead to this one, which is the number in upstream's release names (b8149).

    0 where the server cannot send commits without the files in them (a few megabytes instead of hundreds), or does not
    answer: the number is a name for people, and nothing depends on it.
    """
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    # What the server is able to do is among the first packets it sends; there is no other way to ask.
    asked = ["git", "-c", "protocol.version=2", "ls-remote", url, "refs/heads/no-such-branch"]
    told = subprocess.run(asked, capture_output=True, text=True, env={**environment, "GIT_TRACE_PACKET": "1"})
    if not re.search(r"< fetch=[^\n]*\bfilter\b", told.stderr):
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

"""Compares models with the source of builds that have just begun, before the first byte of the models is fetched."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from llamarig.remote.build.source_tree import known_architectures
from llamarig.remote.shared.companion_files import ARCHITECTURES, refusal
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import WantedArchitecture

PATIENCE_S = 120
"""For the source, which a build fetches first: 30 MB. Without it nothing is compared, and the download goes on."""
_POLL_S = 0.2


def check_architectures(
    wanted: Iterable[WantedArchitecture], progress: Progress, patience_s: float = PATIENCE_S
) -> None:
    """Wait for the source of each build and look for the architecture there.

    :raises JobFailedError: naming the models that llama.cpp would not load
    """
    deadline = time.monotonic() + patience_s
    unknown = []
    for each in wanted:
        work = Path(each.work)
        while work.is_dir() and not _is_whole(work, each.commit) and time.monotonic() < deadline:
            progress.step("waiting for llama.cpp's source, to compare the model with it")
            time.sleep(_POLL_S)
        known = known_architectures(work / "source") if _is_whole(work, each.commit) else []
        if known and each.architecture not in known:
            unknown.append(not_known(each.model, each.architecture, each.commit[:12]))
    if unknown:
        raise JobFailedError("; ".join(unknown))


def not_known(model: str, architecture: str, commit: str) -> str:
    """The refusal of a model that a commit of llama.cpp would not load."""
    if architecture in ARCHITECTURES:
        return refusal(model, f"architecture {architecture}", ARCHITECTURES[architecture])
    return (
        f"model {model!r} is of the architecture {architecture}, which llama.cpp {commit} does not know: declare a "
        "newer commit, or another model; nothing was fetched"
    )


def _is_whole(work: Path, commit: str) -> bool:
    """Whether the source tree is complete (the marker that build_release.py writes)."""
    marker = work / "source.commit"
    return marker.exists() and marker.read_text() == commit

"""Whether a download that is already running on the box replaces the requested one, and the refusal if it does not."""

from __future__ import annotations

from collections.abc import Iterable

from llamarig.facts.jobs import RunningJob
from llamarig.remote.shared.jobs import FetchJob
from llamarig.render import layout
from llamarig.render.model_paths import GIB

_SAME = {"endpoint": "hub.endpoint", "proxy": "hub.proxy", "bytes_per_s": "hub.max_mb_s"}
"""Field of a job -> the declaration that it comes from."""


def missing_from_running(running: FetchJob, requested: FetchJob, again: Iterable[str] = ()) -> list[str]:
    """Why the running download does not replace the requested one; empty if it does.

    It may fetch more than is requested, if more was missing when it started or another deploy declares other models.

    :param again: targets whose bytes are wrong although their records are valid, so that the running job skips them
    """
    fetched = {(file.target, file.sha256) for file in running.files}
    again = set(again)
    missing = [
        file.path.rpartition("/")[2]
        for file in requested.files
        if (file.target, file.sha256) not in fetched or file.target in again
    ]
    other = [f"another {name}" for key, name in _SAME.items() if getattr(running, key) != getattr(requested, key)]
    return [*other, *(f"no {name}" for name in missing)]


def running_download_refusal(running: RunningJob, lacks: Iterable[str]) -> str:
    """The refusal of a download while another one runs."""
    files = running.read(FetchJob).files
    repos = ", ".join(sorted({file.repo for file in files})) or "an unknown repository"
    size = sum(file.size for file in files)
    return (
        f"another download is running on the box{running.by_and_since}: {len(files)} files of {repos}, "
        f"{size / GIB:.2f} GiB. "
        f"It does not fetch what is declared here ({', '.join(lacks)}). Wait until it ends and run deploy.py again; or "
        "stop it, which keeps what it has fetched: run deploy.py with --data takeover=1, or on the box "
        f"systemctl stop '{layout.job_unit('fetch')}*'"
    )

"""A download that is under way on the box: whether it brings what is asked for, and what to say where it does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.planning import layout
from tasks.planning.shards import GIB

_SAME = {"endpoint": "hub.endpoint", "proxy": "hub.proxy", "bytes_per_s": "hub.max_mb_s"}
"""Of a job's fields those that its owner declares, and where."""


@dataclass(frozen=True)
class RunningJob:
    """``text``: its job.json; ``job``: what that says, empty where it is none; ``since``: in systemd's words."""

    text: str = ""
    job: Mapping[str, Any] = field(default_factory=dict)
    since: str = ""


def lacking(running: Mapping[str, Any], asked: Mapping[str, Any], again: Iterable[str] = ()) -> list[str]:
    """Why waiting for the running download would not do, in words; nothing where it would.

    It may bring more than is asked for: it was started when more was missing, or for another deploy's models too.

    :param running: job.json of the running download
    :param asked: the job that would be started otherwise
    :param again: targets that count as arrived, for it too, and whose bytes are wrong
    """
    brings = {(file.get("target"), file.get("sha256")) for file in running.get("files", []) if isinstance(file, dict)}
    again = set(again)
    missing = [
        file["path"].rpartition("/")[2]
        for file in asked["files"]
        if (file["target"], file["sha256"]) not in brings or file["target"] in again
    ]
    other = [f"another {name}" for key, name in _SAME.items() if running.get(key) != asked[key]]
    return [*other, *(f"no {name}" for name in missing)]


def in_the_way(running: RunningJob, lacks: Iterable[str]) -> str:
    """The refusal of a download while another one is under way."""
    files = [file for file in running.job.get("files", []) if isinstance(file, dict)]
    repos = ", ".join(sorted({str(file.get("repo")) for file in files})) or "something unknown"
    size = sum(file["size"] for file in files if isinstance(file.get("size"), int))
    since = running.since or "some time"
    return (
        f"another download is under way on the box since {since}: {len(files)} files of {repos}, {size / GIB:.2f} GiB. "
        f"It is not what is declared here ({', '.join(lacks)}). Wait for its end and run deploy.py again; or stop it "
        f"on the box, which loses nothing that came: systemctl stop '{layout.job_unit('fetch')}*'"
    )

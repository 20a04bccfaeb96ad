"""Where this package was installed from, as a requirement that installs the same again (PEP 610, PEP 508)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from llamarig.declare.secrets import url_secret

NAME = "llamarig"


class UnknownOriginError(Exception):
    """The package does not say where it is from, or from a place that cannot be written down; the message says why."""


@dataclass(frozen=True)
class Origin:
    """``requirement``: for the dependencies of a project; ``upgrade``: a sentence on how to get another version."""

    requirement: str
    upgrade: str


def installed_from() -> Origin:
    """The origin of the package that runs.

    :raises UnknownOriginError: where it was installed from an index by its name, which anybody could have registered
    """
    try:
        text = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise UnknownOriginError(
            f"{NAME} was not installed from a git commit, an archive or a directory, and a bare name in a list of "
            "dependencies could be anybody's package: install it from one of these, for example `uv tool install "
            "git+https://HOST/OWNER/REPOSITORY@COMMIT`"
        )
    return origin_of(json.loads(text))


def origin_of(direct_url: Mapping[str, Any]) -> Origin:
    """The origin that a direct_url.json describes.

    :raises UnknownOriginError: for a URL with a login or a token, or one that names no exact version
    """
    url = str(direct_url["url"])
    if secret := url_secret(url):
        raise UnknownOriginError(f"the URL that {NAME} was installed from holds {secret}: install it from one without")
    below = f"#subdirectory={direct_url['subdirectory']}" if direct_url.get("subdirectory") else ""
    if vcs := direct_url.get("vcs_info"):
        commit = str(vcs.get("commit_id", ""))
        if vcs.get("vcs") != "git" or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
            raise UnknownOriginError(f"{NAME} was installed from {url} without a commit of git: install it from one")
        return Origin(
            f"{NAME} @ git+{url}@{commit}{below}",
            "For another version of llamarig, put its commit behind the @, and run `uv sync`.",
        )
    if "archive_info" in direct_url:
        sha256 = _sha256(direct_url["archive_info"])
        fragment = f"#sha256={sha256}" if sha256 and not below else below
        return Origin(
            f"{NAME} @ {url}{fragment}",
            "For another version of llamarig, put its URL and sha256 here, and run `uv sync`.",
        )
    directory = re.sub(r"^file://", "", url)
    return Origin(
        f"{NAME} @ {url}{below}",
        f"llamarig is installed from {directory}: after a change there, run `uv sync --reinstall-package {NAME}`.",
    )


def _sha256(archive: Mapping[str, Any]) -> str:
    hashes = archive.get("hashes") or {}
    return str(hashes.get("sha256") or str(archive.get("hash", "")).partition("sha256=")[2])

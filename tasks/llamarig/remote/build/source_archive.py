"""Downloads the archive of a source, with limits and a sha256."""

from __future__ import annotations

import fcntl
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamarig.remote.build.package_index import archive_url, shown
from llamarig.remote.download.verified_files import sha256_of
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import Source

LARGEST_BYTES = 1 << 30
"""Of an archive. llama.cpp's own is 30 to 70 MB."""
SILENCE_S = 60
"""Seconds without a byte after which the server is given up."""
DEADLINE_S = 3600
"""Seconds in which an archive has to arrive: 70 MB at 20 kB/s."""


def download(source: Source, cache: Path, progress: Progress, pip: str = "") -> Path:
    """Return the source archive, from the cache, its URL or pip's index, with the declared sha256.

    Of several builds at once, one downloads and the others wait for it.

    :param pip: a Python that has pip, for a source that is named by package and version
    :raises JobFailedError: when it cannot be downloaded, is too large or slow, or has another sha256
    """
    archive = cache / "sources" / (source.sha256 or "")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with _locked(archive.parent):
        if archive.exists() and sha256_of(archive) == source.sha256:
            return archive
        part = archive.with_suffix(".part")
        try:
            url = source.url or archive_url(source.package or "", source.version or "", source.sha256 or "", pip)
            _receive(url, part, progress)
            if (found := sha256_of(part)) != source.sha256:
                raise JobFailedError(f"{shown(url)} has sha256 {found}, declared {source.sha256}: not used")
            part.replace(archive)
        finally:
            part.unlink(missing_ok=True)
    return archive


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _receive(url: str, part: Path, progress: Progress) -> None:
    began, done, name = time.monotonic(), 0, shown(url)
    try:
        with urllib.request.urlopen(url, timeout=SILENCE_S) as response, part.open("wb") as out:
            declared = response.headers.get("Content-Length") or ""
            total = int(declared) if declared.isascii() and declared.isdigit() else 0
            while block := response.read1(1 << 20):
                out.write(block)
                done += len(block)
                if max(done, total) > LARGEST_BYTES:
                    raise JobFailedError(f"{name} is larger than {LARGEST_BYTES >> 20} MiB: no source archive is")
                if time.monotonic() - began > DEADLINE_S:
                    raise JobFailedError(f"{name}: {done >> 20} MiB came in {DEADLINE_S} s: check this box's network")
                progress.step("downloading the source archive", done=done, total=total, unit="bytes")
    except urllib.error.HTTPError as error:
        raise JobFailedError(f"{name} could not be downloaded (HTTP status {error.code}): check the URL") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise JobFailedError(f"{name} could not be downloaded ({reason}): check this box's network") from None
    if done < total:
        raise JobFailedError(f"{name} ended after {done} of {total} bytes: run this again")

"""Finds the archive of a Python package in the index that this box's pip is configured with, a mirror or PyPI.

pip itself is asked for the index and not for the archive: to download one it would run the build system of the package.
The configuration that counts is the box's own: /etc/pip.conf, and PIP_INDEX_URL in /etc/environment.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import unquote, urljoin, urlsplit

from llamarig.remote.shared.job_status import JobFailedError

_TYPES = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_LARGEST_PAGE = 32 << 20
"""Bytes. PyPI's page of a package with a thousand releases has a few megabytes."""
_SILENCE_S = 60
_INDEX = re.compile(r"--index-url <url>.*?\(default:?\s+(\S+?)\)", re.DOTALL)
"""In pip's help, which shows the configured value as the default."""


def archive_url(package: str, version: str, sha256: str, python: str) -> str:
    """Return the URL of the source archive with this sha256.

    :param python: an interpreter that has pip
    :raises JobFailedError: when the index does not have it, or does not answer
    """
    index = index_url(python)
    page = urljoin(index.rstrip("/") + "/", f"{re.sub(r'[-_.]+', '-', package).lower()}/")
    found = list(_files(page))
    name = re.sub(r"[-_.]+", "_", package).lower()
    wanted = f"{name}-{version}.tar.gz"
    same_name = [(url, digest) for file, url, digest in found if re.sub(r"[-.]+(?=.*-)", "_", file).lower() == wanted]
    for url, digest in [*((url, digest) for _, url, digest in found), *same_name]:
        if digest == sha256:
            return url
    if same_name and same_name[0][1]:
        raise JobFailedError(
            f"{wanted} of {shown(index)} has sha256 {same_name[0][1]}, declared {sha256}: not used; compare it with a "
            "download that you trust"
        )
    if same_name:
        return same_name[0][0]  # an index without digests: the archive itself is compared
    raise JobFailedError(f"{shown(index)} has no {wanted}: check package and version, or this box's pip configuration")


def index_url(python: str) -> str:
    """Return the URL of pip's index, with a login if it has one.

    :raises JobFailedError: when pip does not tell it
    """
    configured = re.findall(
        r"^(?:(:env:)|global|download)\.index-url='?([^'\n]+)'?$", _run([python, "-m", "pip", "config", "list"]), re.M
    )
    # The environment goes before the files.
    for _, url in sorted(configured, key=lambda one: not one[0]):
        return str(url)
    found = _INDEX.search(_run([python, "-m", "pip", "download", "--help"]))
    if found is None:
        raise JobFailedError("pip of this box does not say which index it uses: declare the source by its url")
    return found[1]


def shown(url: str) -> str:
    """A URL without a login."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _files(page: str) -> Iterator[tuple[str, str, str]]:
    """Name, URL and sha256 (empty where it is not given) of each file on the page of a package (PEP 503 and 691)."""
    content, kind = _page(page)
    if "json" in kind:
        for file in json.loads(content).get("files", ()):
            yield file["filename"], urljoin(page, file["url"]), file.get("hashes", {}).get("sha256", "")
        return
    for link in re.findall(r"<a\s[^>]*?href=[\"']([^\"']+)[\"']", content, re.IGNORECASE):
        url, _, fragment = html.unescape(link).partition("#")
        digest = re.match(r"sha256=([0-9a-f]{64})", fragment)
        yield unquote(url.rpartition("/")[2]), urljoin(page, url), digest[1] if digest else ""


def _page(url: str) -> tuple[str, str]:
    """Content and content type of a page; a directory of files has it as index.html."""
    address = f"{url}index.html" if url.startswith("file:") else url
    request = urllib.request.Request(address, headers={"Accept": _TYPES})
    try:
        with urllib.request.urlopen(request, timeout=_SILENCE_S) as response:
            content = response.read(_LARGEST_PAGE + 1)
            kind = response.headers.get("Content-Type") or ""
    except urllib.error.HTTPError as error:
        raise JobFailedError(f"{shown(url)} could not be read (HTTP status {error.code}): check the package") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise JobFailedError(f"{shown(url)} could not be read ({reason}): check this box's network") from None
    if len(content) > _LARGEST_PAGE:
        raise JobFailedError(f"{shown(url)} is larger than {_LARGEST_PAGE >> 20} MiB: no page of a package is")
    return content.decode(errors="replace"), kind


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout

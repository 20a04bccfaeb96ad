"""Asking the Hub where a locked file's bytes are right now, and whether they are still the locked ones.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import email.utils
import http.client
import os
import re
import string
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import timezone
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from tasks.files.hub_refusals import Refusal, printable, refused
from tasks.files.job_status import JobFailedError

ANSWER_WITHIN_S = 30
_MOVED = (301, 302, 303, 307, 308)


class TryAgainError(Exception):
    """Something that may pass by itself.

    :param after_s: how long the server asked to be left alone, in seconds
    :param outage: nobody answers, or says that it cannot just now: worth waiting for, by the clock
    """

    def __init__(self, message: str, after_s: float | None = None, *, outage: bool = False) -> None:
        super().__init__(message)
        self.after_s, self.outage = after_s, outage


class RefusedError(JobFailedError):
    """The Hub will not give this repository to whoever asks, or knows none of that name."""

    def __init__(self, endpoint: str, refusal: Refusal) -> None:
        super().__init__(refused(endpoint, [refusal]))
        self.refusal = refusal


class _StayHere(urllib.request.HTTPRedirectHandler):
    """The answer of the Hub itself is wanted, not that of the CDN it points to."""

    def redirect_request(self, *args: Any) -> None:
        return None


class KeepTokenHome(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and leaves the token behind where they lead to another origin (urllib takes it along)."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        """The request that follows, with the token or without."""
        further = super().redirect_request(req, *args)
        if further is not None and origin(further.full_url) != origin(req.full_url):
            further.remove_header("Authorization")
        return further


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: whoever shares all three may be told the same secrets."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class Hub:
    """One endpoint, asked through the declared proxy or none; ``token`` goes to this endpoint's host and no other."""

    def __init__(self, endpoint: str, token: str | None = None, proxy: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _StayHere)

    def headers_for(self, url: str) -> dict[str, str]:
        """What a request to this URL has to say about itself."""
        headers = {"User-Agent": "llamarig", "Accept-Encoding": "identity"}
        if self._token and origin(url) == origin(self.endpoint):
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def locate(self, file: Mapping[str, Any]) -> str:
        """URL of the bytes (on the real Hub a signed one, good for an hour), after the Hub confirmed their sha256.

        :raises TryAgainError: for what may pass by itself
        :raises JobFailedError: when the Hub refuses, or has something else there than the lock says
        """
        repo, commit, path = file["repo"], file["commit"], file["path"]
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(path)}"
        for _ in range(5):
            status, headers = self._head(url)
            moved = status in _MOVED and headers.get("Location")
            location = _web_address(url, headers["Location"]) if moved else url
            if location is None:
                raise JobFailedError(f"{self.endpoint} sends requests for {path} to what is no web address")
            # A renamed repository, or an endpoint that became https; but a sha256 beside it says: here are the bytes.
            if moved and "X-Linked-Etag" not in headers:
                url = location
                continue
            break
        else:
            raise TryAgainError(f"{self.endpoint} sends requests for {path} round in circles")
        self._judge(status, headers, file, url)
        # What contradicts the lock is refused; what says nothing (a plain mirror's ETag is no sha256) is left to the
        # sha256 of the bytes.
        sha256 = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"').lower()
        size = headers.get("X-Linked-Size") or (None if status in _MOVED else headers.get("Content-Length"))
        other = ""
        if re.fullmatch("[0-9a-f]{64}", sha256) and sha256 != file["sha256"]:
            other = f"sha256 {sha256[:12]}..., locked {file['sha256'][:12]}..."
        elif size is not None and size != str(file["size"]):
            other = f"{size} bytes, locked {file['size']}"
        if other:
            raise JobFailedError(
                f"{repo}: {path} at {commit[:12]} is not the locked file ({other}): nothing was downloaded"
            )
        return location

    def _judge(self, status: int, headers: Message, file: Mapping[str, Any], url: str) -> None:
        """Raise what an answer to HEAD means that is none of the file."""
        repo, commit, path = file["repo"], file["commit"], file["path"]
        if status < 400:
            return
        code, words = headers.get("X-Error-Code") or "", printable(headers.get("X-Error-Message") or "")
        if origin(url) != origin(self.endpoint) and not is_outage(status):
            raise JobFailedError(
                f"{self.endpoint} sends requests for {repo} on to {self._who(url)}, which answers HTTP {status}; no "
                "token is sent there: declare the address that has the files itself as hub.endpoint"
            )
        if status in (401, 403) or (status == 404 and code == "RepoNotFound"):
            raise RefusedError(self.endpoint, Refusal(repo, status, code, words, self._token is not None))
        if status == 404:
            what = f"commit {commit[:12]}" if code == "RevisionNotFound" else f"{path} at {commit[:12]}"
            raise JobFailedError(
                f"{repo} has no {what} any more: see what it has now with tasks/lock.py, and lock that"
            )
        raise TryAgainError(
            f"the Hub answered HTTP {status} for {path}", retry_after(headers), outage=is_outage(status)
        )

    def _who(self, url: str) -> str:
        return (
            self.endpoint if origin(url) == origin(self.endpoint) else "{0.scheme}://{0.netloc}".format(urlsplit(url))
        )

    def _head(self, url: str) -> tuple[int, Message]:
        request = urllib.request.Request(url, method="HEAD", headers=self.headers_for(url))
        try:
            with self._opener.open(request, timeout=ANSWER_WITHIN_S) as answer:
                return int(answer.status), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.headers
        except ValueError:  # from urllib's own look at a Location
            raise JobFailedError(f"{self._who(url)} sends requests to what is no web address") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            said = getattr(reason, "strerror", None) or reason or repr(error)
            raise TryAgainError(f"{self._who(url)} cannot be reached from this box ({said})", outage=True) from None


def read_token() -> str | None:
    """The Hub token, handed over by systemd as a credential; None for public repositories."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, "hub-token") if directory else None
    return path.read_text().strip() if path and path.exists() else None


def _web_address(url: str, location: str) -> str | None:
    """Where a redirect leads, in the characters that a request may have; None where that is no place on a network."""
    try:
        further = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1", errors="replace"))
        scheme, host, _ = origin(further)
    except ValueError:
        return None
    return further if scheme in ("http", "https") and host else None


def is_outage(status: int) -> bool:
    """Whether an HTTP status says: not now."""
    return status >= 500 or status == 429


def retry_after(headers: Mapping[str, str] | Message) -> float | None:
    """Seconds that an answer's Retry-After asks for, as a number or a date; None where it says nothing one can read.

    A date is of the server's clock, so it is read against the server's own Date: the box's clock may be wrong.
    """
    value = (headers.get("Retry-After") or "").strip()
    if re.fullmatch("[0-9]+", value):
        return float(value)
    until, now = _timestamp(value), _timestamp(headers.get("Date") or "")
    return None if until is None else max(0.0, until - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
    try:
        parsed = email.utils.parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError, IndexError):  # which one, depends on the Python
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()

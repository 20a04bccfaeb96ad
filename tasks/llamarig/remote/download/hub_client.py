"""Asks the Hub for the current location of a locked file, and checks that it is still the locked file."""

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
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from llamarig.remote.download.transfer import RetryableError
from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.jobs import FetchFile
from llamarig.remote.shared.printable import printable

_TIMEOUT_S = 30
_REDIRECTS = (301, 302, 303, 307, 308)


class Refusal(NamedTuple):
    """A refused repository; ``code`` and ``message`` are the Hub's X-Error-Code and X-Error-Message."""

    repo: str
    status: int
    code: str = ""
    message: str = ""
    with_token: bool = False


def refused(endpoint: str, refusals: list[Refusal]) -> str:
    """The message for all refusals.

    Kinds as in huggingface_hub 2.4, hf_raise_for_status.
    """
    repositories, remedies = [], []
    for kind, remedy in _REMEDIES.items():
        of_kind = sorted({refusal for refusal in refusals if _kind(refusal) == kind})
        if not of_kind:
            continue
        repositories += [f"{refusal.repo} ({_response(refusal, kind)})" for refusal in of_kind]
        pages = ", ".join(sorted({f"{endpoint}/{refusal.repo}" for refusal in of_kind}))
        remedies.append(remedy.format(pages=pages))
    return f"the Hub refuses {'; '.join(repositories)}: {'; '.join(remedies)}"


_REMEDIES = {
    "gated": "accept the terms on {pages} with your account, and name a token of that account with read permission for "
    "gated repositories as hub.token_env or hub.token_command",
    "token": "the token is not valid there (expired, revoked or of another Hub): make a new one with read permission, "
    "and name it as hub.token_env or hub.token_command",
    "hidden": "nothing is visible at {pages} with this access (deleted, renamed, made private, or access lost): look it"
    " up, and name a token of an account that may read it as hub.token_env or hub.token_command, or declare another "
    "repository",
    "forbidden": "the token of hub.token_env or hub.token_command needs read permission for {pages}",
}


def _kind(refusal: Refusal) -> str:
    if refusal.code == "RepoNotFound":
        return "hidden"
    if refusal.code == "GatedRepo" or not refusal.with_token:
        return "gated"
    return "token" if refusal.status == 401 else "forbidden"


def _response(refusal: Refusal, kind: str) -> str:
    # The Hub's message for a gated repository is a paragraph that repeats the remedy.
    message = f", '{refusal.message}'" if refusal.message and kind != "gated" else ""
    return f"HTTP {refusal.status}{message}"


def _shortened(text: str) -> str:
    """A server's text, cut to 150 printable characters on one line."""
    return printable(" ".join(text.split()))[:150]


class RefusedError(JobFailedError):
    """The Hub denies access to a repository, or knows none of that name."""

    def __init__(self, endpoint: str, refusal: Refusal) -> None:
        super().__init__(refused(endpoint, [refusal]))
        self.refusal = refusal


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Returns the Hub's own response, instead of following it to the CDN."""

    def redirect_request(self, *args: Any) -> None:
        return None


class TokenForOneOrigin(urllib.request.HTTPRedirectHandler):
    """Follows redirects without sending the token to another origin, as urllib would."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        """Return the next request, with or without the token."""
        redirected = super().redirect_request(req, *args)
        if redirected is not None and origin(redirected.full_url) != origin(req.full_url):
            redirected.remove_header("Authorization")
        return redirected


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL: the token goes only where all three are the endpoint's."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class Hub:
    """One endpoint of the Hub.

    :param token: sent to this endpoint's origin and no other
    :param proxy: used instead of any proxy in the environment
    """

    def __init__(self, endpoint: str, token: str | None = None, proxy: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect)

    def headers_for(self, url: str) -> dict[str, str]:
        """Headers of a request to this URL."""
        headers = {"User-Agent": "llamarig", "Accept-Encoding": "identity"}
        if self._token and origin(url) == origin(self.endpoint):
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def locate(self, file: FetchFile) -> str:
        """URL of the bytes (on the real Hub a signed one, valid for an hour), after a check of sha256 and size.

        :raises RetryableError: for a temporary failure
        :raises JobFailedError: when the Hub refuses, or has another file than the locked one
        """
        repo, commit, path = file.repo, file.commit, file.path
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(path)}"
        for _ in range(5):
            status, headers = self._head(url)
            moved = status in _REDIRECTS and headers.get("Location")
            location = _web_address(url, headers["Location"]) if moved else url
            if location is None:
                raise JobFailedError(f"{self.endpoint} redirects requests for {path} to what is no web address")
            # Without a sha256, the redirect is that of a renamed repository, or of an endpoint that became https.
            if moved and "X-Linked-Etag" not in headers:
                url = location
                continue
            break
        else:
            raise RetryableError(f"{self.endpoint} redirects requests for {path} in circles")
        self._check_status(status, headers, file, url)
        # Only what contradicts the lock is refused: a plain mirror's ETag is no sha256, then the bytes' own decides.
        sha256 = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"').lower()
        size = headers.get("X-Linked-Size") or (None if status in _REDIRECTS else headers.get("Content-Length"))
        difference = ""
        if re.fullmatch("[0-9a-f]{64}", sha256) and sha256 != file.sha256:
            difference = f"sha256 {sha256[:12]}..., locked {file.sha256[:12]}..."
        elif size is not None and size != str(file.size):
            difference = f"{size} bytes, locked {file.size}"
        if difference:
            raise JobFailedError(
                f"{repo}: {path} at {commit[:12]} is not the locked file ({difference}): nothing was downloaded"
            )
        return location

    def _check_status(self, status: int, headers: Message, file: FetchFile, url: str) -> None:
        """Raise the error that the status of a response to HEAD stands for."""
        repo, commit, path = file.repo, file.commit, file.path
        if status < 400:
            return
        code, message = headers.get("X-Error-Code") or "", _shortened(headers.get("X-Error-Message") or "")
        if origin(url) != origin(self.endpoint) and not is_outage(status):
            raise JobFailedError(
                f"{self.endpoint} redirects requests for {repo} to {self._server(url)}, which answers HTTP {status}; no"
                " token is sent there: declare the address that has the files itself as hub.endpoint"
            )
        if status in (401, 403) or (status == 404 and code == "RepoNotFound"):
            raise RefusedError(self.endpoint, Refusal(repo, status, code, message, self._token is not None))
        if status == 404:
            what = f"commit {commit[:12]}" if code == "RevisionNotFound" else f"{path} at {commit[:12]}"
            raise JobFailedError(
                f"{repo} has no {what} any more: see what it has now with tasks/lock.py, and lock that"
            )
        raise RetryableError(
            f"the Hub answered HTTP {status} for {path}", retry_after(headers), outage=is_outage(status)
        )

    def _server(self, url: str) -> str:
        return (
            self.endpoint if origin(url) == origin(self.endpoint) else "{0.scheme}://{0.netloc}".format(urlsplit(url))
        )

    def _head(self, url: str) -> tuple[int, Message]:
        request = urllib.request.Request(url, method="HEAD", headers=self.headers_for(url))
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return int(answer.status), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.headers
        except ValueError:  # urllib could not parse a Location
            raise JobFailedError(f"{self._server(url)} redirects requests to what is no web address") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            text = getattr(reason, "strerror", None) or reason or repr(error)
            raise RetryableError(f"{self._server(url)} cannot be reached from this box ({text})", outage=True) from None


def read_token() -> str | None:
    """The Hub token, handed over by systemd as a credential; None for public repositories."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, "hub-token") if directory else None
    return path.read_text().strip() if path and path.exists() else None


def _web_address(url: str, location: str) -> str | None:
    """Target of a redirect, quoted for a request; None if it is no http or https address."""
    try:
        target = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1", errors="replace"))
        scheme, host, _ = origin(target)
    except ValueError:
        return None
    return target if scheme in ("http", "https") and host else None


def is_outage(status: int) -> bool:
    """Whether an HTTP status means a temporary failure."""
    return status >= 500 or status == 429


def retry_after(headers: Mapping[str, str] | Message) -> float | None:
    """Seconds to wait by the response's Retry-After, a number or a date; None where it is absent or unreadable.

    A date is compared with the response's own Date: the box's clock may be wrong.
    """
    value = (headers.get("Retry-After") or "").strip()
    if re.fullmatch("[0-9]+", value):
        return float(value)
    until, now = _timestamp(value), _timestamp(headers.get("Date") or "")
    return None if until is None else max(0.0, until - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
    try:
        parsed = email.utils.parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError, IndexError):  # depends on the Python version
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()

"""Who may send a request: the Host that it names, the web page that it comes from, and its key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from llamarig.remote.front.settings import FrontKey

_HASH = re.compile(r"[0-9a-f]{64}")
_NOT_IN_THE_INTERNET = ("", ".local", ".lan", ".internal", ".home.arpa", ".localdomain")
"""Ends of names that nobody outside can register, so that no stranger's page can have such a name."""
_LARGEST_FILE = 64 << 10


class RefusedClientError(Exception):
    """A request that is answered without a model. ``status``: of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# --- names and pages --------------------------------------------------------------------------------------------------


def check_host(host: Optional[str], own_name: str, declared: Iterable[str]) -> None:
    """Refuse a request to a name that may be a stranger's (DNS rebinding).

    :param host: the Host header
    :param own_name: the box's host name
    :raises RefusedClientError: 421 Misdirected Request
    """
    name = _without_port(host or "").rstrip(".").lower()
    if _is_address(name) or name in ("localhost", *(each.lower() for each in declared)):
        return
    own = own_name.partition(".")[0].lower()
    if own and any(name == f"{own}{end}" for end in _NOT_IN_THE_INTERNET):
        return
    raise RefusedClientError(
        421,
        "this front does not serve the name of the Host header: call it by an address or by the box's own name, or "
        "declare the name in d.front(hosts=(...))",
    )


def check_origin(origin: Optional[str], host: Optional[str], declared: Iterable[str]) -> Optional[str]:
    """Refuse a request of another site's web page; return the origin where it is a declared one.

    :param origin: the Origin header, which browsers send with every request of a page but a plain GET
    :raises RefusedClientError: 403 Forbidden
    """
    if origin is None:
        return None
    if origin in declared:
        return origin
    if urlsplit(origin).netloc.lower() == (host or "").lower() and host:
        return None
    raise RefusedClientError(
        403, "this front does not answer the web pages of other sites: declare the page's origin in cors_origins"
    )


def _without_port(host: str) -> str:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:]*)(:\d{1,5})?", host)
    return match[1].strip("[]") if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# --- keys -------------------------------------------------------------------------------------------------------------


def key_in(headers: Mapping[str, str]) -> Optional[str]:
    """The key of a request: a bearer, Anthropic's header, or the password that a browser sends; None without one."""
    if key := headers.get("X-Api-Key"):
        return key
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2] or None
        except (binascii.Error, ValueError):
            return None
    return None


def hash_of(key: str) -> str:
    """What the box keeps of a key. Without a salt: a key is 256 random bits, so that none can be guessed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Client:
    """Whose request it is. ``models``: that the key may use, None for all."""

    name: str = ""
    models: Optional[frozenset[str]] = None


class Keys:
    """The declared keys, by the hashes in the files of a directory. A file may have several: an old and a new key."""

    def __init__(self, keys: Iterable[FrontKey], directory: Path, models: Iterable[str]) -> None:
        self._keys = {key.name: key for key in keys}
        self._directory = directory
        self._all = frozenset(models)
        self._names: dict[str, str] = {}
        self._stamp: tuple[object, ...] = ()
        self._looked_at = float("-inf")
        self.in_use: Counter[str] = Counter()

    @property
    def are_declared(self) -> bool:
        """Whether requests need a key."""
        return bool(self._keys)

    def client(self, headers: Mapping[str, str], now: float) -> Client:
        """Whose key a request has.

        :raises RefusedClientError: 401 where it has none of ours
        """
        if not self._keys:
            return Client()
        self._read(now)
        key = key_in(headers)
        name = self._names.get(hash_of(key)) if key is not None else None
        if name is None:
            problem = "a key is needed" if key is None else "the key is not one of this front's"
            raise RefusedClientError(401, f"{problem}: send it as `Authorization: Bearer KEY`")
        models = self._keys[name].models
        return Client(name, frozenset(models) if models else self._all)

    def begin(self, client: Client) -> None:
        """Count a request of a client's key.

        :raises RefusedClientError: 429 where it has as many as it may
        """
        limit = self._keys[client.name].concurrency if client.name else 0
        if limit and self.in_use[client.name] >= limit:
            raise RefusedClientError(429, f"key {client.name!r} has {limit} requests already, as many as it may")
        self.in_use[client.name] += 1

    def end(self, client: Client) -> None:
        """A request that `begin` has counted has ended."""
        self.in_use[client.name] -= 1

    def _read(self, now: float) -> None:
        """Read the files if they have changed: a key is replaced without a restart. Looked at once a second at most."""
        if now < self._looked_at + 1:
            return
        self._looked_at = now
        stamp = tuple(_stamp(self._directory / name) for name in self._keys)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._names = {each: name for name in self._keys for each in _hashes(self._directory / name)}


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _hashes(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE).decode("ascii", "replace")
    except OSError:
        return []
    return [line for line in text.split() if _HASH.fullmatch(line)]

"""Faults that a test switches on in the stand-in Hub, and the Hub's request log."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

Origin = Literal["hub", "cdn"]
Stage = Literal["answer", "sign", "range", "body"]

# The stage at which each field takes effect. For a fault with fields of several stages, each stage counts its own
# `times`.
STAGES: Mapping[Stage, tuple[str, ...]] = {
    "answer": ("status", "error_code", "retry_after", "delay_s", "redirect_loop"),
    "sign": ("expire_after_s",),
    "range": ("ignore_range",),
    "body": ("reset_after_bytes", "truncate_after_bytes", "corrupt", "bytes_per_s"),
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, applied to the requests that its first four fields select.

    path: a glob over the URL's path, where `*` also matches `/`. On the CDN a path is `/repos/ORG/NAME/SHA256/PATH`.
    times: apply to this many matching requests; None: to all of them.

    status: answer with this status, with error_code as X-Error-Code and retry_after seconds as Retry-After.
    delay_s: wait before answering.
    redirect_loop: answer 302 with the requested URL.
    expire_after_s: seconds for which the signed URL of a matching resolve request (origin "hub") is valid.
    ignore_range: answer a Range request with 200 and the whole file.
    reset_after_bytes: send this many bytes of the body, then a TCP reset.
    truncate_after_bytes: send this many bytes of the body, then close the connection normally, short of Content-Length.
    corrupt: change one byte in the middle of the body; the size stays right.
    bytes_per_s: rate limit of one connection.

    Faults of the body are not applied to one-byte bodies: hf_transfer's first request is `Range: bytes=0-0`, to learn
    the size, and would use up `times` before the download begins.
    """

    path: str = "*"
    origin: Origin | Literal["*"] = "*"
    method: str = "*"
    times: int | None = None

    status: int | None = None
    error_code: str | None = None
    retry_after: int | None = None
    delay_s: float | None = None
    redirect_loop: bool | None = None
    expire_after_s: float | None = None
    ignore_range: bool | None = None
    reset_after_bytes: int | None = None
    truncate_after_bytes: int | None = None
    corrupt: bool | None = None
    bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.origin not in ("hub", "cdn", "*"):
            raise ValueError(f"origin {self.origin!r} is none of hub, cdn, *")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times {self.times}: at least 1, or leave it out for always")
        if not any(self.acts_at(stage) for stage in STAGES):
            raise ValueError("a fault without an effect")

    def acts_at(self, stage: Stage) -> dict[str, Any]:
        """The fields that are set and take effect at this stage."""
        values = {name: getattr(self, name) for name in STAGES[stage]}
        return {name: value for name, value in values.items() if value is not None}

    def matches(self, origin: Origin, method: str, path: str) -> bool:
        return self.origin in (origin, "*") and self.method in (method, "*") and fnmatchcase(path, self.path)


@dataclass
class _ActiveFault:
    """One stage of a fault, and the number of requests that it still applies to."""

    fault: Fault
    stage: Stage
    left: int | None


@dataclass(frozen=True)
class Effect:
    """Combined effect of all faults on one request at one stage."""

    status: int | None = None
    error_code: str | None = None
    retry_after: int | None = None
    delay_s: float = 0
    redirect_loop: bool = False
    expire_after_s: float | None = None
    ignore_range: bool = False
    reset_after_bytes: int | None = None
    truncate_after_bytes: int | None = None
    corrupt: bool = False
    bytes_per_s: float | None = None


class Faults:
    """The faults that are switched on; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: list[_ActiveFault] = []

    def add(self, *faults: Fault) -> None:
        with self._lock:
            for fault in faults:
                self._active += [_ActiveFault(fault, stage, fault.times) for stage in STAGES if fault.acts_at(stage)]

    def add_json(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Add faults in their JSON form.

        :raises TypeError, ValueError: for invalid ones
        """
        self.add(*[Fault(**item) for item in items])

    def clear(self) -> None:
        with self._lock:
            self._active.clear()

    def take(self, stage: Stage, origin: Origin, method: str, path: str) -> Effect:
        """Return the effect on this request and count it in ``times`` of each matching fault. Newer faults override."""
        fields: dict[str, Any] = {}
        with self._lock:
            for active in self._active:
                if active.stage != stage or active.left == 0 or not active.fault.matches(origin, method, path):
                    continue
                fields |= active.fault.acts_at(stage)
                if active.left is not None:
                    active.left -= 1
        return Effect(**fields)

    def as_json(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {"stage": active.stage, "left": active.left, "path": active.fault.path, "origin": active.fault.origin}
                | active.fault.acts_at(active.stage)
                for active in self._active
            ]


@dataclass
class Request:
    """One request; status is 0 until it is answered, bytes_sent counts the body only."""

    method: str
    origin: Origin
    path: str
    range: str | None
    # Whether the request carried a token. Requests to the CDN must not.
    authorization: bool
    status: int = 0
    bytes_sent: int = 0


@dataclass
class Log:
    """Requests so far, oldest first, including those not yet answered."""

    _requests: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, request: Request) -> Request:
        with self._lock:
            self._requests.append(request)
        return request

    def clear(self) -> None:
        with self._lock:
            self._requests.clear()

    def requests(self) -> list[Request]:
        with self._lock:
            return [replace(request) for request in self._requests]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(request) for request in self.requests()]

"""Faults of the stand-in Hub that a test switches on, and its log of requests."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

Origin = Literal["hub", "cdn"]
Stage = Literal["answer", "sign", "range", "body"]

# When a fault's fields act. A fault with fields of several stages counts `times` for each of them.
STAGES: Mapping[Stage, tuple[str, ...]] = {
    "answer": ("status", "error_code", "retry_after", "delay_s", "redirect_loop"),
    "sign": ("expire_after_s",),
    "range": ("ignore_range",),
    "body": ("reset_after_bytes", "truncate_after_bytes", "corrupt", "bytes_per_s"),
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, for the requests that its first four fields select.

    path: a glob over the URL's path, where `*` also matches `/`. On the CDN a path is `/repos/ORG/NAME/SHA256/PATH`.
    times: for the first so many matching requests; None: for all of them.

    status: answer this instead; with error_code as X-Error-Code, and retry_after seconds as Retry-After.
    delay_s: wait before answering.
    redirect_loop: answer 302 with the requested URL.
    expire_after_s: seconds for which the signed URL of a matching resolve request (origin "hub") is valid.
    ignore_range: answer a Range request with 200 and the whole file.
    reset_after_bytes: send so many bytes of the body, then a TCP reset.
    truncate_after_bytes: the same with an orderly close, before the end by Content-Length.
    corrupt: one byte in the middle of the body is wrong; the size is right.
    bytes_per_s: speed limit of one connection.

    Faults of the body leave out bodies of one byte: hf_transfer's first request is `Range: bytes=0-0`, for the size,
    and would use up `times` before the download begins.
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
        """Its fields that are set and act at this stage."""
        values = {name: getattr(self, name) for name in STAGES[stage]}
        return {name: value for name, value in values.items() if value is not None}

    def concerns(self, origin: Origin, method: str, path: str) -> bool:
        return self.origin in (origin, "*") and self.method in (method, "*") and fnmatchcase(path, self.path)


@dataclass
class _Armed:
    """One stage of a fault, and for how many more requests."""

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
        self._armed: list[_Armed] = []

    def add(self, *faults: Fault) -> None:
        with self._lock:
            for fault in faults:
                self._armed += [_Armed(fault, stage, fault.times) for stage in STAGES if fault.acts_at(stage)]

    def add_json(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Add faults in their JSON form.

        :raises TypeError, ValueError: for invalid ones
        """
        self.add(*[Fault(**item) for item in items])

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()

    def take(self, stage: Stage, origin: Origin, method: str, path: str) -> Effect:
        """Effect on this request; counts one of each matching fault's ``times``. The newest fault takes precedence."""
        together: dict[str, Any] = {}
        with self._lock:
            for armed in self._armed:
                if armed.stage != stage or armed.left == 0 or not armed.fault.concerns(origin, method, path):
                    continue
                together |= armed.fault.acts_at(stage)
                if armed.left is not None:
                    armed.left -= 1
        return Effect(**together)

    def as_json(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {"stage": armed.stage, "left": armed.left, "path": armed.fault.path, "origin": armed.fault.origin}
                | armed.fault.acts_at(armed.stage)
                for armed in self._armed
            ]


@dataclass
class Request:
    """One request; status is 0 until it is answered, bytes_sent counts the body only."""

    method: str
    origin: Origin
    path: str
    range: str | None
    # Whether it carried a token, which must not reach the CDN.
    authorization: bool
    status: int = 0
    bytes_sent: int = 0


@dataclass
class Log:
    """Requests so far, oldest first, with those that are still being answered."""

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

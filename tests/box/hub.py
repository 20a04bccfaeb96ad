"""A stand-in for the Hugging Face Hub over HTTP, for tests: the real huggingface_hub and hf_transfer download from it.

Implemented, as the huggingface_hub 2.4 client sees it: model info, file tree, paths-info and refs; `resolve` with its
302 to a signed, expiring URL on a second origin (the CDN); LFS files by sha256 and small files by git blob id;
revisions, gated repositories, and the error codes that the client turns into exceptions. Not implemented: xet (no
X-Xet-Hash header, so clients use plain HTTP), pagination of long listings, datasets and spaces, uploads, and the real
Hub's additional redirect (resolve-cache) for files that are not in LFS.

Faults are switched on at run time, in process (`hub.faults.add`) or over HTTP on the hub's origin:

    POST   /_control/faults    a JSON list of faults, see hub_faults.Fault; GET lists them, DELETE clears
    GET    /_control/log       every request answered; DELETE clears
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.box.hub_faults import Effect, Faults, Log, Origin, Request, Stage
from tests.box.hub_store import HubError, Repository, Store, StoredFile

# The real CDN's signed URLs are valid for an hour.
SIGNED_FOR_S = 3600.0
CHUNK = 64 * 1024
FAST_CHUNK = 1024 * 1024
# At this rate or above, bodies are sent in FAST_CHUNKs; below it, such chunks would be too rare for a progress display.
FAST = 20e6


class _Server(ThreadingHTTPServer):
    """One origin. Tracks its open connections, so that stopping it also closes keep-alive connections."""

    daemon_threads = True
    # hf_transfer opens its connections all at once; the default backlog of 5 would refuse some.
    request_queue_size = 128

    def __init__(self, hub: Hub, origin: Origin, address: tuple[str, int]) -> None:
        self.hub = hub
        self.origin: Origin = origin
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # already closed by the client


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; with Nagle's algorithm each small response would take 40 ms.
    disable_nagle_algorithm = True
    server: _Server
    log_entry: Request

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the log is kept in memory."""

    def _serve(self) -> None:
        hub, origin = self.server.hub, self.server.origin
        url = urlsplit(self.path)
        path = unquote(url.path)
        # Read even if unused: on a keep-alive connection, it would be parsed as the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.log_entry = Request(self.command, origin, path, self.headers.get("Range"), "Authorization" in self.headers)
        try:
            if origin == "hub" and path.startswith("/_control/"):
                self._control(path, body)
                return
            hub.log.open(self.log_entry)
            effect = hub.faults.take("answer", origin, self.command, path)
            time.sleep(effect.delay_s)
            if effect.status is not None:
                retry = {} if effect.retry_after is None else {"Retry-After": str(effect.retry_after)}
                raise HubError(effect.status, effect.error_code, "A fault switched on for a test", retry)
            if effect.redirect_loop:
                self._answer(302, {"Location": self.path})
                return
            # Split before unquoting: a revision such as refs/pr/1 comes as one segment.
            segments = [unquote(segment) for segment in url.path.strip("/").split("/")]
            if origin == "cdn":
                self._cdn(url.path, parse_qs(url.query), segments)
            elif segments[:2] == ["api", "models"]:
                self._api(segments[2:], parse_qs(url.query), body)
            else:
                self._resolve(segments)
        except HubError as error:
            headers = {"X-Error-Message": error.message} | error.headers
            if error.code is not None:
                headers["X-Error-Code"] = error.code
            self._json({"error": error.message}, error.status, headers)
        except ConnectionError:
            self.close_connection = True

    # Routes
    def _control(self, path: str, body: bytes) -> None:
        faults, log = self.server.hub.faults, self.server.hub.log
        match self.command, path:
            case "POST", "/_control/faults":
                try:
                    faults.add_json(json.loads(body))
                except (TypeError, ValueError) as error:
                    raise HubError(400, None, f"faults: {error}") from error
            case "DELETE", "/_control/faults":
                faults.clear()
            case "DELETE", "/_control/log":
                log.clear()
            case "GET", "/_control/faults" | "/_control/log":
                pass
            case _:
                raise HubError(404, None, f"no control {self.command} {path}")
        self._json(log.as_json() if path == "/_control/log" else faults.as_json())

    def _api(self, segments: list[str], query: Mapping[str, list[str]], body: bytes) -> None:
        repository = self._repository(segments)
        match segments[2:]:
            case []:
                revision = repository.revision("main")
                self._json(repository.info(revision, blobs=_on(query, "blobs")))
            case ["revision", name]:
                self._json(repository.info(repository.revision(name), blobs=_on(query, "blobs")))
            case ["tree", name, *folder]:
                entries = repository.revision(name).tree("/".join(folder), recursive=_on(query, "recursive"))
                self._json(_expanded(repository, entries) if _on(query, "expand") else entries)
            case ["paths-info", name] if self.command == "POST":
                # The client sends a form; the API's documentation also allows JSON.
                if self.headers.get_content_type() == "application/json":
                    form = json.loads(body)
                    paths, expand = form["paths"], bool(form.get("expand"))
                else:
                    fields = parse_qs(body.decode())
                    paths, expand = fields.get("paths", []), _on(fields, "expand")
                entries = repository.revision(name).entries(paths)
                self._json(_expanded(repository, entries) if expand else entries)
            case ["refs"]:
                self._json(repository.refs())
            case _:
                raise HubError(404, None, "Sorry, we can't find the page you are looking for.")

    def _resolve(self, segments: list[str]) -> None:
        match segments:
            case [_, _, "resolve", name, *parts] if parts:
                repository = self._repository(segments)
            case _:
                raise HubError(404, None, "Sorry, we can't find the page you are looking for.")
        repository.authorize_download(self._token())
        revision = repository.revision(name)
        stored = revision.file("/".join(parts))
        headers = {"X-Repo-Commit": revision.commit, "Accept-Ranges": "bytes", "ETag": f'"{stored.etag}"'}
        if stored.lfs:
            headers |= {"X-Linked-Etag": f'"{stored.sha256}"', "X-Linked-Size": str(stored.size)}
            effect = self._take("sign")
            lifetime = SIGNED_FOR_S if effect.expire_after_s is None else effect.expire_after_s
            # Use the host name of the request: the client may reach this machine by another address than it listens on.
            host = urlsplit(f"//{self.headers.get('Host') or ''}").hostname
            where = f"/repos/{repository.id}/{stored.sha256}/{'/'.join(parts)}"
            headers["Location"] = self.server.hub.signed_url(where, lifetime, host)
            self._answer(302, headers)
        else:
            self._file(stored, headers)

    def _cdn(self, path: str, query: Mapping[str, list[str]], segments: list[str]) -> None:
        self.server.hub.check_signature(path, query)
        self._file(
            self.server.hub.store.blob(segments[3]),
            {"Accept-Ranges": "bytes", "ETag": f'"{segments[3]}"', "X-Cache": "Miss from stand-in"},
        )

    def _token(self) -> str | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def _repository(self, segments: list[str]) -> Repository:
        return self.server.hub.store.repository("/".join(segments[:2]), anonymous=self._token() is None)

    def _take(self, stage: Stage) -> Effect:
        entry = self.log_entry
        return self.server.hub.faults.take(stage, entry.origin, entry.method, entry.path)

    # Responses
    def _answer(self, status: int, headers: Mapping[str, str], length: int = 0) -> None:
        self.log_entry.status = status
        self.send_response(status)
        always = {"Content-Length": str(length), "x-request-id": str(uuid.uuid4())}
        for name, value in (always | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()

    def _json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._answer(status, {"Content-Type": "application/json"} | dict(headers or {}), len(body))
        if self.command != "HEAD":
            self.wfile.write(body)
            self.log_entry.bytes_sent += len(body)

    def _file(self, stored: StoredFile, headers: Mapping[str, str]) -> None:
        requested = self.headers.get("Range")
        if requested is not None and self._take("range").ignore_range:
            requested = None
        span = _span(requested, stored.size)
        headers = {"Content-Type": "application/octet-stream"} | dict(headers)
        if span is None:
            span = range(stored.size)
            self._answer(200, headers, len(span))
        elif not span:
            self._answer(416, {"Content-Range": f"bytes */{stored.size}"})
        else:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{stored.size}"
            self._answer(206, headers, len(span))
        if self.command != "HEAD":
            self._body(stored, span, self._take("body") if len(span) > 1 else Effect())

    def _body(self, stored: StoredFile, span: range, effect: Effect) -> None:
        if effect == Effect(bytes_per_s=effect.bytes_per_s) and (effect.bytes_per_s or FAST) >= FAST:
            self._fast_body(stored, span, effect.bytes_per_s)
            return
        limits = [limit for limit in (effect.reset_after_bytes, effect.truncate_after_bytes) if limit is not None]
        end = min([len(span), *limits])
        wrong = len(span) // 2 if effect.corrupt else None
        # At least twenty writes a second, for a smooth progress display.
        step = CHUNK if effect.bytes_per_s is None else max(1, min(CHUNK, int(effect.bytes_per_s / 20)))
        with stored.source.open("rb") as file:
            file.seek(span.start)
            at = 0
            while at < end:
                chunk = bytearray(file.read(min(step, end - at)))
                if not chunk:
                    raise AssertionError(f"{stored.source} has shrunk since it was added")
                if wrong is not None and at <= wrong < at + len(chunk):
                    chunk[wrong - at] ^= 0xFF
                self.wfile.write(chunk)
                at += len(chunk)
                self.log_entry.bytes_sent += len(chunk)
                if effect.bytes_per_s is not None:
                    time.sleep(len(chunk) / effect.bytes_per_s)
        if end < len(span):
            self.close_connection = True
            if end == effect.reset_after_bytes:
                # Closed with a linger time of 0, a socket sends RST instead of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _fast_body(self, stored: StoredFile, span: range, bytes_per_s: float | None) -> None:
        """Send with sendfile, so that a benchmark of clients does not measure this server; limits the rate exactly."""
        self.wfile.flush()
        began, at = time.monotonic(), 0
        with stored.source.open("rb") as file:
            while at < len(span):
                if bytes_per_s is not None:
                    time.sleep(max(0.0, began + at / bytes_per_s - time.monotonic()))
                count = os.sendfile(
                    self.connection.fileno(), file.fileno(), span.start + at, min(FAST_CHUNK, len(span) - at)
                )
                if not count:
                    raise AssertionError(f"{stored.source} has shrunk since it was added")
                at += count
                self.log_entry.bytes_sent += count


def _on(query: Mapping[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[-1].lower() in ("true", "1")


def _expanded(repository: Repository, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry | {"lastCommit": repository.last_commit()} for entry in entries]


def _span(header: str | None, size: int) -> range | None:
    """The requested byte range: None for the whole file, empty if the range cannot be satisfied.

    Multiple ranges and malformed headers are ignored, as RFC 9110 allows.
    """
    unit, _, wanted = (header or "").replace(" ", "").partition("=")
    first, dash, last = wanted.partition("-")
    if unit.lower() != "bytes" or not dash or not all(part.isdecimal() for part in (first, last) if part):
        return None
    if first:
        return range(int(first), min(int(last) + 1, size) if last else size)
    return range(max(0, size - int(last)), size) if last else None


class Hub:
    """The two origins (hub and CDN) and their repositories. Use as a context manager, or call start() and stop()."""

    def __init__(self, root: Path, port: int = 0, cdn_port: int = 0, host: str = "127.0.0.1") -> None:
        self.store = Store(root)
        self.faults = Faults()
        self.log = Log()
        self._secret = secrets.token_bytes(16)
        self._servers = (_Server(self, "hub", (host, port)), _Server(self, "cdn", (host, cdn_port)))

    def add_repo(self, repo_id: str, files: Mapping[str, Path], gated_token: str | None = None) -> str:
        """Serve a repository of these files (relative paths are under root); return the commit of `main`."""
        return self.store.add_repo(repo_id, files, gated_token)

    def add_sparse_repo(self, repo_id: str, files: Mapping[str, Path], gated_token: str | None = None) -> str:
        """Serve a repository of sparse files, whose sha256 is made up because clients read only their headers."""
        return self.store.add_sparse_repo(repo_id, files, gated_token)

    def add_revision(self, repo_id: str, files: Mapping[str, Path], branch: str = "main") -> str:
        """Add a commit and move the branch to it; earlier commits stay available."""
        return self.store.add_revision(repo_id, files, branch)

    def add_root(self) -> dict[str, str]:
        """Serve every `<org>/<name>/` under root as a repository; return the commit of each."""
        return self.store.add_root()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT, or the client's `endpoint=`."""
        return self._url(self._servers[0])

    @property
    def cdn_endpoint(self) -> str:
        return self._url(self._servers[1])

    def start(self) -> Self:
        for server in self._servers:
            # Poll for shutdown every 50 ms instead of every 500 ms, so that stop() returns quickly.
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        for server in self._servers:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def signed_url(self, path: str, lifetime_s: float, host: str | None = None) -> str:
        """A signed URL on the CDN, with its own address unless ``host`` is given."""
        where = quote(path)
        expires = f"{time.time() + lifetime_s:.3f}"
        query = {"Expires": expires, "Signature": self._signature(where, expires), "Key-Pair-Id": "STANDIN"}
        return f"{self._url(self._servers[1], host)}{where}?{urlencode(query)}"

    def check_signature(self, path: str, query: Mapping[str, list[str]]) -> None:
        """Raise HubError for URLs that are not signed by this hub or have expired, as CloudFront does."""
        expires, signature = query.get("Expires", ["0"])[0], query.get("Signature", [""])[0]
        if not hmac.compare_digest(signature.encode(), self._signature(path, expires).encode()):
            raise HubError(403, None, "AccessDenied")
        if float(expires) < time.time():
            raise HubError(403, None, "AccessDenied: expired")

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path}\n{expires}".encode(), "sha256").hexdigest()

    @staticmethod
    def _url(server: _Server, host: str | None = None) -> str:
        address, port = server.server_address[:2]
        return f"http://{host or str(address)}:{port}"

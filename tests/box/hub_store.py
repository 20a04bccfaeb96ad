"""Repositories of the stand-in Hub: files, commits, branches, and their JSON for huggingface_hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The LFS patterns of the Hub's default .gitattributes, as far as model repositories of the tests use them.
LFS_SUFFIXES = frozenset({".bin", ".gguf", ".gz", ".npz", ".onnx", ".pt", ".safetensors", ".zip"})
# The Hub refuses larger files outside LFS.
LFS_ABOVE_BYTES = 10 * 1000 * 1000
# A fixed date, so that responses are the same on every run.
COMMITTED = "2025-01-01T00:00:00.000Z"


class HubError(Exception):
    """An error response, with the status, code and message that the real Hub sends."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class StoredFile:
    """One version of a file. ``lfs``: served by the CDN instead of the hub itself."""

    source: Path
    size: int
    sha256: str
    blob_id: str
    lfs: bool
    pointer_size: int

    @classmethod
    def with_sha256(cls, source: Path, sha256: str) -> StoredFile:
        """A sparse file with a made-up sha256: it is too large to hash, and no test downloads the whole file."""
        pointer = _pointer(sha256, source.stat().st_size)
        blob = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
        return cls(source, source.stat().st_size, sha256, blob, True, len(pointer))

    @classmethod
    def read(cls, source: Path, name: str) -> StoredFile:
        size = source.stat().st_size
        sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        with source.open("rb") as file:
            while chunk := file.read(1 << 20):
                sha256.update(chunk)
                blob.update(chunk)
        pointer = _pointer(sha256.hexdigest(), size)
        lfs = Path(name).suffix in LFS_SUFFIXES or size > LFS_ABOVE_BYTES
        if lfs:
            # git stores only the pointer, so the blob id is the pointer's.
            blob = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer)
        return cls(source, size, sha256.hexdigest(), blob.hexdigest(), lfs, len(pointer))

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id

    def sibling(self, path: str, *, blobs: bool) -> dict[str, Any]:
        """The entry in a model info response; sizes and hashes only with ``blobs``."""
        if not blobs:
            return {"rfilename": path}
        entry: dict[str, Any] = {"rfilename": path, "size": self.size, "blobId": self.blob_id}
        if self.lfs:
            entry["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        return entry

    def entry(self, path: str) -> dict[str, Any]:
        """The entry in tree and paths-info responses, where the sha256 is called oid."""
        entry: dict[str, Any] = {"type": "file", "oid": self.blob_id, "size": self.size, "path": path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        return entry


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Revision:
    """The files of one commit."""

    commit: str
    files: Mapping[str, StoredFile]

    def file(self, path: str) -> StoredFile:
        try:
            return self.files[path]
        except KeyError:
            raise HubError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": self.commit}) from None

    def folders(self) -> set[str]:
        return {str(parent) for path in self.files for parent in Path(path).parents} - {"."}

    def entries(self, paths: Iterable[str]) -> list[dict[str, Any]]:
        """Entries of files and folders; paths that do not exist are left out, as on the Hub."""
        known = self.folders()
        return [
            self.files[path].entry(path) if path in self.files else self._folder(path)
            for path in (path.strip("/") for path in paths)
            if path in self.files or path in known
        ]

    def tree(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        if folder and folder not in self.folders():
            raise HubError(
                404, "EntryNotFound", f'"{folder}" does not exist on "{self.commit}"', {"X-Repo-Commit": self.commit}
            )
        top = Path(folder)
        return self.entries(
            path
            for path in sorted({*self.files, *self.folders()})
            if top in Path(path).parents and (recursive or Path(path).parent == top)
        )

    def _folder(self, path: str) -> dict[str, Any]:
        below = {name: stored.sha256 for name, stored in self.files.items() if Path(path) in Path(name).parents}
        return {"type": "directory", "oid": _sha1(below), "size": 0, "path": path}


@dataclass
class Repository:
    """A model repository. ``gated_token``: the token that downloads need; None: downloads need no token."""

    id: str
    gated_token: str | None
    commits: dict[str, Revision] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, StoredFile], branch: str) -> str:
        commit = _sha1({path: stored.sha256 for path, stored in files.items()})
        self.commits[commit] = Revision(commit, dict(files))
        self.branches[branch] = commit
        return commit

    def revision(self, name: str) -> Revision:
        """Return a revision by branch, full ref or full commit id. Raises HubError."""
        commit = self.branches.get(name.removeprefix("refs/heads/"), name)
        try:
            return self.commits[commit]
        except KeyError:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {name}") from None

    def authorize_download(self, token: str | None) -> None:
        """Raise HubError if a download needs another token. Info and file list are public, as on the Hub."""
        if self.gated_token is None or token == self.gated_token:
            return
        restricted = f"Access to model {self.id} is restricted"
        if token is None:
            raise HubError(401, "GatedRepo", f"{restricted}. You must have access to it and be authenticated.")
        raise HubError(403, "GatedRepo", f"{restricted} and you are not in the authorized list.")

    def info(self, revision: Revision, *, blobs: bool) -> dict[str, Any]:
        return {
            "_id": revision.commit[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.partition("/")[0],
            "sha": revision.commit,
            "lastModified": COMMITTED,
            "createdAt": COMMITTED,
            "private": False,
            "gated": "manual" if self.gated_token is not None else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": ["gguf"],
            "usedStorage": sum(stored.size for stored in revision.files.values()),
            "siblings": [stored.sibling(path, blobs=blobs) for path, stored in sorted(revision.files.items())],
        }

    def refs(self) -> dict[str, Any]:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in self.branches.items()
        ]
        return {"branches": branches, "converts": [], "tags": [], "pullRequests": []}

    def last_commit(self) -> dict[str, str]:
        return {"id": self.branches["main"], "title": "Upload files", "date": COMMITTED}


class Store:
    """All repositories of one hub. Files are served from where they are; each is read once, to hash it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._repositories: dict[str, Repository] = {}
        self._blobs: dict[str, StoredFile] = {}
        self._read: dict[tuple[Path, str, int, int], StoredFile] = {}

    def add_sparse_repo(self, repo_id: str, files: Mapping[str, Path], gated_token: str | None = None) -> str:
        """Add sparse files, with a hash of name and size in place of their sha256, which no test verifies."""
        self._repositories[repo_id] = Repository(repo_id, gated_token)
        stored = {
            path: StoredFile.with_sha256(
                self.root / source,
                hashlib.sha256(f"{path} {(self.root / source).stat().st_size}".encode()).hexdigest(),
            )
            for path, source in files.items()
        }
        self._blobs |= {file.sha256: file for file in stored.values()}
        return self._repositories[repo_id].commit(stored, "main")

    def add_repo(self, repo_id: str, files: Mapping[str, Path], gated_token: str | None = None) -> str:
        if repo_id.count("/") != 1:
            raise ValueError(f"repository {repo_id!r} is not ORG/NAME")
        self._repositories[repo_id] = Repository(repo_id, gated_token)
        return self.add_revision(repo_id, files)

    def add_revision(self, repo_id: str, files: Mapping[str, Path], branch: str = "main") -> str:
        stored = {path: self._stored(self.root / source, path) for path, source in files.items()}
        self._blobs |= {file.sha256: file for file in stored.values()}
        return self._repositories[repo_id].commit(stored, branch)

    def add_root(self) -> dict[str, str]:
        return {
            f"{folder.parent.name}/{folder.name}": self.add_repo(
                f"{folder.parent.name}/{folder.name}",
                {path.relative_to(folder).as_posix(): path.resolve() for path in folder.rglob("*") if path.is_file()},
            )
            for folder in sorted(self.root.glob("*/*/"))
        }

    def repository(self, repo_id: str, *, anonymous: bool) -> Repository:
        try:
            return self._repositories[repo_id]
        except KeyError:
            # The Hub hides from anonymous clients whether a private repository exists.
            status, message = (401, "Invalid username or password.") if anonymous else (404, "Repository not found")
            raise HubError(status, "RepoNotFound", message) from None

    def blob(self, sha256: str) -> StoredFile:
        try:
            return self._blobs[sha256]
        except KeyError:
            raise HubError(404, None, "NoSuchKey") from None

    def _stored(self, source: Path, name: str) -> StoredFile:
        status = source.stat()
        key = (source, Path(name).suffix, status.st_size, status.st_mtime_ns)
        if key not in self._read:
            self._read[key] = StoredFile.read(source, name)
        return self._read[key]


def _sha1(files: Mapping[str, str]) -> str:
    """An id that depends only on names and contents, so that a test may pin it."""
    return hashlib.sha1(_listing(files)).hexdigest()


def _listing(files: Mapping[str, str]) -> bytes:
    return "".join(f"{path}\0{sha256}\n" for path, sha256 in sorted(files.items())).encode()

"""Differences between a model's lock entry and the Hub."""

from __future__ import annotations

from llamarig.records.model_lock import LockedFile, LockedModel

_GIB = 1024**3


def lock_changes(locked: LockedModel, upstream: LockedModel) -> list[str]:
    """One line per file that differs; empty where the files are the same, even at another commit."""
    locked_roles, roles = _roles(locked), _roles(upstream)
    old, new = ({file.path: file for file in entry.files} for entry in (locked, upstream))
    return [
        *(f"removed: {path}" for path in old if path not in new),
        *(f"new: {path}, {_size(file)}" for path, file in new.items() if path not in old),
        *(
            f"changed: {path}, {_size(old[path])} to {_size(file)}, sha256 {old[path].sha256[:12]}... to "
            f"{file.sha256[:12]}..."
            for path, file in new.items()
            if path in old and old[path].sha256 != file.sha256
        ),
        *(
            f"locked as {locked_roles[path]}, declared as {role}: {path}"
            for path, role in roles.items()
            if locked_roles.get(path, role) != role
        ),
    ]


def _roles(entry: LockedModel) -> dict[str, str]:
    """Path -> role of the file."""
    others = {"mmproj": entry.mmproj, "draft": entry.draft}
    return {
        **{file.path: "a file of the model" for file in entry.shards},
        **{file.path: role for role, file in others.items() if file is not None},
    }


def _size(file: LockedFile) -> str:
    return f"{file.size / _GIB:.2f} GiB"

"""What upstream has now, compared with what a model is locked to."""

from __future__ import annotations

from tasks.planning.shards import GIB
from tasks.spec.model_lock import LockedFile, LockedModel


def lock_changes(locked: LockedModel, upstream: LockedModel) -> list[str]:
    """One line per file that differs; empty where every file is the same, whatever else the commits changed."""
    was, now = _roles(locked), _roles(upstream)
    old, new = ({file.path: file for file in entry.files} for entry in (locked, upstream))
    return [
        *(f"no longer there: {path}" for path in old if path not in new),
        *(f"new: {path}, {_size(file)}" for path, file in new.items() if path not in old),
        *(
            f"changed: {path}, {_size(old[path])} to {_size(file)}, sha256 {old[path].sha256[:12]}... to "
            f"{file.sha256[:12]}..."
            for path, file in new.items()
            if path in old and old[path].sha256 != file.sha256
        ),
        *(
            f"locked as {was[path]}, declared as {now[path]}: {path}"
            for path in now
            if was.get(path, now[path]) != now[path]
        ),
    ]


def _roles(entry: LockedModel) -> dict[str, str]:
    """Path -> what the file is for."""
    others = {"mmproj": entry.mmproj, "draft": entry.draft}
    return {
        **{file.path: "a file of the model" for file in entry.shards},
        **{file.path: role for role, file in others.items() if file is not None},
    }


def _size(file: LockedFile) -> str:
    return f"{file.size / GIB:.2f} GiB"

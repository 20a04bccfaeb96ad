"""Write a large model of random weights, and serve it as the stand-in Hub until killed. Run by hand, before a deploy.

    python3 -m tests.gpu.random_model DIRECTORY [LAYERS [SHARDS]]

Qwen3-Coder-Next's shapes at Q6_K, 1.26 GiB a layer (48). DIRECTORY should be in RAM (tmpfs), the box's model store
on the same one: deploy.py then finds the files there, hard links to those of the Hub with the records of their sha256
that an import leaves. Prints ``ready`` once the Hub answers. Needs numpy and gguf.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from llamarig.remote.download.verified_files import install_verified, sha256_of
from llamarig.render import layout

from tests.box.hub import Hub
from tests.box.hub_store import Store, StoredFile
from tests.box.sparse_models import write_sparse
from tests.gpu.random_weights import fill
from tests.placement.model_shapes import SHAPES

REPOSITORY = "llamarig/Random-Qwen3-Next-GGUF"
NAME = "Random-Qwen3-Next-Q6_K"


class HashedStore(Store):
    """Serves files whose sha256 is known, so that 61 GiB are not read again."""

    def __init__(self, root: Path, hashes: dict[Path, str]) -> None:
        super().__init__(root)
        self.hashes = hashes

    def _stored(self, source: Path, name: str) -> StoredFile:
        return StoredFile.with_sha256(source, self.hashes[source])


def written(path: Path) -> str:
    """Fill a shard; return its sha256."""
    fill(path)
    return sha256_of(path)


def main() -> None:
    directory = Path(sys.argv[1])
    layers = int(sys.argv[2]) if len(sys.argv) > 2 else 48
    shards = int(sys.argv[3]) if len(sys.argv) > 3 else 8
    began = time.monotonic()
    shape = replace(SHAPES["qwen3-coder-next-q6"], layers=layers)
    files = write_sparse(directory / REPOSITORY, NAME, shape, shards=shards, tokens=True)
    with ProcessPoolExecutor(min(shards, os.cpu_count() or 1)) as pool:
        hashes = dict(zip([path.resolve() for path in files], pool.map(written, files), strict=True))
    size = sum(path.stat().st_size for path in files) / 2**30
    print(f"{size:.1f} GiB of random weights written and hashed in {time.monotonic() - began:.0f} s", flush=True)
    hub = Hub(directory, 18080, 18081, "127.0.0.1")
    hub.store = HashedStore(directory, hashes)
    commit = hub.add_repo(REPOSITORY, {path.name: path.resolve() for path in files})
    partial = Path(layout.MODELS) / ".partial"
    partial.mkdir(parents=True, exist_ok=True)
    for path, digest in hashes.items():
        path.chmod(0o644)  # the service user reads it by its group or as anyone
        (partial / digest).hardlink_to(path)
        target = Path(layout.model_directory(REPOSITORY, commit)) / path.name
        install_verified(partial / digest, target, digest, None, keep_mode=True)
    with hub:
        print(f"ready {hub.endpoint} {commit}", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()

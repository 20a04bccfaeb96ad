"""A model store with one declared model, for the tests of leftovers and references."""

from __future__ import annotations

import zlib

from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.facts.model_store import StoredFile
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.render.model_paths import GIB

RIG = Rig.model_validate(
    d.rig(
        builds=[d.build(name="cpu", backend="cpu")],
        models=[d.model(name="m", repo="o/r", quant="UD-Q6_K_XL", build="cpu", serve=d.serve(port=8080, context=4096))],
    )
)
FILE = LockedFile(path="UD-Q6_K_XL/m-UD-Q6_K_XL-00001-of-00001.gguf", size=GIB, sha256="a" * 64)
LOCKED = LockedModel(repo="o/r", commit="c" * 40, shards=(FILE,))


def stored(*paths: str) -> dict[str, StoredFile]:
    return {path: StoredFile(GIB, 1, zlib.crc32(path.encode()), allocated=GIB) for path in paths}

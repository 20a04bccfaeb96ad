"""A model of two shards as it is locked and declared, for tests of the model store."""

from __future__ import annotations

from typing import Any

from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.render import layout
from llamarig.render.model_paths import GIB

SHA = "a" * 64
FILE = LockedFile(path="Q6/m-00001-of-00002.gguf", size=10 * GIB, sha256=SHA)
OTHER = LockedFile(path="Q6/m-00002-of-00002.gguf", size=4 * GIB, sha256="b" * 64)
LOCKED = LockedModel(repo="o/r", commit="c" * 40, shards=(FILE, OTHER))
ELSEWHERE = f"{layout.MODELS}/o/r/{'d' * 40}/renamed.gguf"
WHOLE = {"size": FILE.size, "mtime_ns": 5, "inode": 7, "sha256": SHA}


def rig(reserve: float = 5, **hub: Any) -> Rig:
    model = d.model(name="m", repo="o/r", quant="Q6", build="cpu", serve=d.serve(port=8080, context=4096))
    return Rig.model_validate(
        d.rig(
            builds=[d.build(name="cpu", backend="cpu")],
            models=[model],
            host=d.host_policy(disk_reserve_gib=reserve),
            hub=d.hub(**hub),
        )
    )

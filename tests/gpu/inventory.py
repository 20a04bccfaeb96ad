"""Inventory of the local machine (pyinfra's @local), with one model for each kind of placement. See README.md.

LLAMARIG_GPU_SOURCE: path of the source archive; LLAMARIG_GPU_SOURCE_SHA256: its sha256; LLAMARIG_GPU_TOOLKIT: directory
of the CUDA toolkit; LLAMARIG_GPU_ARCHITECTURES (optional): architectures instead of those of the installed cards.
"""

import os

from llamarig import declare as d
from llamarig.declare.placement import Placement

_PORT = 18100
_PLACEMENTS: dict[str, Placement] = {
    "all-on-gpu": d.all_on_gpu(),
    "layers": d.layers(gpu=(2,), split=(5,)),
    "cpu-moe": d.cpu_moe(layers=2),
    "fit": d.fit(target_mib=(1024,)),
    "override": d.override(rules=("exps=CPU",)),
    "cpu-only": d.cpu_only(),
}

_build = d.build(
    name="cuda",
    source=d.sdist_source(
        url=f"file://{os.environ['LLAMARIG_GPU_SOURCE']}",
        sha256=os.environ["LLAMARIG_GPU_SOURCE_SHA256"],
        commit="0c1e57098bba43ac29e6e3b677cdceebdd22334f",
    ),
    architectures=tuple(os.environ.get("LLAMARIG_GPU_ARCHITECTURES", "").split()),
    cuda_toolkit=os.environ.get("LLAMARIG_GPU_TOOLKIT", "/usr/local/cuda"),
)

_rig = d.rig(
    builds=[_build],
    models=[
        d.model(
            name=name,
            repo="llamarig/Tiny-Qwen3-Next-GGUF",
            quant="F16",
            build="cuda",
            serve=d.serve(
                port=_PORT + index,
                context=8192,
                placement=placement,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                coexists=True,
                cache_ram_mib=64,
            ),
        )
        for index, (name, placement) in enumerate(_PLACEMENTS.items())
    ],
    host=d.host_policy(swappiness=10, disk_reserve_gib=1),
    hub=d.hub(endpoint="http://127.0.0.1:18080"),
    model_lock="/var/lib/llamarig-gpu-test/models.lock.json",
)

gpu = [("@local", {"rig": _rig})]

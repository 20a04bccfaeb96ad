"""Which quant of a Hub repository, and which context, on which box:
`pyinfra -y inventory/home.py tasks/choose.py --data repo=unsloth/Qwen3-30B-A3B-GGUF`. Downloads no model, and leaves
alone what serves. Options:

    --data repo=A/B-GGUF,C/D-GGUF   the repositories
    --data quant=Q4_K_M,Q5_K_M      only these quants
    --data context=65536            only this context, in place of 32K to the model's own
    --data cache_type=q8_0          type of the KV cache
    --data build=NAME               the build that is to serve
    --data model_name=NAME          the model's name in the line to paste
    --data takeover=1               stops jobs of other runs that are in the way of compiling simulated cards
"""

from __future__ import annotations

from llamarig.commands import choose
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.context import host

set_tcp_nodelay()
require_root()
rig = rig_of_host()
data = {
    "repo": host.data.get("repo"),
    "quant": host.data.get("quant"),
    "context": host.data.get("context"),
    "cache_type": host.data.get("cache_type"),
    "build": host.data.get("build"),
    "model_name": host.data.get("model_name"),
}
choose.box_read(name="Box", rig=rig, data=data)
choose.simulation_compiled(name="Simulated GPUs", rig=rig, takeover=bool(host.data.get("takeover")))
choose.quants_chosen(name="Choose", rig=rig, data=data)

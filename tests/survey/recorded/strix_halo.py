"""Radeon 8060S, AMD RYZEN AI MAX+ 395, 16 cores, 126 GB RAM, Debian GNU/Linux 13 (trixie).

As tasks/survey.py found strix-halo.lan. It never writes this file again.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        # Its graphics share the RAM, of which the kernel lets them use 96 GiB: auto() plans with one budget for both.
        d.build(
            name="vulkan",
            source=d.git_source(commit=llama_cpp_commit),
            backend="vulkan",
        ),
        d.build(
            name="cpu",
            source=d.git_source(commit=llama_cpp_commit),
            backend="cpu",
        ),
    ],
    models=[
        # No model yet: a deploy only builds llama.cpp. What fits here, and the line to paste, is printed by
        #   pyinfra -y inventory/home.py tasks/choose.py --data repo=unsloth/Qwen3-30B-A3B-GGUF
        # Or begin with this one, which may not fit, without the comment signs:
        # d.model(
        #     name="qwen3-30b-a3b",
        #     repo="unsloth/Qwen3-30B-A3B-GGUF",
        #     quant="Q4_K_M",
        #     build="vulkan",
        #     serve=d.serve(
        #         port=8080,
        #         context=32768,
        #         placement=d.auto(margin_mib=1024),
        #     ),
        # ),
    ],
    # The RAM's speed is not known: only root may read the firmware's table.
    # Its rated speed would be declared here: memory_mts=6000 of a DDR5-6000 kit.
    # Model files go to /var/lib/llamarig/models, where 800 GiB are free (ext4).
)

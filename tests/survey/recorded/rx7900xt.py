"""RX 7900 XT (20 GB), AMD Ryzen 7 5800X, 8 cores, 32 GB DDR4 at 3200 MT/s, Debian GNU/Linux 13 (trixie).

As tasks/survey.py found rx7900xt.lan. It never writes this file again.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        d.build(
            name="vulkan",
            source=d.git_source(commit=llama_cpp_commit),
            backend="vulkan",
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
    host=d.host_policy(
        # A card that is missing, or another one, is reported. NVIDIA's in nvidia-smi's order.
        gpus=(d.gpu_card(name="RX 7900 XT"),),
        # 4 x 8 GB F4-3200C14-8GFX: rated 3200 MT/s by part number, and they run at 3200.
        memory_mts=3200,
        # Model files go to /var/lib/llamarig/models, where 800 GiB are free (ext4).
    ),
)

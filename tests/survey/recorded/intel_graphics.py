"""No graphics card, Intel Core i5-12600K, 10 cores, 32 GB DDR5 at 6000 MT/s, Debian GNU/Linux 13 (trixie).

As tasks/survey.py found intel-graphics.lan. It never writes this file again.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        # Intel graphics share the RAM; backend="vulkan" would compute with them: time both with tasks/bench.py.
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
        #     build="cpu",
        #     serve=d.serve(
        #         port=8080,
        #         context=32768,
        #         placement=d.cpu_only(),
        #         threads=6,
        #         cpu_affinity="0-11",
        #     ),
        # ),
    ],
    host=d.host_policy(
        # 2 x 16 GB F5-6000J3636F16G: rated 6000 MT/s by part number, and they run at 6000.
        memory_mts=6000,
        # Hybrid processor: 6 fast cores are CPUs 0-11; CPUs 12-15 are slower.
        # Model files go to /var/lib/llamarig/models, where 800 GiB are free (ext4).
    ),
)

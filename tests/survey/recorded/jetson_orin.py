"""Orin (nvgpu), Cortex-A78AE, 12 cores, 64 GB RAM, Ubuntu 22.04.5 LTS.

As tasks/survey.py found jetson-orin.lan. It never writes this file again.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        # CUDA 12.6 fits driver 540 (525 or newer), glibc 2.35, g++ 11.
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            architectures=("87-real",),  # Orin (nvgpu)
            cuda_toolkit="/usr/local/cuda-12.6",
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
        #     build="cuda",
        #     serve=d.serve(
        #         port=8080,
        #         context=32768,
        #         placement=d.auto(),
        #     ),
        # ),
    ],
    host=d.host_policy(
        # A card that is missing, or another one, is reported. NVIDIA's in nvidia-smi's order.
        gpus=(d.gpu_card(name="Orin (nvgpu)"),),
        # A Jetson's GPU is not open to the units of llamarig yet.
        # The RAM's speed is not known: only root may read the firmware's table.
        # Its rated speed would be declared here: memory_mts=6000 of a DDR5-6000 kit.
        # Model files go to /var/lib/llamarig/models, where 800 GiB are free (ext4).
    ),
)

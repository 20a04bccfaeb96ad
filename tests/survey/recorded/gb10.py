"""GB10, Cortex-X925, Cortex-A725, 20 cores, 120 GB RAM, Ubuntu 24.04.3 LTS.

As tasks/survey.py found gb10.lan. It never writes this file again.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        # CUDA 13.5 fits driver 580 (580 or newer), glibc 2.39, g++ 13.
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            architectures=("121a-real",),  # GB10
            cuda_toolkit="13.5",
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
        #         threads=10,
        #         cpu_affinity="5-9,15-19",
        #     ),
        # ),
    ],
    host=d.host_policy(
        # A card that is missing, or another one, is reported. NVIDIA's in nvidia-smi's order.
        gpus=(d.gpu_card(name="GB10", uuid="GPU-00000000-0000-4000-8000-000000000001"),),
        # The RAM's speed is not known: only root may read the firmware's table.
        # Its rated speed would be declared here: memory_mts=6000 of a DDR5-6000 kit.
        # Hybrid processor: 10 fast cores are CPUs 5-9,15-19; CPUs 0-4,10-14 are slower.
        # Model files go to /var/lib/llamarig/models, where 800 GiB are free (ext4).
    ),
)

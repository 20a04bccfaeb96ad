"""RTX 4090 (24 GB) + RTX 5070 Ti (16 GB), AMD Ryzen 7 5800X, 8 cores, 64 GB RAM, Debian GNU/Linux 13 (trixie).

As tasks/survey.py found rtx4090-rtx5070ti.lan. It never writes this file again.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        # CUDA 13.5 fits driver 580 (580 or newer), glibc 2.41, g++ 14.
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            architectures=("89-real", "120a-real"),  # RTX 4090, RTX 5070 Ti
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
        #         placement=d.auto(per_gpu=(384, 1024)),
        #         gpus=("GPU-10000000-0000-4000-8000-000000000001", "GPU-00000000-0000-4000-8000-000000000000"),
        #     ),
        # ),
    ],
    host=d.host_policy(
        # A card that is missing, or another one, is reported. NVIDIA's in nvidia-smi's order.
        gpus=(
            d.gpu_card(name="RTX 5070 Ti", uuid="GPU-00000000-0000-4000-8000-000000000000"),
            d.gpu_card(name="RTX 4090", uuid="GPU-10000000-0000-4000-8000-000000000001"),
        ),
        # The RAM's speed is not known: only root may read the firmware's table.
        # Its rated speed would be declared here: memory_mts=6000 of a DDR5-6000 kit.
        # Model files go to /var/lib/llamarig/models, where 800 GiB are free (ext4).
    ),
)

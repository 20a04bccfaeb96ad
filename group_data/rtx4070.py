"""RTX 4070 (12 GB), i5-12600K, 64 GB DDR5-6000, CachyOS: one 80B model with its experts in RAM."""

from group_data.all import llama_cpp_commit
from tasks.spec import declare as d

rig = d.rig(
    builds=[
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            architectures=("89-real",),
            cuda_toolkit="13.5",
        )
    ],
    # `main` is what you follow; the model lock freezes it to a commit and sha256s at the first deploy.
    models=[
        # One file of about 44 GB, about 40 t/s.
        d.model(
            name="qwen3-coder-mxfp4",
            repo="unsloth/Qwen3-Coder-Next-GGUF",
            quant="MXFP4_MOE",
            build="cuda",
            serve=d.serve(
                alias="unsloth/Qwen3-Coder-Next",
                # Open to his network, as he had it, but not to strangers. Nothing is started until this file is there:
                #   openssl rand -hex 32 | sudo install -D -m 600 /dev/stdin /etc/llamarig/keys/qwen3-coder-mxfp4
                host="0.0.0.0",
                port=8001,
                api_key_file="/etc/llamarig/keys/qwen3-coder-mxfp4",
                context=131072,
                batch=2048,
                ubatch=512,
                # His margin was 128. Pinned weights take up to 98 MiB of the card that llama.cpp does not count, and
                # prompts some hundred more: a start with 128 may die at its first long prompt.
                placement=d.fit(target_mib=(512,), minimum_context=131072),
                # His `--no-mmap --mlock`: today's llama.cpp refuses both, and its `mlock` means the two together. The
                # experts in RAM are pinned for the GPU, as with `none`: it reads prompts about four times as fast.
                load_mode="mlock",
                threads=10,
                threads_batch=12,
                cpu_affinity="0-11",  # his `taskset -c 0-11`: the P-cores with their second threads, no E-core
                priority=2,
                warmup=False,
                sampling=d.sampling(temperature=1.0, top_p=0.95, min_p=0.01, top_k=40, seed=3407),
                # His LLAMA_SET_ROWS=1 is left out: today's llama.cpp reads it nowhere.
                environment={"GGML_CUDA_GRAPH_OPT": "1"},
            ),
        ),
    ],
    host=d.host_policy(
        swappiness=0,
        # His DDR5-6000 ran at 2000 MT/s for months, a third of its speed: "check your RAM speed. Seriously."
        memory_mts=6000,
    ),
)

"""RTX 4070 (12 GB), i5-12600K, 64 GB DDR5-6000, CachyOS: one 80B model with its experts in RAM."""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            architectures=("89-real",),
            cuda_toolkit="13.5",
        )
    ],
    # The model lock freezes `main` to a commit and sha256s at the first deploy.
    models=[
        # One file of about 44 GB, about 40 t/s.
        d.model(
            name="qwen3-coder-mxfp4",
            repo="unsloth/Qwen3-Coder-Next-GGUF",
            quant="MXFP4_MOE",
            build="cuda",
            serve=d.serve(
                alias="unsloth/Qwen3-Coder-Next",
                # Open to the network, as the owner had it, but with a key. Nothing is started until this file exists:
                #   openssl rand -hex 32 | sudo install -D -m 600 /dev/stdin /etc/llamarig/keys/qwen3-coder-mxfp4
                host="0.0.0.0",
                port=8001,
                api_key_file="/etc/llamarig/keys/qwen3-coder-mxfp4",
                context=131072,
                batch=2048,
                ubatch=512,
                # The owner's margin was 128. Pinned weights take up to 98 MiB of VRAM that llama.cpp does not count,
                # and prompts some hundred more: with 128, the server may die at its first long prompt.
                placement=d.fit(target_mib=(512,), minimum_context=131072),
                # The owner's `--no-mmap --mlock`: the pinned llama.cpp refuses both, and its `mlock` means both. The
                # experts in RAM are pinned for the GPU, as with `none`: prompts are read about four times as fast.
                load_mode="mlock",
                threads=10,
                threads_batch=12,
                cpu_affinity="0-11",  # `taskset -c 0-11`: P-cores with both threads, no E-cores
                priority=2,
                warmup=False,
                sampling=d.sampling(temperature=1.0, top_p=0.95, min_p=0.01, top_k=40, seed=3407),
                # The owner's LLAMA_SET_ROWS=1 is left out: the pinned llama.cpp does not read it.
                environment={"GGML_CUDA_GRAPH_OPT": "1"},
            ),
        ),
    ],
    host=d.host_policy(
        swappiness=0,
        # This DDR5-6000 ran at 2000 MT/s for months, a third of its speed.
        memory_mts=6000,
    ),
)

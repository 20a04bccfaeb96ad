"""RTX 4090 (24 GB) + RTX 5070 Ti (16 GB, drives the display), 64 GB DDR4: one heavy model at a time on port 8080.

The owner's rules: fill the fastest GPU first, then the second, then RAM. When out of memory, take one layer back,
then lower the context from 256K to 192K and 128K. Both GPUs are to be above 90 % used.

The owner placed layers with `-ot blk[.](...)[.]=CUDA0,...=CUDA1,exps=CPU`. That moves only weights: KV cache and
recurrent state stay where the layer split puts their layer, and each mismatch crosses the bus (130-136 graph splits
per token). So the split is declared too: with the 23,671 and 12,761 MiB that were free on these cards, 65 % of the
layers go to CUDA0, which is 32 + 17 for 48 layers and the output, 25 + 12 for the 36 layers of gpt-oss. The numbers of
whole layers are the owner's, unchanged.

The GPUs compute prompts from experts in RAM, so these are pinned (`--load-mode none`) where a dry run leaves 512 MiB on
each card and everything fits into RAM beside 4 GiB for the system: pinned weights read prompts about four times as fast
as a mapped file. A deploy measures this once and reports what is missing where it does not hold. By dry runs on
simulated cards it holds for the three Qwen3-Coder models and not for gpt-oss (tests/placement/profile_memory.py).

`--jinja --no-context-shift -np 1 --split-mode layer --main-gpu 0 -ngl 99 --fit off` need no line here: they are
llamarig's defaults.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            architectures=("89-real", "120a-real"),  # RTX 4090, RTX 5070 Ti
            cuda_toolkit="13.5",
        )
    ],
    # The model lock freezes `main` to a commit and sha256s at the first deploy.
    models=[
        # Best quality. 63.9 GiB in 3 shards, 21.4 t/s.
        d.model(
            name="qwen3-coder",
            repo="unsloth/Qwen3-Coder-Next-GGUF",
            quant="UD-Q6_K_XL",
            build="cuda",
            serve=d.serve(
                port=8080,
                context=262144,
                batch=2048,
                ubatch=2048,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                placement=d.layers(gpu=(13, 6), split=(32, 17)),
                load_mode="auto",  # experts in RAM pinned where RAM and VRAM have room: prompts 4 times as fast
                sampling=d.sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0),
                # CUDA0 must be the 4090, whichever slot it is in; CUDA's own order puts the fastest card first. Safer,
                # with the UUIDs of `nvidia-smi -L`: gpus=("GPU-<of the 4090>", "GPU-<of the 5070 Ti>").
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # Faster. 56.8 GB, 25.8 t/s; 27.9 t/s with ubatch=512, which also frees 449-2000 MiB per GPU.
        d.model(
            name="qwen3-coder-q5",
            repo="unsloth/Qwen3-Coder-Next-GGUF",
            quant="UD-Q5_K_XL",
            build="cuda",
            serve=d.serve(
                port=8080,
                context=262144,
                batch=2048,
                ubatch=2048,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                placement=d.layers(gpu=(15, 7), split=(32, 17)),
                load_mode="auto",  # experts in RAM pinned where RAM and VRAM have room: prompts 4 times as fast
                sampling=d.sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0),
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # The same files, placed by llama.cpp itself: 33 t/s and 55 graph splits per token, against 26-28 t/s and
        # 130-136 with the owner's -ot. ubatch is the 512 of the measurements above. 1 GiB stays free for the display,
        # and 512 MiB instead of 128 on the 4090: pinned weights take up to 98 MiB that llama.cpp does not count.
        d.model(
            name="qwen3-coder-q5-fit",
            repo="unsloth/Qwen3-Coder-Next-GGUF",
            quant="UD-Q5_K_XL",
            build="cuda",
            serve=d.serve(
                port=8080,
                context=262144,
                batch=2048,
                ubatch=512,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                placement=d.fit(target_mib=(512, 1024)),
                load_mode="auto",  # experts in RAM pinned where RAM and VRAM have room: prompts 4 times as fast
                sampling=d.sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0),
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # About 20 t/s. The owner sets no sampling, so the defaults of the model hold. By a dry run, 12 layers leave
        # 483 MiB on the 4090, too little for pinned weights: prompts are read from the mapped file, as a deploy
        # reports. gpu=(11, 5) holds as many layers and leaves more than 1 GiB on each card, by the expert sizes.
        d.model(
            name="gpt-oss-120b",
            repo="unsloth/gpt-oss-120b-GGUF",
            files=("gpt-oss-120b-F16.gguf",),
            build="cuda",
            serve=d.serve(
                port=8080,
                context=65536,
                batch=4096,
                ubatch=4096,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                placement=d.layers(gpu=(12, 4), split=(25, 12)),
                load_mode="auto",  # experts in RAM pinned where RAM and VRAM have room: prompts 4 times as fast
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # No longer declared: Q5_K_M and Q6_K (UD is better here). Do not use Q4_K_M: this model then rewrites its
        # answers repeatedly.
    ],
    default="qwen3-coder",
    # A card that fell off the bus is reported by its name. Their order does not matter with FASTEST_FIRST.
    host=d.host_policy(gpus=(d.gpu_card(name="RTX 4090"), d.gpu_card(name="RTX 5070 Ti"))),
    # For more than 256K of context: yarn_scale=2.0 and yarn_original_context=262144 in serve. Both are needed: the
    # owner's flags (`--rope-scaling yarn --yarn-orig-ctx 262144`) do nothing without a scale.
)

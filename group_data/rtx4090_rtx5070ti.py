"""RTX 4090 (24 GB) + RTX 5070 Ti (16 GB, drives the display), 64 GB DDR4: one heavy model at a time on port 8080.

The owner's rules: fill the fastest GPU first, then the second, only then RAM; when out of memory take one layer back,
then lower the context 256K -> 192K -> 128K; both GPUs above 90 % used.

He placed layers with `-ot blk[.](...)[.]=CUDA0,...=CUDA1,exps=CPU`. That moves weights alone: KV cache and recurrent
state stay where the layer split puts their layer, and each mismatch crosses the bus (130-136 graph splits a token).
So the split is declared too: with the 23,671 and 12,761 MiB that were free on his cards, 65 % of the layers go to
CUDA0, which is 32 + 17 for 48 layers and the output, 25 + 12 for gpt-oss's 36. Expert counts are his, unchanged.

Prompts are computed on the GPUs from experts in RAM, so these are pinned (`--load-mode none`), which read prompts
about four times as fast as a mapped file: where a dry run leaves 512 MiB on each card and all of it fits into the RAM
beside 4 GiB for the system. A deploy measures that once and says what lacked where it does not hold: by dry runs on
simulated cards it holds for the three of Qwen3-Coder, and not for gpt-oss (tests/planning/profile_memory.py).

`--jinja --no-context-shift -np 1 --split-mode layer --main-gpu 0 -ngl 99 --fit off` need no line here: llamarig's
defaults say the same.
"""

from group_data.all import llama_cpp_commit
from tasks.spec import declare as d

rig = d.rig(
    builds=[
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            architectures=("89-real", "120a-real"),  # RTX 4090, RTX 5070 Ti
            cuda_toolkit="13.5",
        )
    ],
    # `main` is what you follow; the model lock freezes it to a commit and sha256s at the first deploy.
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
                sampling=d.sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0),
                # CUDA0 must be the 4090, whichever slot it is in; CUDA's own order puts the fastest card first. Surer,
                # once you know them: gpus=("GPU-<the 4090's UUID>", "GPU-<the 5070 Ti's>"), from `nvidia-smi -L`.
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # Faster. 56.8 GB, 25.8 t/s; 27.9 t/s with ubatch=512, which also frees 449-2000 MiB a GPU.
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
                sampling=d.sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0),
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # The same files, placed by llama.cpp itself: 33 t/s and 55 graph splits a token, against 26-28 t/s and
        # 130-136 of the hand-written -ot. ubatch is the 512 of the measurements above; 1 GiB stays for the display,
        # and 512 MiB in place of his 128 on the 4090: pinned weights take up to 98 MiB that llama.cpp does not count.
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
                sampling=d.sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0),
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # About 20 t/s. The owner names no sampling for it: the model's own defaults hold. His 12 layers leave 483 MiB
        # on the 4090 by a dry run, too little for pinned weights: prompts are read from the mapped file, as a deploy
        # says. gpu=(11, 5) holds as many layers and leaves more than 1 GiB on each card, by the size of their experts.
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
                environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
            ),
        ),
        # Superseded, and no longer declared: Q5_K_M and Q6_K (UD is better here). Never: Q4_K_M, with which this
        # model rewrites its answers over and over.
    ],
    default="qwen3-coder",
    # One that fell off the bus is missed by its name. The order counts for nothing while each model says FASTEST_FIRST.
    host=d.host_policy(gpus=(d.gpu_card(name="RTX 4090"), d.gpu_card(name="RTX 5070 Ti"))),
    # Beyond 256K of context: yarn_scale=2.0 and yarn_original_context=262144 in serve. Both: the owner's flags
    # (`--rope-scaling yarn --yarn-orig-ctx 262144`) do nothing without a scale.
)

"""One 16 GB NVIDIA GPU, 64 GB RAM or more: Qwen3.5 35B-A3B with vision, one model at a time on port 8080.

Experts in RAM are pinned for the GPU (`--load-mode none`), which reads prompts about four times as fast as a mapped
file: where a dry run leaves 512 MiB of the card, and the RAM is large enough. If not, a deploy says what lacked.

The owner lost 30 % of his speed to an unpinned `git clone` of llama.cpp; since then he pins it (b8149, then).
A second build is one more entry of `builds`; it stands beside the first, and each model names the one it runs on.
"""

from group_data.all import llama_cpp_commit
from tasks.spec import declare as d

rig = d.rig(
    builds=[
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            # RTX 40xx and RTX 50xx; with one card, keeping its line alone halves the build.
            architectures=("89-real", "120a-real"),
            cuda_toolkit="13.5",
        )
    ],
    # `main` is what you follow; the model lock freezes it to a commit and sha256s at the first deploy.
    models=[
        # Production. About 20 GB, 69.6 t/s with 14,874 MiB of VRAM used. Perplexity +2.1 % over Q8_0 (WikiText-2);
        # UD-Q4_K_XL, which it replaced, +9.7 %.
        d.model(
            name="qwen35-a3b",
            repo="unsloth/Qwen3.5-35B-A3B-GGUF",
            quant="Q4_K_M",
            mmproj="mmproj-BF16.gguf",  # vision; it is loaded into VRAM too
            build="cuda",
            serve=d.serve(
                port=8080,
                context=65536,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                placement=d.cpu_moe(layers=24),  # the first 24 of 40, not the last: so llama.cpp counts
                sampling=d.sampling(temperature=0.6),  # for thinking; not thinking, clients send 0.7
            ),
        ),
        # Quality. 36.9 GB, 40.5 t/s, perplexity 6.5342 (WikiText-2).
        d.model(
            name="qwen35-a3b-q8",
            repo="unsloth/Qwen3.5-35B-A3B-GGUF",
            quant="Q8_0",
            mmproj="mmproj-BF16.gguf",
            build="cuda",
            serve=d.serve(
                port=8080,
                context=65536,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                # llama.cpp's own margin of 1024 MiB, to which it adds the projector's size.
                placement=d.fit(),
                sampling=d.sampling(temperature=0.6),
            ),
        ),
    ],
    default="qwen35-a3b",
)

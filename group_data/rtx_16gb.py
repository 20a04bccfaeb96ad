"""One 16 GB NVIDIA GPU, 64 GB RAM or more: Qwen3.5 35B-A3B with vision, one model at a time on port 8080.

Experts in RAM are pinned for the GPU (`--load-mode none`) where a dry run leaves 512 MiB of the card and the RAM is
large enough: the GPU then reads prompts about four times as fast as from a mapped file. If not, a deploy reports what
is missing.

The owner lost 30 % of the speed to an unpinned `git clone` of llama.cpp, and has pinned it since (b8149 at the time).
A second build is one more entry of `builds`; both are kept, and each model names the one that serves it.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        d.build(
            name="cuda",
            source=d.git_source(commit=llama_cpp_commit),
            # RTX 40xx and RTX 50xx; keep only that of your card to halve the build time.
            architectures=("89-real", "120a-real"),
            cuda_toolkit="13.5",
        )
    ],
    # The model lock freezes `main` to a commit and sha256s at the first deploy.
    models=[
        # Production. About 20 GB, 69.6 t/s with 14,874 MiB of VRAM used. Perplexity +2.1 % over Q8_0 (WikiText-2);
        # UD-Q4_K_XL, which it replaced, +9.7 %.
        d.model(
            name="qwen35-a3b",
            repo="unsloth/Qwen3.5-35B-A3B-GGUF",
            quant="Q4_K_M",
            mmproj="mmproj-BF16.gguf",  # vision; loaded into VRAM
            build="cuda",
            serve=d.serve(
                port=8080,
                context=65536,
                cache_type_k="q8_0",
                cache_type_v="q8_0",
                placement=d.cpu_moe(layers=24),  # the first 24 of 40: llama.cpp counts from the first
                load_mode="auto",  # experts in RAM pinned where RAM and VRAM have room: prompts 4 times as fast
                sampling=d.sampling(temperature=0.6),  # for reasoning; clients send 0.7 without it
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
                # llama.cpp's own margin of 1024 MiB, and the size of the projector.
                placement=d.fit(),
                load_mode="auto",  # experts in RAM pinned where RAM and VRAM have room: prompts 4 times as fast
                sampling=d.sampling(temperature=0.6),
            ),
        ),
    ],
    default="qwen35-a3b",
)

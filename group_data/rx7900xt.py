"""AMD RX 7900 XT (20 GB), 64 GB RAM: an 80B model with 12 whole layers on the GPU, to use 90 % of its memory.

Built for Vulkan: this needs only the distribution's Mesa driver and shader compiler, and its flash attention reads a
q4_1 KV cache. For ROCm (several gigabytes more), declare
`d.build(name="hip", backend="hip", architectures=("gfx1100",), ...)` and name it in the model.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        d.build(name="vulkan", source=d.git_source(commit=llama_cpp_commit), backend="vulkan"),
    ],
    # The model lock freezes `main` to a commit and sha256s at the first deploy.
    models=[
        d.model(
            name="qwen3-coder-ud-q4",
            repo="unsloth/Qwen3-Coder-Next-GGUF",
            quant="UD-Q4_K_XL",
            build="vulkan",
            serve=d.serve(
                port=8080,
                context=262144,
                batch=16384,
                ubatch=1024,
                cache_type_k="q4_1",
                cache_type_v="q4_1",
                # The owner's regex to move "layers 10 and up" to RAM,
                # `[.]([0-1][2-9]|[2-9][0-9]|...)[.]ffn_(up|down|gate)_exps`, matches 12 and up, so 10 and 11 stayed on
                # the GPU. What ran, and fitted, is 12 whole layers.
                placement=d.layers(gpu=(12,), split=(49,)),
                load_mode="auto",  # llama.cpp's own, mapped: whether pinned is faster on Vulkan has not been measured
                accept={"kv-4-bit": "q8_0 leaves no room for 256K of context beside 12 layers"},
                # By its makers: instruct 0.7/20/0.8/0, reasoning 0.6/20/0.95/0, presence penalty 0-2.
                sampling=d.sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.0),
            ),
        ),
    ],
)

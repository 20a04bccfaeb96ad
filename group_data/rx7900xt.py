"""AMD RX 7900 XT (20 GB), 64 GB RAM: an 80B model with 12 whole layers on the GPU; aim is 90 % of its memory.

Built for Vulkan: the distribution's Mesa driver and shader compiler are all it takes, and its flash attention reads a
q4_1 KV cache as it comes. With ROCm (several gigabytes more) it is
`d.build(name="hip", backend="hip", architectures=("gfx1100",), ...)`, named by the model instead.
"""

from group_data.all import llama_cpp_commit
from tasks.spec import declare as d

rig = d.rig(
    builds=[
        d.build(name="vulkan", source=d.git_source(commit=llama_cpp_commit), backend="vulkan"),
    ],
    # `main` is what you follow; the model lock freezes it to a commit and sha256s at the first deploy.
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
                # His regex for "layers 10 and up" to RAM, `[.]([0-1][2-9]|[2-9][0-9]|...)[.]ffn_(up|down|gate)_exps`,
                # matches 12 and up: 10 and 11 stayed on the GPU, in this and in his "12 and up" regex. What ran, and
                # fitted, is 12 whole layers.
                placement=d.layers(gpu=(12,), split=(49,)),
                accept={"kv-4-bit": "his choice: q8_0 leaves no room for 256K of context beside 12 layers"},
                # The model's makers: instruct 0.7/20/0.8/0, thinking 0.6/20/0.95/0, presence penalty 0-2.
                sampling=d.sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.0),
            ),
        ),
    ],
)

"""Make a small vision projector with random weights that a real llama-server loads beside the tiny model.

Of the kind of LLaVA 1.5 (`mlp`), which needs the least: a vision transformer of fixed size and two matrices
(tools/mtmd/clip.cpp and tools/mtmd/models/llava.cpp, pinned commit). A picture becomes four tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType

PICTURE, PATCH = 28, 14
WIDTH, INNER, HEADS, LAYERS = 32, 64, 2, 2
"""llama.cpp leaves the last layer out, as LLaVA does."""


def tensor_shapes(embedding: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors in numpy's order of dimensions, the reverse of ggml's."""
    yield "v.patch_embd.weight", (WIDTH, 3, PATCH, PATCH)
    yield "v.position_embd.weight", ((PICTURE // PATCH) ** 2, WIDTH)
    for layer in range(LAYERS):
        shapes = {**dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (WIDTH, WIDTH))}
        for name, shape in {**shapes, "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}.items():
            yield f"v.blk.{layer}.{name}.weight", shape
            yield f"v.blk.{layer}.{name}.bias", shape[:1]
        for name in ("ln1", "ln2"):
            yield f"v.blk.{layer}.{name}.weight", (WIDTH,)
            yield f"v.blk.{layer}.{name}.bias", (WIDTH,)
    for layer, inner in ((0, WIDTH), (2, embedding)):
        yield f"mm.{layer}.weight", (embedding, inner)
        yield f"mm.{layer}.bias", (embedding,)


def write_projector(path: Path, *, seed: int, embedding: int = 256) -> Path:
    """Write the file, 450 KB; the same arguments give the same bytes.

    :param embedding: length of the model's embedding, as tests/box/tiny_model.py has it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    numbers = {
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "block_count": LAYERS,
        "projection_dim": embedding,
        "image_size": PICTURE,
        "patch_size": PATCH,
        "attention.head_count": HEADS,
    }
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    rng = np.random.default_rng(seed)
    for name, shape in tensor_shapes(embedding):
        # Small integers times a power of two: exact, so the same on any machine.
        writer.add_tensor(name, rng.integers(-512, 512, size=shape).astype(np.float32) / 4096)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

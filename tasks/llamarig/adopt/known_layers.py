"""Numbers of layers of models that are often placed by hand, for command lines whose model file is not at hand.

As the pinned commit knows them: `switch (hparams.n_layer())` of each architecture's file in src/models/. Layers of
multi-token prediction that the files have are counted, as --tensor-split counts them. A deploy refuses a wrong number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_LAYERS: Mapping[str, int] = {
    "qwen3-coder-next": 48,  # qwen3next.cpp
    "qwen3-next-80b": 48,
    "qwen3-30b-a3b": 48,  # qwen3moe.cpp
    "qwen3-coder-30b-a3b": 48,
    "qwen3-235b-a22b": 94,
    "qwen3-5-35b-a3b": 40,  # qwen35moe.cpp
    "qwen3-5-122b-a10b": 48,
    "qwen3-5-397b-a17b": 60,
    "gpt-oss-20b": 24,  # openai-moe.cpp
    "gpt-oss-120b": 36,
    "glm-4-5-air": 47,  # glm4-moe.cpp: 46, and one for multi-token prediction
    "glm-4-5": 93,
    "glm-4-6": 93,
    "deepseek-v3": 61,  # deepseek2.cpp
    "deepseek-v3-1": 61,
    "deepseek-r1": 61,
    "kimi-k2": 61,
    "minimax-m2": 62,  # minimax-m2.cpp
    "mixtral-8x7b": 32,  # llama.cpp
    "mixtral-8x22b": 56,
}


def known_layers(name: str) -> int | None:
    """The number of layers of a model, by the name of its file or repository; None where it is not known."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower())
    if "mtp" in plain.split("-"):
        return None  # with layers of multi-token prediction, which the others of its name lack
    found = [pattern for pattern in _LAYERS if re.search(rf"(^|-){pattern}(-|$)", plain)]
    return _LAYERS[max(found, key=len)] if found else None

"""What a GGUF file is by the beginning of its header: a model, or a file that is loaded with one and not as one."""

from __future__ import annotations

from llamarig.remote.shared.gguf_header import FirstKeys

PROJECTOR, DRAFT_HEAD, IMATRIX = "vision projector", "draft head", "importance matrix"

ARCHITECTURES = {
    "clip": PROJECTOR,
    # Their contexts need that of the model that they draft for (ctx_other in src/llama-context.cpp, pinned commit).
    "eagle3": DRAFT_HEAD,
    "dflash": DRAFT_HEAD,
    "gemma4-assistant": DRAFT_HEAD,
    "controlvector": "control vector",
}
"""general.architecture -> kind, of files that llama-server does not serve although llama.cpp knows some of them."""
_TYPES = {"adapter": "LoRA adapter", "imatrix": IMATRIX, "mmproj": PROJECTOR}
"""general.type -> kind (gguf-py/gguf/constants.py; tools/imatrix/imatrix.cpp; pinned commit)."""
_REMEDIES = {
    PROJECTOR: ", and this one in mmproj",
    DRAFT_HEAD: ", and this one in draft",
    "LoRA adapter": ", and pass this one as --lora in serve.extra",
}


def kind_by_header(first: FirstKeys) -> str | None:
    """Kind of a file that is loaded with a model; None for a model's own, and where these bytes do not tell."""
    architecture = first.metadata.get("general.architecture")
    kind = _TYPES.get(str(first.metadata.get("general.type"))) or ARCHITECTURES.get(str(architecture))
    return kind or (DRAFT_HEAD if _has_only_nextn_layers(first, str(architecture)) else None)


def refusal(model: str, file: str, kind: str) -> str:
    """The refusal of a model whose file is of another kind."""
    return (
        f"the file of model {model!r} is {'an' if kind[0] in 'aio' else 'a'} {kind} by its header ({file}), which is "
        f"loaded with a model and not as one: name the model's own files in files{_REMEDIES.get(kind, '')}"
    )


def _has_only_nextn_layers(first: FirstKeys, architecture: str) -> bool:
    """Whether a file that is whole has too few tensors for the layers that it counts (``mtp_only`` in src/models/)."""
    layers, nextn = (first.metadata.get(f"{architecture}.{key}") for key in ("block_count", "nextn_predict_layers"))
    is_whole = "split.count" not in first.metadata or first.metadata["split.count"] in (0, 1)
    counted = isinstance(layers, int) and isinstance(nextn, int) and 0 < nextn < layers
    return counted and is_whole and first.tensors < 2 * (int(layers or 0) - int(nextn or 0))

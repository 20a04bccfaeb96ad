"""The flags of `python -m llama_cpp.server` (llama-cpp-python) as those of llama-server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamarig.adopt.launch import Note
from llamarig.declare.risky_flags import flag_of

_SAME: Mapping[str, str] = {
    **{"--n-ctx": "--ctx-size", "--n-batch": "--batch-size", "--n-ubatch": "--ubatch-size", "--model": "--model"},
    **{"--n-threads": "--threads", "--n-threads-batch": "--threads-batch", "--host": "--host", "--port": "--port"},
    **{"--main-gpu": "--main-gpu", "--model-alias": "--alias", "--seed": "--seed", "--api-key": "--api-key"},
    **{"--rope-freq-base": "--rope-freq-base", "--rope-freq-scale": "--rope-freq-scale", "--lora-path": "--lora"},
    **{"--clip-model-path": "--mmproj", "--ssl-keyfile": "--ssl-key-file", "--ssl-certfile": "--ssl-cert-file"},
    **{
        "--hf-model-repo-id": "--hf-repo",
        "--yarn-orig-ctx": "--yarn-orig-ctx",
        "--yarn-ext-factor": "--yarn-ext-factor",
    },
    **{"--yarn-attn-factor": "--yarn-attn-factor", "--yarn-beta-fast": "--yarn-beta-fast"},
    **{"--yarn-beta-slow": "--yarn-beta-slow"},
}
_SWITCHES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "--flash-attn": (("--flash-attn", "on"), ("--flash-attn", "off")),
    "--use-mlock": (("--mlock",), ()),
    "--use-mmap": ((), ("--no-mmap",)),
    "--offload-kqv": ((), ("--no-kv-offload",)),
    "--embedding": (("--embeddings",), ()),
    "--check-tensors": (("--check-tensors",), ()),
    "--verbose": ((), ()),
    "--mul-mat-q": ((), ()),
    "--logits-all": ((), ()),
    "--vocab-only": ((), ()),
    "--cache": ((), ()),
    "--interrupt-requests": ((), ()),
    "--numa": (("--numa", "distribute"), ()),
}
"""Switch -> what it is where it is true, and where it is false."""
_CACHE_TYPES = {"0": "f32", "1": "f16", "2": "q4_0", "3": "q4_1", "6": "q5_0", "7": "q5_1", "8": "q8_0", "30": "bf16"}
"""Numbers of ggml's types (ggml/include/ggml.h)."""
_SPLIT_MODES = {"0": "none", "1": "layer", "2": "row"}
DEFAULTS = ("--ctx-size", "2048", "--batch-size", "512", "--port", "8000", "--n-gpu-layers", "0", "--parallel", "1")
"""Its defaults that are not llama-server's (llama_cpp/server/settings.py)."""


def as_llama_server(words: Sequence[str]) -> tuple[list[str], list[Note]]:
    """The words that mean the same to llama-server, after the defaults of llama-cpp-python that differ."""
    found, notes = list(DEFAULTS), []
    at = 0
    while at < len(words):
        name, equals, value = words[at].partition("=")
        flag = flag_of(name)
        values = [value] if equals else []
        at += 1
        while not equals and at < len(words) and not words[at].startswith("--"):
            values.append(words[at])
            at += 1
        text = values[0] if values else ""
        if flag == "--n-gpu-layers":
            found += ["--n-gpu-layers", "all" if text == "-1" else text]
        elif flag == "--tensor-split":
            found += ["--tensor-split", ",".join(values)]
        elif flag in ("--type-k", "--type-v") and text in _CACHE_TYPES:
            found += [flag.replace("type", "cache-type"), _CACHE_TYPES[text]]
        elif flag == "--split-mode" and text in _SPLIT_MODES:
            found += ["--split-mode", _SPLIT_MODES[text]]
        elif flag in _SWITCHES:
            is_on = not values or text.lower() in ("true", "1", "yes", "on")
            as_ours = _SWITCHES[flag][0 if is_on else 1]
            found += as_ours
            if not any(_SWITCHES[flag]):
                notes.append(Note(" ".join([name, *values]), "nothing in llama-server, dropped"))
        elif flag in _SAME:
            found += [_SAME[flag], text]
        else:
            notes.append(Note(" ".join([name, *values]), _NAMED.get(flag, "llama-server has none like it")))
    return found, notes


_NAMED = {
    "--chat-format": "llama-server takes the template of the model's file; another is serve.extra = "
    '("--chat-template", NAME)',
    "--config-file": "a file with several models: adopt each of them by its own command line",
    "--last-n-tokens-size": "serve.sampling.repeat_last_n",
    "--cache-type": "llama-server keeps prompts in RAM: serve.cache_ram_mib",
    "--cache-size": "llama-server keeps prompts in RAM: serve.cache_ram_mib",
    "--hf-tokenizer-config-path": "llama-server reads the model's own tokenizer",
    "--hf-pretrained-model-name-or-path": "llama-server reads the model's own tokenizer",
    "--draft-model": "guessing from the prompt is serve.speculation = speculation(types=('ngram-simple',))",
    "--draft-model-num-pred-tokens": "serve.speculation.ngram_draft",
}

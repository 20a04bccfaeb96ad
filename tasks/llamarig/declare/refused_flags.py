"""Flags that cannot work in a unit of llamarig, and why."""

from __future__ import annotations

_PRINTS = "llama-server would print this and exit instead of serving; leave it out"
_ROUTER = "router mode serves other models than the declared one; rig(presets=...) writes a preset file for it"
_NO_CHAT = "the server would refuse completions, which a deploy requests to check that a model serves; leave it out"
_FETCHES = "it downloads a model that is not pinned; declare that model, with its flags"

REFUSED_FLAGS = {
    **dict.fromkeys(("-h", "--help", "--usage", "--version", "-cl", "--cache-list", "--completion-bash"), _PRINTS),
    "--list-devices": _PRINTS,
    **dict.fromkeys(("--models-dir", "--models-preset", "--models-max"), _ROUTER),
    **dict.fromkeys(("--models-autoload", "--no-models-autoload"), _ROUTER),
    **dict.fromkeys(("--embedding", "--embeddings", "--rerank", "--reranking"), _NO_CHAT),
    "--api-prefix": "health check, start check and liveness probe use no prefix; put it into your reverse proxy",
    "--ssl-key-file": "releases are built without TLS; put a reverse proxy in front",
    "--ssl-cert-file": "releases are built without TLS; put a reverse proxy in front",
    "--log-file": "the unit has no writable directory; the log is in `journalctl -u`",
    "--log-disable": "a deploy shows the last lines of the log when a start fails; lower log_verbosity instead",
    "--log-prompts-dir": "the unit has no writable directory",
    **dict.fromkeys(("--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default"), _FETCHES),
    **dict.fromkeys(("--fim-qwen-7b-default", "--fim-qwen-7b-spec", "--fim-qwen-14b-spec"), _FETCHES),
    **dict.fromkeys(("--fim-qwen-30b-default", "--gpt-oss-20b-default", "--gpt-oss-120b-default"), _FETCHES),
    **dict.fromkeys(("--vision-gemma-4b-default", "--vision-gemma-12b-default"), _FETCHES),
}

"""Flags that cannot work in a unit of llamarig, and why."""

from __future__ import annotations

_PRINTS = "llama-server would print this and exit instead of serving; leave it out"
_ROUTER = "it is read only by a server without a model (router mode); rig(presets=...) writes a preset file for one"
_NOWHERE_TO_WRITE = "the unit has no writable directory but a /tmp of its own, which is empty at every start"
_PRIORITY = "the unit allows real-time threads only with serve.priority; declare that in its place"
_FETCHES = "it downloads a model that is not pinned; declare that model, with its flags"

REFUSED_FLAGS = {
    **dict.fromkeys(("-h", "--help", "--usage", "--version", "-cl", "--cache-list", "--completion-bash"), _PRINTS),
    "--list-devices": _PRINTS,
    **dict.fromkeys(("--models-dir", "--models-preset", "--models-max"), _ROUTER),
    **dict.fromkeys(("--models-autoload", "--no-models-autoload"), _ROUTER),
    "--log-file": f"{_NOWHERE_TO_WRITE}; the log is in `journalctl -u`",
    "--log-disable": "a deploy shows the last lines of the log when a start fails; lower log_verbosity instead",
    "--log-prompts-dir": _NOWHERE_TO_WRITE,
    # It has to exist at the start, and the unit's own /tmp is then empty.
    "--slot-save-path": f"{_NOWHERE_TO_WRITE}; prompts of earlier requests are kept in RAM (serve.cache_ram_mib)",
    "--tools-runtime": "the sandbox of the unit has neither a container engine's socket nor a home with SSH keys",
    **dict.fromkeys(("--prio-batch", "--spec-draft-prio", "--prio-draft"), _PRIORITY),
    **dict.fromkeys(("--spec-draft-prio-batch", "--prio-batch-draft"), _PRIORITY),
    "--kv-unified-per-slot": "it is read only without a context, which a unit always has; declare serve.context",
    **dict.fromkeys(("--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default"), _FETCHES),
    **dict.fromkeys(("--fim-qwen-7b-default", "--fim-qwen-7b-spec", "--fim-qwen-14b-spec"), _FETCHES),
    **dict.fromkeys(("--fim-qwen-30b-default", "--gpt-oss-20b-default", "--gpt-oss-120b-default"), _FETCHES),
    **dict.fromkeys(("--vision-gemma-4b-default", "--vision-gemma-12b-default"), _FETCHES),
}

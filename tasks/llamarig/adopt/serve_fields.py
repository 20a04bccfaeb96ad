"""The fields of serve(...) that the options of a llama-server mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamarig.adopt.address import key_path
from llamarig.adopt.launch import Note
from llamarig.adopt.older_flags import DROPPED, LOCKED, REMOVED_IN_SEPTEMBER_2026, RENAMED, WITHOUT_MMAP
from llamarig.adopt.options import Given
from llamarig.adopt.pinned_flags import PINNED_OPTIONS
from llamarig.adopt.typed_values import TYPED_ROWS, NotAValueError, samplers_of_letters, typed_value
from llamarig.declare.refused_flags import REFUSED_FLAGS
from llamarig.declare.risky_flags import risky_flags
from llamarig.declare.secrets import text_is_secret
from llamarig.declare.unit_syntax import unit_syntax_error

_DEFAULTS = frozenset(
    {
        *("--jinja", "-cb", "--cont-batching", "--no-context-shift", "--perf", "-e", "--escape", "--repack"),
        *("--log-prefix", "--log-timestamps", "--mmproj-auto", "--cache-prompt", "--prefill-assistant"),
        "--cache-idle-slots",
    }
)
"""Flags that say what holds without them."""
_NO_LIMIT = {"threads": 0, "threads_batch": 0, "max_tokens": -1, "sleep_idle_s": -1, "image_min_tokens": -1}
_NO_LIMIT |= {"image_max_tokens": -1, "parallel": -1, "kv_unified_per_slot": 0, "draft_gpu_layers": -1}
"""Field -> the number with which the flag says what holds without it; smaller ones mean the same."""
_ROPE = ("--rope-scaling", "--rope-scale")
_TASKS = {"--embedding": "embeddings", "--embeddings": "embeddings", "--rerank": "rerank", "--reranking": "rerank"}
_LOAD_MODES = {"--mmap", WITHOUT_MMAP, LOCKED, "--load-mode", "-lm"}
_DEVICES = {"vulkan": "Vulkan", "rocm": "ROCm"}
NO_PROJECTOR = ("--no-mmproj", "--no-mmproj-auto")
_VERBOSE = ("-v", "--verbose", "--log-verbose")
_SPECULATION = ("--spec-type", "--spec-default")


@dataclass
class ServeFields:
    """``values``: path of a field ("sampling.top_k") -> value; ``comments``: field -> what to know of it."""

    values: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    readable: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)
    """Path of a field -> the option that it is from, also where that is the default."""

    def note(self, given: Given | str, text: str) -> None:
        """Say what became of an option."""
        self.notes.append(Note(given if isinstance(given, str) else given.written, text))


def serve_fields(options: Sequence[Given], name: str) -> ServeFields:
    """The fields of all options but those for files and placement, which are left out of ``options``.

    :param name: of the model, for the path of its key file
    """
    found = ServeFields()
    modes: list[Given] = []
    rope: dict[str, Given] = {}
    for given in _renamed(options, found):
        handler = _HANDLERS.get(given.flag)
        if given.flag in _LOAD_MODES:
            modes.append(given)
        elif given.flag in _ROPE:
            rope[given.flag] = given
        elif given.flag in ("--api-key", "-hft", "--hf-token"):
            _secret(found, given, name)
        elif handler is not None:
            handler(found, given)
        elif given.flag in TYPED_ROWS:
            _typed(found, given)
        else:
            _untyped(found, given)
    _load_mode(found, modes)
    _rope_scaling(found, rope)
    return found


def _renamed(options: Sequence[Given], found: ServeFields) -> list[Given]:
    renamed = []
    for given in options:
        if given.flag not in RENAMED:
            renamed.append(given)
            continue
        words = RENAMED[given.flag]
        pairs = [words[at : at + 2] for at in range(0, len(words), 2)]
        for flag, *value in pairs:
            renamed.append(Given(flag, tuple(value) or given.values, given.variable))
        found.note(given, f"{' '.join(words)} now")
    return renamed


def _typed(found: ServeFields, given: Given) -> None:
    row = TYPED_ROWS[given.flag]
    found.given[row.path] = given
    try:
        value = typed_value(given, row)
    except NotAValueError as error:
        found.note(given, f"{error}: declare serve.{row.path}")
        return
    if isinstance(value, int) and row.name in _NO_LIMIT and value <= _NO_LIMIT[row.name]:
        found.given.pop(row.path)
        found.note(given, "the default, dropped")
        return
    default = row.info.default
    if value == default and default is not None:
        found.values.pop(row.path, None)  # of a flag that is given twice, the last holds
        found.note(given, "the default, dropped")
    else:
        found.values[row.path] = value
        if given.flag in ("-fa", "--flash-attn") and given.value is None:
            found.note(given, "a switch until autumn 2025; --flash-attn on now")


def _untyped(found: ServeFields, given: Given) -> None:
    if given.flag in _DEFAULTS and given.flag in PINNED_OPTIONS:
        found.note(given, "the default, dropped")
    elif given.flag in DROPPED and given.flag not in PINNED_OPTIONS:
        found.note(given, f"dropped: {DROPPED[given.flag]}")
    elif given.flag in REFUSED_FLAGS:
        found.note(given, f"dropped: {REFUSED_FLAGS[given.flag]}")
    elif risky := risky_flags([given.flag]):
        found.note(given, f"dropped: {risky[0].refusal()}, and pass the flag as serve.extra")
    elif given.flag not in PINNED_OPTIONS:
        found.note(given, "dropped: the pinned llama.cpp has no such flag, and none in its place is known here")
    else:
        _extra(found, given)


def _extra(found: ServeFields, given: Given) -> None:
    words = [given.flag, *given.values]
    if any(text_is_secret(word) for word in words):
        found.note(given.flag, "dropped: it looks like a secret, and every user of the box can read command lines")
    elif reason := next(filter(None, map(unit_syntax_error, words)), None):
        found.note(given.flag, f"dropped: {reason}; give it as a file")
    elif given.flag == "--numa" and not given.values:
        found.extra += ["--numa", "distribute"]
        found.note(given, "a switch in 2023; --numa distribute now, in extra")
    elif len(given.values) != PINNED_OPTIONS[given.flag].values:
        wanted = PINNED_OPTIONS[given.flag].values
        found.note(given, f"dropped: it takes {wanted or 'no'} value{'' if wanted == 1 else 's'} now")
    else:
        found.extra += words
        found.note(given, "has no field: in extra")
        for value in given.values:
            found.readable += [
                part for part in re.split("[,;:]", value) if re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", part)
            ]


def _secret(found: ServeFields, given: Given, name: str) -> None:
    if given.flag == "--api-key":
        path = key_path(name)
        found.values["api_key_file"] = path
        found.note(
            given,
            f"a key is not written into a declaration: put it, one a line, into {path} on the box, a file of root's "
            "with mode 600; it can be read in `ps` now, so a new one is better",
        )
    else:
        found.note(
            given, "dropped: the server loads files that are on the box; a deploy's own token is hub(token_env=...)"
        )


def _task(found: ServeFields, given: Given) -> None:
    found.values["task"] = _TASKS[given.flag]
    if given.flag == "--embedding":
        found.note(given, 'task = "embeddings": since 2024 such a server answers no completions')


def _pooling(found: ServeFields, given: Given) -> None:
    if given.value == "rank":
        found.values["task"] = "rerank"
        found.note(given, 'task = "rerank", which pools so')
    elif given.value in ("mean", "cls", "last"):
        found.values["pooling"] = given.value
    else:
        found.note(given, "dropped: a declaration has mean, cls and last")


def _verbose(found: ServeFields, given: Given) -> None:
    found.values["log_verbosity"] = 5
    found.note(given, "log_verbosity = 5, which logs a great deal; 3 is the default, 4 adds the sizes of buffers")


def _web_ui(found: ServeFields, given: Given) -> None:
    if given.flag in ("--ui", "--webui"):
        found.note(given, "dropped: releases are built without the pages")
    else:
        found.note(given, "the default, dropped")


def _device(found: ServeFields, given: Given) -> None:
    names = [name for name in (given.value or "").split(",") if name]
    if names == ["none"]:
        found.values["placement"] = "cpu-only"
    elif names and all(re.fullmatch(r"(?i:vulkan|rocm)\d+", name) for name in names):
        # llama.cpp ignores their letter case.
        found.values["gpus"] = tuple(re.sub(r"^\D+", lambda kind: _DEVICES[kind[0].lower()], name) for name in names)
    else:
        found.note(
            given,
            "NVIDIA's cards are named by UUID, which stays with the card: declare serve.gpus as `nvidia-smi -L` prints "
            "them",
        )


def _speculation(found: ServeFields, given: Given) -> None:
    types = ["ngram-mod"] if given.flag == "--spec-default" else (given.value or "").split(",")
    types = [kind for kind in types if kind and kind != "none"]
    if types:
        earlier = found.values.get("speculation.types", ())
        found.values["speculation.types"] = tuple(dict.fromkeys([*earlier, *types]))


def _sampling_letters(found: ServeFields, given: Given) -> None:
    samplers = samplers_of_letters(given.value or "")
    if samplers:
        found.values["sampling.samplers"] = samplers
    if len(samplers) < len(given.value or ""):
        found.note(given, "not every letter is a sampler: declare serve.sampling.samplers")


def _split_mode(found: ServeFields, given: Given) -> None:
    if given.value == "row":
        found.note(
            given, "dropped: llama.cpp's CUDA backend no longer has it (#24216, June 2026); layer is the default"
        )
    else:
        _typed(found, given)


def _cors(found: ServeFields, given: Given) -> None:
    found.note(given, "dropped: llama-server reads no cookies")


def _cors_origins(found: ServeFields, given: Given) -> None:
    if given.value == "localhost":
        found.note(given, "dropped: a declared model has it")
    else:
        _typed(found, given)


def _reuse_port(found: ServeFields, given: Given) -> None:
    found.note(given, "dropped: a declared model has it where its build knows it")


def _no_projector(found: ServeFields, given: Given) -> None:
    found.note(given, "the default of a declared model, which has a projector where mmproj names one")


_HANDLERS: Mapping[str, Callable[[ServeFields, Given], None]] = {
    **dict.fromkeys(_TASKS, _task),
    **dict.fromkeys(_VERBOSE, _verbose),
    **dict.fromkeys(("--ui", "--webui", "--no-ui", "--no-webui"), _web_ui),
    **dict.fromkeys(("-dev", "--device"), _device),
    **dict.fromkeys(_SPECULATION, _speculation),
    **dict.fromkeys(("--sampler-seq", "--sampling-seq"), _sampling_letters),
    **dict.fromkeys(("-sm", "--split-mode"), _split_mode),
    **dict.fromkeys(("--cors-credentials", "--no-cors-credentials"), _cors),
    **dict.fromkeys(NO_PROJECTOR, _no_projector),
    "--cors-origins": _cors_origins,
    "--pooling": _pooling,
    "--reuse-port": _reuse_port,
}


def _load_mode(found: ServeFields, modes: Sequence[Given]) -> None:
    """The load mode of --load-mode, or of the switches that it has replaced."""
    if not modes:
        return
    if named := [given.value for given in modes if given.flag in ("--load-mode", "-lm")]:
        if named[-1] in ("none", "mmap", "mlock", "mmap+mlock", "dio"):
            found.values["load_mode"] = named[-1]
        for given in modes:
            if given.flag not in ("--load-mode", "-lm"):
                found.note(given, f"{REMOVED_IN_SEPTEMBER_2026}; --load-mode decides")
        return
    flags = {given.flag for given in modes}
    without = WITHOUT_MMAP in flags
    mode = ("mlock" if without else "mmap+mlock") if LOCKED in flags else "none" if without else "mmap"
    found.values["load_mode"] = mode
    written = " ".join(dict.fromkeys(given.written for given in modes))
    found.note(written, f'{REMOVED_IN_SEPTEMBER_2026}; `{written}` is load_mode = "{mode}" now')


def _rope_scaling(found: ServeFields, rope: Mapping[str, Given]) -> None:
    kind, scale = (rope[flag].value if flag in rope else None for flag in _ROPE)
    if not rope:
        return
    written = " ".join(given.written for given in rope.values())
    factor = float(scale) if scale and re.fullmatch(r"\d+(\.\d+)?", scale) else None
    if kind == "yarn" and factor is not None and factor > 1:
        found.values["yarn_scale"] = factor
    elif kind == "yarn" and 0 < found.values.get("rope_freq_scale", 1) < 1:
        stretched = 1 / found.values.pop("rope_freq_scale")
        found.values["yarn_scale"] = round(stretched, 6)
        found.note(written, f"yarn_scale = {stretched:g}, which is 1 / --rope-freq-scale")
    elif kind == "yarn":
        original = found.values.pop("yarn_original_context", None)
        more = f" --yarn-orig-ctx {original}" if original else ""
        found.note(
            f"{written}{more}",
            "dropped: without --rope-scale it does nothing; for twice the context declare yarn_scale = 2.0, and "
            f"yarn_original_context{f' = {original}' if original else ''}",
        )
    elif factor and kind in (None, "linear"):
        found.values["rope_freq_scale"] = 1 / factor
        found.note(written, f"rope_freq_scale = 1/{factor:g}, which is the same")
    else:
        found.note(written, "has no field: declare serve.yarn_scale or serve.rope_freq_scale")

"""From a declared model to the arguments of the llama-server build that serves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llamarig.declare.flags import Flag, setting_of
from llamarig.declare.model import Model
from llamarig.declare.serve import Serve
from llamarig.declare.serve.endpoint import CREDENTIALS
from llamarig.declare.serve.speculation import SIZED_NGRAMS, Speculation
from llamarig.render.build_flags import BuildFlags, FlagRefusedError, field_arguments, simple_arguments
from llamarig.render.placement_arguments import placement_arguments


@dataclass(frozen=True)
class ModelFiles:
    """Absolute paths on the box. ``model`` is the first shard; llama.cpp finds the others beside it."""

    model: str
    mmproj: str | None = None
    draft: str | None = None
    other_shards: tuple[str, ...] = ()
    positions: int = 0
    """Layers of the model and its output, as llama.cpp counts them; 0 where they are not known."""

    @property
    def all(self) -> list[str]:
        """Every file that the server reads."""
        return [self.model, *self.other_shards, *filter(None, (self.mmproj, self.draft))]


def server_arguments(
    model: Model, files: ModelFiles, flags: Collection[str], credentials: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """The arguments of llama-server, without the program itself.

    They stand in the order of the fields of Serve, after the model's files.

    :param flags: every flag that the ``--help`` of the release lists
    :param credentials: field of serve (key and certificate files) -> where the program finds the file; the flags of
        others are left out
    :raises FlagRefusedError: when the build cannot do what is declared
    """
    build = BuildFlags(flags)
    named = {"alias": model.serve.alias or model.name}
    serve = model.serve.model_copy(update={**named, **dict.fromkeys(CREDENTIALS), **credentials})
    arguments = file_arguments(build, files)
    if serve.speculation is not None:
        arguments += speculation_arguments(serve.speculation, build)
    for field, info in Serve.model_fields.items():
        setting = setting_of(info)
        if field == "sampling":
            arguments += simple_arguments(build, serve.sampling, "sampling.")
        elif field == "placement":
            arguments += _placement(build, serve, files.positions)
        elif isinstance(setting, Flag) and setting.rendered_by:
            arguments += RENDERERS[setting.rendered_by](build, serve)
        elif isinstance(setting, Flag):
            arguments += field_arguments(build, serve, field, setting, field)
    return [*arguments, *reuse_port_arguments(build), *serve.extra]


def reuse_port_arguments(build: BuildFlags) -> list[str]:
    """SO_REUSEPORT, where the build has the choice: those before that choice have no other.

    A port changes from one build to another only where both bind with the same option, as long as connections of the
    earlier server are left. Whether another server uses the port is checked by the switch, since the kernel allows it.
    """
    return build.option_if_known("--reuse-port")


def file_arguments(build: BuildFlags, files: ModelFiles) -> list[str]:
    """The files of the model, by their paths on the box."""
    arguments = build.option("files", "--model", files.model)
    if files.mmproj:
        arguments += build.option("mmproj", "--mmproj", files.mmproj)
    if files.draft:
        arguments += build.option("draft", "--model-draft", files.draft)
    return arguments


def speculation_arguments(speculation: Speculation, build: BuildFlags) -> list[str]:
    """The flags of speculative decoding; the draft model's file is rendered with the model's files.

    :raises FlagRefusedError: when the build has no such type of speculation
    """
    arguments: list[str] = []
    # Builds from before --spec-type guess with a draft model as soon as there is one, and in no other way.
    if "--spec-type" in build.flags or speculation.types != ("draft-simple",):
        arguments += build.option("speculation.types", "--spec-type", ",".join(speculation.types))
    arguments += simple_arguments(build, speculation, "speculation.")
    for kind in speculation.types:
        if kind in SIZED_NGRAMS:
            sizes = {"size-n": "ngram_size", "size-m": "ngram_draft", "min-hits": "ngram_min_hits"}
        elif kind == "ngram-mod":
            sizes = {"n-match": "ngram_size", "n-min": "ngram_mod_min", "n-max": "ngram_mod_max"}
        else:
            continue
        for suffix, field in sizes.items():
            if (value := getattr(speculation, field)) is not None:
                arguments += build.option(f"speculation.{field}", f"--spec-{kind}-{suffix}", str(value))
    return arguments


def yarn_arguments(build: BuildFlags, serve: Serve) -> list[str]:
    """YaRN and its scale, without which the other two flags of it do nothing (src/llama-context.cpp)."""
    if serve.yarn_scale is None:
        return []
    return [
        *build.option("yarn_scale", "--rope-scaling", "yarn"),
        *build.option("yarn_scale", "--rope-scale", f"{serve.yarn_scale:g}"),
    ]


def _placement(build: BuildFlags, serve: Serve, positions: int = 0) -> list[str]:
    return [
        word
        for flag, *value in placement_arguments(serve.placement, positions)
        for word in build.option("placement", flag, *value)
    ]


def task_arguments(build: BuildFlags, serve: Serve) -> list[str]:
    """The flag of a server for embeddings or reranking; remote/serve/proof_requests.py reads it back."""
    if serve.task == "completion":
        return []
    return build.option("task", "--embeddings" if serve.task == "embeddings" else "--rerank")


def device_arguments(build: BuildFlags, serve: Serve) -> list[str]:
    """GPUs by their names; those of CUDA are selected by UUID, in the environment (render/unit_text.py)."""
    names = serve.device_names
    return build.option("gpus", "--device", ",".join(names)) if names else []


def load_mode_arguments(build: BuildFlags, serve: Serve) -> list[str]:
    """How the weights are loaded; nothing for auto, which a deploy decides first (placement/pinned_weights.py)."""
    mode = serve.load_mode
    if mode == "auto":
        return []
    if "--load-mode" in build.flags:
        if "mlock" in mode and "--mlock" in build.flags:
            raise FlagRefusedError(
                f"load_mode = {mode!r} is ambiguous for this build of llama-server: in builds with both --load-mode "
                "and --mlock (b10114 to b10874) the meaning of `mlock` changed to without mmap; choose a build from "
                "b10875 on"
            )
        return ["--load-mode", mode]
    # Builds before b10114 have two independent switches; mmap is their default.
    switches = {
        "none": ["--no-mmap"],
        "mlock": ["--no-mmap", "--mlock"],
        "mmap": [],
        "mmap+mlock": ["--mlock"],
        # It had priority over mmap.
        "dio": ["--direct-io"],
    }
    return [word for flag in switches[mode] for word in build.option("load_mode", flag)]


def chat_arguments(build: BuildFlags, serve: Serve) -> list[str]:
    """Arguments of the chat template, and how a chat is handled.

    Jinja templates, and no dropping of the oldest tokens of a full context, are defaults of the pinned commit; they are
    rendered for builds with other defaults.
    """
    arguments: list[str] = []
    if serve.chat_template_kwargs:
        text = json.dumps(serve.chat_template_kwargs, ensure_ascii=False)
        arguments += build.option("chat_template_kwargs", "--chat-template-kwargs", text)
    return [*arguments, *build.option_if_known("--jinja"), *build.option_if_known("--no-context-shift")]


def web_ui_arguments(build: BuildFlags, serve: Serve) -> list[str]:
    """No web UI, by either of its names; nothing where it is declared, or the build knows none."""
    if serve.web_ui:
        return []
    return build.option_if_known("--no-ui") or build.option_if_known("--no-webui")


def cors_arguments(build: BuildFlags, serve: Serve) -> list[str]:
    """Which web pages may read answers. Undeclared, pages of localhost alone, where the build has the flag.

    Without it a build lets every page read everything, with credentials (tools/server/server-http.cpp, pinned commit).
    """
    if serve.cors_origins:
        origins = build.option("cors_origins", "--cors-origins", ",".join(serve.cors_origins))
    else:
        origins = build.option_if_known("--cors-origins", "localhost")
    return [*origins, *build.option_if_known("--no-cors-credentials")]


RENDERERS: Mapping[str, Callable[[BuildFlags, Serve], list[str]]] = {
    "yarn_arguments": yarn_arguments,
    "placement_arguments": _placement,
    "task_arguments": task_arguments,
    "device_arguments": device_arguments,
    "load_mode_arguments": load_mode_arguments,
    "chat_arguments": chat_arguments,
    "web_ui_arguments": web_ui_arguments,
    "cors_arguments": cors_arguments,
}
"""The functions that fields of Serve name as ``rendered_by``."""

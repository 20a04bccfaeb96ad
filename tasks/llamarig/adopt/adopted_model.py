"""From one start of llama-server to the declaration of a model, and what became of every part of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamarig.adopt.address import complete_address
from llamarig.adopt.call import Call
from llamarig.adopt.environment import Environment, environment_of
from llamarig.adopt.hub_files import FileFlags, HubFiles, hub_files
from llamarig.adopt.known_layers import known_layers
from llamarig.adopt.launch import LLAMA_CPP_PYTHON, Launch, Note
from llamarig.adopt.options import Given, given_options
from llamarig.adopt.placement_flags import FLAGS, Placed, PlacementFlags, placement_of, read_flags
from llamarig.adopt.python_server import as_llama_server
from llamarig.adopt.serve_fields import NO_PROJECTOR, ServeFields, serve_fields
from llamarig.adopt.validated import validated
from llamarig.declare.base import Declaration
from llamarig.declare.model import Model
from llamarig.declare.secrets import text_is_secret
from llamarig.declare.serve import Serve
from llamarig.declare.serve.sampling import Sampling
from llamarig.declare.serve.speculation import Speculation
from llamarig.placement.model_layers import layer_counts
from llamarig.remote.shared.gguf_header import Header

OLD_CONTEXT = 512
LEAST_FITTED_CONTEXT = 4096
"""What llama-server takes without -c: 512 until summer 2024; since then the model's whole context, which the fit may
shrink to 4096 (common/common.h, pinned commit)."""
_FILES: Mapping[str, str] = {
    **dict.fromkeys(("-m", "--model"), "model"),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo"), "hf_repo"),
    **dict.fromkeys(("-hff", "--hf-file"), "hf_file"),
    **dict.fromkeys(("-mu", "--model-url"), "model_url"),
    **dict.fromkeys(("-dr", "--docker-repo"), "docker_repo"),
    **dict.fromkeys(("-mm", "--mmproj"), "mmproj"),
    **dict.fromkeys(("-mmu", "--mmproj-url"), "mmproj_url"),
    **dict.fromkeys(("-md", "--model-draft", "--spec-draft-model"), "draft"),
    **dict.fromkeys(("-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf"), "draft_hf"),
}
_GENERIC = re.compile(r"(?i:(llama|cpp|server|llm|ai|gguf|inference|[-_. ])*)")
"""Names of units and services that do not say which model they serve."""
_GROUPS: Mapping[str, type[Declaration]] = {"sampling": Sampling, "speculation": Speculation}


@dataclass(frozen=True)
class Known:
    """What is known besides the command line.

    :param header: of the model's file, where it could be read
    :param layers: number of the model's layers, if the user has given it
    :param build: name of the build that serves it; empty for one by the command line's own signs
    :param cards: UUIDs of the box's NVIDIA cards in the order of their slots
    """

    header: Header | None = None
    layers: int | None = None
    build: str = ""
    cards: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adopted:
    """A declaration. ``model``: as it is validated; None where it is refused, which a note says. ``rules``: of
    --override-tensor as the owner wrote them; ``layers``: of the model, None where not known."""

    name: str
    where: str
    call: Call
    notes: tuple[Note, ...]
    model: Model | None = None
    rules: tuple[str, ...] = ()
    layers: int | None = None


@dataclass
class _Parts:
    """The parts that a declaration is put together from."""

    launch: Launch
    known: Known
    notes: list[Note] = field(default_factory=list)


def names_a_model(launch: Launch) -> bool:
    """Whether the command line says what is served."""
    options, _ = given_options(_words(launch, []), launch.environment)
    return any(given.flag in _FILES and _FILES[given.flag] not in ("mmproj", "draft") for given in options)


def model_path(launch: Launch) -> str:
    """The path of the model's file on the host; empty where the command line has none."""
    options, _ = given_options(_words(launch, []), launch.environment)
    return _file_flags(options, launch.mounts).model


def adopted_model(launch: Launch, known: Known, taken: Collection[str] = ()) -> Adopted:
    """The declaration of what is started.

    :param taken: names of other models, which this one does not get
    """
    parts = _Parts(launch, known, [*launch.notes])
    options, stray = given_options(_words(launch, parts.notes), launch.environment)
    if stray:
        parts.notes.append(Note(" ".join(stray), "belongs to no flag, and llama-server would refuse it"))
    files = hub_files(_file_flags(options, launch.mounts))
    name = _free_name(_name(launch, files, options), taken)
    layers = _layers(known, files)
    flags = read_flags(
        [given for given in options if given.flag in FLAGS], default_gpu_layers=0 if launch.old else None
    )
    others = [given for given in options if given.flag not in FLAGS and given.flag not in _FILES]
    serve = serve_fields(others, name)
    environment = environment_of(launch.environment, known.cards)
    placed = _placed(flags, layers, known.header, serve, environment)
    _complete(parts, serve, placed, environment, files, name)
    call = _call(parts, name, files, serve, placed)
    notes = [*parts.notes, *files.notes, *placed.notes, *serve.notes, *environment.notes]
    call, model = validated(call, notes, {path: given.written for path, given in serve.given.items()})
    rules = tuple(
        rule
        for given in options
        if given.flag in ("-ot", "--override-tensor")
        for rule in (given.value or "").split(",")
        if rule
    )
    shown = tuple(Note(_without_secret(note.about), note.text) for note in notes)
    return Adopted(name, launch.where, call, shown, model, rules, layers)


def _words(launch: Launch, notes: list[Note]) -> Sequence[str]:
    if launch.program != LLAMA_CPP_PYTHON:
        return launch.words
    words, found = as_llama_server(launch.words)
    notes += found
    return words


def _file_flags(options: Sequence[Given], mounts: Mapping[str, str]) -> FileFlags:
    values = {_FILES[given.flag]: given.value or "" for given in options if given.flag in _FILES}
    paths = {name: value if "_" in name else on_host(value, mounts) for name, value in values.items()}
    return FileFlags(
        **paths,
        no_mmproj=any(given.flag in NO_PROJECTOR for given in options),
        written={_FILES[given.flag]: given.written for given in options if given.flag in _FILES},
    )


def on_host(path: str, mounts: Mapping[str, str]) -> str:
    """The path on the host of a file in a container."""
    for inside in sorted(mounts, key=len, reverse=True):
        if path == inside or path.startswith(f"{inside.rstrip('/')}/"):
            return mounts[inside].rstrip("/") + path[len(inside.rstrip("/")) :]
    return path


def _name(launch: Launch, files: HubFiles, options: Sequence[Given]) -> str:
    alias = next((given.value for given in options if given.flag in ("-a", "--alias")), "") or ""
    given = "" if _GENERIC.fullmatch(launch.name) else launch.name
    for text in (given, files.stem, alias, launch.name, "model"):
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-")
        if name:
            return name
    return "model"


def _free_name(name: str, taken: Collection[str]) -> str:
    names = (name, *(f"{name[:55]}-{number}" for number in range(2, len(taken) + 3)))
    return next(one for one in names if one not in taken)


def _layers(known: Known, files: HubFiles) -> int | None:
    if known.header is not None:
        return layer_counts(known.header.tensors, known.header.metadata).all
    return known.layers or known_layers(files.stem) or known_layers(files.repo)


def _placed(
    flags: PlacementFlags, layers: int | None, header: Header | None, serve: ServeFields, environment: Environment
) -> Placed:
    if serve.values.pop("placement", "") == "cpu-only" or environment.without_gpu:
        return Placed(Call("cpu_only"), [])
    tensors = header.tensors if header is not None else None
    cpu_ffn = any(word in ("-ncffn", "--n-cpu-ffn") for word in serve.extra)
    return placement_of(flags, layers, tensors, cpu_ffn=cpu_ffn)


def _complete(
    parts: _Parts, serve: ServeFields, placed: Placed, environment: Environment, files: HubFiles, name: str
) -> None:
    """What the surroundings set, and what llama-server does where the command line says nothing."""
    launch, values = parts.launch, serve.values
    values.update(launch.settings)
    parts.notes += complete_address(values, launch.ports, name)
    _context(parts, values, serve)
    if "parallel" not in serve.given and not launch.old:
        values["parallel"] = 4
        values.setdefault("kv_unified", True)
        parts.notes.append(
            Note(
                "no -np",
                "llama-server takes 4 slots with one KV cache, as declared; without both fields one request at a time "
                "has the whole context, which takes less memory",
            )
        )
    batch, ubatch = values.get("batch", 2048), values.get("ubatch", 512)
    if ubatch > batch:
        values["ubatch"] = batch
        parts.notes.append(Note(f"ubatch {ubatch}", f"llama.cpp lowers it to the batch of {batch}"))
    if values.get("log_verbosity", 0) >= 4 and "api_key_file" in values:
        values["log_verbosity"] = 3
        parts.notes.append(Note("verbosity", "3: from 4 on, llama-server logs the end of its API key"))
    if values.get("alias") == name:
        values.pop("alias")
    variables = dict(environment.variables)
    by_number = placed.several_gpus or values.get("main_gpu", 0) or len(environment.cards) > 1
    if (
        by_number
        and not (environment.gpus or values.get("gpus"))
        and "CUDA_DEVICE_ORDER" not in {**variables, **launch.environment}
    ):
        variables["CUDA_DEVICE_ORDER"] = "FASTEST_FIRST"
        parts.notes.append(
            Note(
                "CUDA_DEVICE_ORDER",
                "FASTEST_FIRST is CUDA's own order, which holds without it; a declared model's default is that of the "
                "slots. Safer: serve.gpus with UUIDs",
            )
        )
    if variables:
        values["environment"] = variables
    if environment.gpus:
        values["gpus"] = environment.gpus
    if serve.extra:
        values["extra"] = tuple(serve.extra)
    if serve.readable:
        values["readable_paths"] = tuple(dict.fromkeys(serve.readable))
    _speculation(parts, serve, files)
    _certificate(parts, serve)


def _context(parts: _Parts, values: dict[str, Any], serve: ServeFields) -> None:
    if values.get("context", 0) > 0:
        return
    written = "-c 0" if "context" in values else "no -c"
    header = parts.known.header
    trained = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length") if header else None
    if isinstance(trained, int):
        values["context"] = trained
        parts.notes.append(
            Note(written, f"the model's whole context of {trained}, which llama.cpp may have shrunk to fit")
        )
    elif parts.launch.old and written == "no -c":
        values["context"] = OLD_CONTEXT
        parts.notes.append(Note(written, f"{OLD_CONTEXT}, the default of that time"))
    else:
        values["context"] = LEAST_FITTED_CONTEXT
        serve.comments["context"] = "The command line leaves it to llama.cpp: the model's whole context where it fits."
        parts.notes.append(
            Note(
                written,
                "llama.cpp takes the model's whole context where it fits, and at least "
                f"{LEAST_FITTED_CONTEXT}, which is declared: say how much you need",
            )
        )


def _certificate(parts: _Parts, serve: ServeFields) -> None:
    """A certificate without its key, or the other way round, serves nothing."""
    files = [path for path in ("tls_certificate_file", "tls_key_file") if path in serve.values]
    if len(files) == 1:
        serve.values.pop(files[0])
        parts.notes.append(Note(serve.given[files[0]].written, "dropped: TLS needs both a certificate and its key"))
    elif files:
        parts.notes.append(Note("TLS", "the build needs tls=True; both files are root's on the box"))


def _speculation(parts: _Parts, serve: ServeFields, files: HubFiles) -> None:
    """A draft model without --spec-type is draft-simple; numbers that no type reads are left out."""
    values = serve.values
    given = [path for path in values if path.startswith("speculation.")]
    if files.draft and not any(kind.startswith("draft-") for kind in values.get("speculation.types", ())):
        values["speculation.types"] = ("draft-simple", *values.get("speculation.types", ()))
        parts.notes.append(Note("draft", 'a draft model guesses with types=("draft-simple",)'))
    if given and "speculation.types" not in values:
        for path in given:
            values.pop(path)
            parts.notes.append(
                Note(serve.given[path].written, "dropped: without a draft model or --spec-type nothing reads it")
            )


def _call(parts: _Parts, name: str, files: HubFiles, serve: ServeFields, placed: Placed) -> Call:
    values = dict(serve.values)
    comments = dict(serve.comments)
    if placed.call is not None:
        values["placement"] = placed.call
    if placed.comment:
        comments["placement"] = placed.comment
    for group in _GROUPS:
        nested = {path.partition(".")[2]: values.pop(path) for path in [*values] if path.startswith(f"{group}.")}
        if nested:
            fields = _GROUPS[group].model_fields
            values[group] = Call(group, {field: nested[field] for field in fields if field in nested})
    arguments = {field: values.pop(field) for field in Serve.model_fields if field in values}
    model: dict[str, Any] = {"name": name, "repo": files.repo}
    if files.revision:
        model["revision"] = files.revision
    if files.files and not files.quant:
        model["files"] = files.files
    else:
        model["quant"] = files.quant
    for kind in ("mmproj", "draft"):
        if getattr(files, kind):
            model[kind] = getattr(files, kind)
    if files.directories:
        model["import_from"] = tuple(files.directories)
        parts.notes.append(Note("import_from", "files that lie there are taken from there, and not downloaded"))
    model["build"] = parts.known.build or _build(parts.launch, arguments)
    parts.notes.append(Note("build", f"{model['build']!r} is the name of the build of your box that serves it"))
    return Call("model", {**model, "serve": Call("serve", arguments, comments)})


def _build(launch: Launch, arguments: Mapping[str, Any]) -> str:
    """The name of a build, by the backend that the command line shows signs of."""
    signs = " ".join([*launch.words, *launch.environment, *arguments.get("gpus", ())]).lower()
    if "vulkan" in signs or "ggml_vk" in signs:
        return "vulkan"
    return "hip" if re.search(r"\brocm\d|hsa_|hip_visible", signs) else "cuda"


def _without_secret(about: str) -> str:
    if not text_is_secret(about):
        return about
    name = re.split("[ =]", about)[0]
    return "(not shown)" if text_is_secret(name) else f"{name} ..."

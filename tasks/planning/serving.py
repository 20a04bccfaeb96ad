"""Which models should run on a box, as which units, and what of that is not so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.planning import layout
from tasks.planning.difference import Difference
from tasks.planning.flags import ModelFiles, server_arguments
from tasks.planning.pinned_weights import pins
from tasks.planning.unit_text import api_key_credential, load_timeout, unit_environment, unit_text
from tasks.spec.build import Build
from tasks.spec.model import Model
from tasks.spec.plan_file import Plan
from tasks.spec.rig import Rig

_LISTENS_WITHIN_S = 30
"""llama-server listens before it loads; one that does not after this long is not going to."""


@dataclass(frozen=True)
class Unit:
    """A unit as the box has it. Times are seconds since 1970, 0 where unknown."""

    text: str = ""
    active: str = "inactive"
    enabled: str = ""
    needs_reload: bool = False
    arguments: tuple[str, ...] = ()
    """The running process's own argv."""
    started: int = 0
    written: int = 0
    key_written: int = 0
    now: int = 0
    proved_sha256: str = ""
    """sha256 of the last unit text that answered a completion."""
    health: int = 0
    """HTTP status of /health, 0 where nobody answers."""

    @property
    def is_active(self) -> bool:
        """Running, or on its way."""
        return self.active in ("active", "activating")


@dataclass(frozen=True)
class Wanted:
    """A model's unit as it should be. ``arguments`` is the whole command line, ``inputs_written`` in seconds."""

    model: Model
    text: str
    arguments: tuple[str, ...]
    check: tuple[str, ...]
    peers: tuple[str, ...]
    running: bool
    enabled: bool
    inputs_written: int
    load_timeout_s: int
    plan: Plan | None = None
    """What placed it, with the step down that its last start had to take; None where its owner did."""
    pinned_mib: int | None = None
    """MiB of weights that its server should hold in pinned memory; None where none are pinned, or it is not known."""

    @property
    def unit(self) -> str:
        """Its systemd name."""
        return layout.unit_name(self.model.name)


def exclusive_peers(rig: Rig, model: Model) -> tuple[str, ...]:
    """Units that may not run beside this model: every other model's, unless one of the two coexists."""
    if model.serve.coexists:
        return ()
    return tuple(
        layout.unit_name(other.name) for other in rig.models if other.name != model.name and not other.serve.coexists
    )


def running_models(rig: Rig, units: Mapping[str, Unit]) -> set[str]:
    """Names of the models that should run now.

    Those that coexist always; of the others the default, unless its owner has switched to another of them by hand
    (the default is still the one enabled at boot, and that other one is active).
    """
    running = {model.name for model in rig.models if model.serve.coexists}
    default = rig.default_model
    if default.serve.coexists:
        return running
    exclusive = [model for model in rig.models if not model.serve.coexists]
    chosen = [model.name for model in exclusive if _unit(units, model).is_active]
    if chosen and _unit(units, default).enabled == "enabled":
        return running | {chosen[0]}
    return running | {default.name}


def _unit(units: Mapping[str, Unit], model: Model) -> Unit:
    return units.get(layout.unit_name(model.name), Unit())


def wanted_unit(
    rig: Rig,
    model: Model,
    *,
    release: str,
    flags: frozenset[str],
    files: ModelFiles,
    inputs_written: int,
    model_bytes: int,
    running: bool,
) -> Wanted:
    """The unit of a model, rendered for the release that will read it.

    :raises FlagRefusedError: when that release cannot do what is declared
    """
    build = rig.build_of(model)
    program = f"{release}/bin/llama-server"
    arguments = server_arguments(model, files, flags, api_key_credential(model))
    peers = exclusive_peers(rig, model)
    return Wanted(
        model=model,
        text=unit_text(model, build, release, arguments, peers, model_bytes, pins(rig, model)),
        arguments=(program, *arguments),
        # The unit's credential does not exist before the unit runs; the file it is made from does.
        check=(program, *server_arguments(model, files, flags, model.serve.api_key_file), "--help"),
        peers=peers,
        running=running,
        enabled=model.serve.coexists or model.name == rig.default_model.name,
        inputs_written=inputs_written,
        load_timeout_s=load_timeout(model, model_bytes),
    )


def unit_differences(wanted: Wanted, unit: Unit | None) -> list[Difference]:
    """What is not as wanted and takes the unit file or a restart to mend."""
    what = wanted.unit
    if unit is None or not unit.text:
        return [Difference(what, "installed", "not there")]
    if unit.text != wanted.text:
        return [Difference(what, "the unit text rendered from this repository", "another text")]
    if not wanted.running:
        return []
    if not unit.is_active:
        return [Difference(what, "running", unit.active)]
    if unit.arguments and unit.arguments != wanted.arguments:
        return [Difference(what, "running with the declared flags", "running with others")]
    if unit.started and max(unit.written, unit.key_written, wanted.inputs_written) > unit.started:
        return [Difference(what, "running what is on the disk", "started before its unit, key or model files changed")]
    if unit.proved_sha256 != hashlib.sha256(wanted.text.encode()).hexdigest():
        return [Difference(what, "proved by an answer", "never seen answering with these flags")]
    if unit.health not in (200, 503) and unit.now - unit.started > _LISTENS_WITHIN_S:
        return [Difference(what, "answering", f"running without answering (HTTP {unit.health or 'no answer'})")]
    return []


def boot_differences(wanted: Wanted, unit: Unit | None) -> list[Difference]:
    """Whether the unit starts at boot exactly when it should."""
    is_enabled = unit is not None and unit.enabled == "enabled"
    if is_enabled == wanted.enabled:
        return []
    said = {True: "started at boot", False: "not started at boot"}
    return [Difference(wanted.unit, said[wanted.enabled], said[is_enabled])]


def retired_units(rig: Rig, units: Mapping[str, Unit]) -> list[str]:
    """Units of models declared no longer that still run or start at boot. They are stopped, not deleted."""
    declared = {layout.unit_name(model.name) for model in rig.models}
    return sorted(
        name for name, unit in units.items() if name not in declared and (unit.is_active or unit.enabled == "enabled")
    )


def switch_job(
    wanted: Wanted, build: Build, retired: list[str], model_bytes: int, plan: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What tasks/files/switch_unit.py is told. ``model_bytes``: size of the model's files together.

    :param plan: for a model whose placement was planned (tasks/planning/plans/first_start.py)
    """
    serve = wanted.model.serve
    return {
        "unit": wanted.unit,
        "text": wanted.text,
        "check": list(wanted.check),
        "peers": [*wanted.peers, *retired],
        "retired": retired,
        "start": wanted.running,
        "enable": wanted.enabled,
        "port": serve.port,
        "load_timeout_s": wanted.load_timeout_s,
        "needs_gpu": build.backend != "cpu" and serve.placement.kind != "cpu-only",
        "environment": unit_environment(wanted.model, build),
        "model_bytes": model_bytes,
        "commit": build.source.commit,
        "context_per_slot": serve.context // serve.parallel,
        "api_key_file": serve.api_key_file,
        "proof": f"{layout.PROOFS}/{wanted.unit}.json",
        "plan": plan,
        "pinned_mib": wanted.pinned_mib,
    }

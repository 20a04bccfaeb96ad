"""Compare the units of a box with the units its models should have, and describe the switch that fixes one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.item import Difference
from llamarig.facts.units import Unit
from llamarig.items.unit_words import started, unit_changes
from llamarig.items.wanted_unit import Wanted
from llamarig.remote.shared.jobs import StartPlan, SwitchJob
from llamarig.remote.shared.unit_directives import directives, directives_sha256
from llamarig.render import layout
from llamarig.render.unit_text import unit_environment

_LISTENS_WITHIN_S = 30
"""Seconds. llama-server listens before it loads a model; one that does not listen after this time never will."""

_OK, _UNAUTHORIZED = 200, 401


def running_models(rig: Rig, units: Mapping[str, Unit]) -> set[str]:
    """Names of the models that should run now.

    Models with ``coexists`` always run. Of the others the default runs, unless the owner has switched to another one by
    hand: then the default is still the one enabled at boot, and the other one is active. Where the default coexists,
    none of the others runs unless the owner has started it. A model that the front may stop when it is idle runs only
    where it runs now; as long as it has no unit it counts as one that should, so that its first start is proved.
    """
    if not rig.models:
        return set()
    running = {model.name for model in rig.models if model.serve.coexists}
    default = rig.default_model
    exclusive = [model for model in rig.models if not model.serve.coexists]
    chosen = [model.name for model in exclusive if _unit(units, model).is_active]
    if default.serve.coexists or (chosen and _unit(units, default).enabled == "enabled"):
        running |= set(chosen[:1])
    else:
        running.add(default.name)
    may_rest = rig.front.idle_stop_s if rig.front is not None else {}
    at_rest = (model for model in rig.models if model.name in may_rest and _is_at_rest(_unit(units, model)))
    return running - {model.name for model in at_rest}


def _is_at_rest(unit: Unit) -> bool:
    return bool(unit.text) and not unit.is_active


def _unit(units: Mapping[str, Unit], model: Model) -> Unit:
    return units.get(layout.unit_name(model.name), Unit())


def unit_differences(wanted: Wanted, unit: Unit | None, replaced: Sequence[str] = ()) -> list[Difference]:
    """At most one difference: the first that applies.

    :param replaced: models that stop where this one is started

    A unit with the wanted directives keeps running even if its comments or the paths of our helper programs differ: its
    text is replaced and reloaded (``Difference.is_only_text``). A restart follows only from other directives (command
    line, environment, release, sandbox), from changed files, or from a server that does not answer.
    """
    what, name = wanted.unit, wanted.model.name
    restarts = (name,) if wanted.running else ()
    then = f"; {started(unit, replaced)}" if wanted.running else "; it does not run, and is not started"
    if unit is None or not unit.text:
        will = f"{name}: installs its unit{then}"
        return [Difference(what, "installed", "missing", restarts=restarts, will=will, texts=("", wanted.text))]
    texts = (unit.text, wanted.text)
    if directives(unit.text) != directives(wanted.text):
        expected = "the unit rendered from the declaration"
        changes = ", ".join(unit_changes(*texts))
        will = f"{name}: {changes}{then}"
        if unit.rolled_back_at and unit.rolled_back_to == directives_sha256(unit.text):
            found_text, expected = f"rolled back at {unit.rolled_back_at}", f"what is declared ({changes})"
            remedy = "deploy.py goes forward again; to stay, declare what it was before"
            return [Difference(what, expected, found_text, remedy, restarts=restarts, will=will, texts=texts)]
        found_text = _differing_directives(unit.text, wanted.text)
        return [Difference(what, expected, found_text, restarts=restarts, will=will, texts=texts)]
    if wanted.running and (found := _process_difference(wanted, unit)) is not None:
        return [replace(found, will=f"{name}: {found.found}; {started(unit, replaced)}")]
    if unit.text != wanted.text:
        found_text = "has the comments or helper paths of another version"
        will = f"{name}: comments of its unit, or what concerns a start alone; it goes on running"
        return [Difference(what, "those of this version", found_text, is_only_text=True, will=will, texts=texts)]
    return []


def _differing_directives(current: str, wanted: str) -> str:
    """The names of the directives that differ, without their values: ``ExecStart differs``."""
    lines = set(directives(current)) ^ set(directives(wanted))
    names = sorted({line.partition("=")[0] for line in lines if "=" in line})
    if not names:
        return "its sections differ"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'differs' if len(names) == 1 else 'differ'}"


def _process_difference(wanted: Wanted, unit: Unit) -> Difference | None:
    """Why a unit whose file is as wanted has to be restarted; None if it need not be."""
    expected, found = "", ""
    if not unit.is_active:
        expected, found = "running", unit.active
    elif unit.arguments and unit.arguments != wanted.arguments and not _has_own_command(unit):
        expected, found = "the declared flags", "running with other flags"
    elif not _runs_its_file(unit):
        expected, found = (
            "a start with its unit file",
            "its unit file was changed and changed back, and started in between",
        )
    elif unit.proved_inputs and unit.proved_inputs != wanted.inputs:
        expected, found = "a start with its model files", "started before they were replaced"
    elif unit.key == "other":
        expected, found = "its key and certificate files", "running with other contents of them"
    elif not is_proved(wanted, unit):
        expected, found = "a recorded answer", "no record of an answer to a prompt with these flags"
    elif unit.health not in (_OK, 503) and (unit.age_s is None or unit.age_s > _LISTENS_WITHIN_S):
        expected, found = "an answer", f"running without answering /health (HTTP {unit.health or 'no answer'})"
    elif unit.wants_key and unit.health == _OK:
        expected, found = _key_difference(unit)
    return Difference(wanted.unit, expected, found, restarts=(wanted.model.name,)) if expected else None


def _has_own_command(unit: Unit) -> bool:
    """Whether a drop-in sets the command line: an accepted one, or this unit would not be compared."""
    return any("ExecStart" in one.settings for one in unit.drop_ins)


def _runs_its_file(unit: Unit) -> bool:
    """Whether the process was started from the unit file as it is.

    It was where the file is untouched since a switch proved it, or where the process is the one that was proved: an
    edit that was taken back is neither only if the unit was started in between.
    """
    if not unit.proved_file:
        return True
    return unit.file == unit.proved_file or unit.invocation == unit.proved_invocation


def _key_difference(unit: Unit) -> tuple[str, str]:
    """What is expected of a server with an API key, and what was found; two empty texts where it checks the key."""
    if unit.status_without_key != _UNAUTHORIZED:
        found = f"answered with HTTP {unit.status_without_key or '(nothing)'}"
        return "a request without the API key to be refused with HTTP 401", found
    if unit.status_with_key != _OK:
        return "the key in its key file to be accepted", f"refused with HTTP {unit.status_with_key or '(nothing)'}"
    return "", ""


def is_proved(wanted: Wanted, unit: Unit) -> bool:
    """Whether a unit with the wanted directives has answered a completion.

    Records of earlier versions hold the sha256 of the whole text, which is compared with the text on the disk.
    """
    if unit.proved_directives_sha256:
        return unit.proved_directives_sha256 == directives_sha256(wanted.text)
    return unit.proved_sha256 == hashlib.sha256(unit.text.encode()).hexdigest()


def unproved_units(rig: Rig, units: Mapping[str, Unit]) -> tuple[str, ...]:
    """Units of declared models that do not run, and whose file has never answered a completion."""
    installed = {layout.unit_name(model.name): _unit(units, model) for model in rig.models}
    return tuple(
        name
        for name, unit in installed.items()
        if unit.text and not unit.is_active and unit.proved_directives_sha256 != directives_sha256(unit.text)
    )


def boot_differences(wanted: Wanted, unit: Unit | None) -> list[Difference]:
    """Whether the unit starts at boot exactly when it should."""
    is_enabled = unit is not None and unit.enabled == "enabled"
    if is_enabled == wanted.enabled:
        return []
    shown = {True: "started at boot", False: "not started at boot"}
    will = f"{wanted.model.name}: {shown[wanted.enabled]} from now on"
    return [Difference(wanted.unit, shown[wanted.enabled], shown[is_enabled], will=will)]


def retired_units(rig: Rig, units: Mapping[str, Unit]) -> list[str]:
    """Units of models that are no longer declared and still run or start at boot. They are stopped, not deleted."""
    declared = {layout.unit_name(model.name) for model in rig.models}
    return sorted(
        name for name, unit in units.items() if name not in declared and (unit.is_active or unit.enabled == "enabled")
    )


def switch_job(
    wanted: Wanted, build: Build, retired: list[str], model_bytes: int, plan: StartPlan | None = None
) -> SwitchJob:
    """Describe a switch for remote/serve/switch_unit.py.

    :param model_bytes: total size of the model's files
    :param plan: for a model that is placed by a plan (items/start_plan.py)
    """
    serve = wanted.model.serve
    return SwitchJob(
        unit=wanted.unit,
        text=wanted.text,
        check=tuple(wanted.check),
        peers=(*wanted.peers, *retired),
        retired=tuple(retired),
        start=wanted.running,
        enable=wanted.enabled,
        port=serve.port,
        load_timeout_s=wanted.load_timeout_s,
        needs_gpu=build.backend != "cpu" and serve.placement.kind != "cpu-only",
        environment=unit_environment(wanted.model, build),
        model_bytes=model_bytes,
        commit=build.source.commit,
        context_per_slot=serve.context // serve.parallel,
        api_key_file=serve.api_key_file,
        proof=f"{layout.PROOFS}/{wanted.unit}.json",
        plan=plan,
        pinned_mib=wanted.pinned_mib,
        inputs=wanted.inputs,
        web_ui=serve.web_ui,
    )

"""Servers in router mode, which name no model of their own: their preset file does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llamarig.adopt.adopted_model import names_a_model
from llamarig.adopt.launch import Found, Launch, Note
from llamarig.adopt.options import given_options
from llamarig.adopt.preset_file import preset_launches

_OF_ROUTERS = ("--models-preset", "--models-dir", "--models-max", "--models-autoload", "--no-models-autoload")


def with_models(found: Found, read: Callable[[str], str | None]) -> Found:
    """The launches that name a model, in place of a router those of its preset file.

    A server without a model is left where it is the only one, so that its flags are not lost.

    :param read: reads the preset file; None where it cannot be read
    """
    launches: list[Launch] = []
    without: list[Launch] = []
    notes = [*found.notes]
    default = found.default
    for launch in found.launches:
        if names_a_model(launch):
            launches.append(launch)
            continue
        presets = _presets(launch, read, notes)
        default = default or presets.default
        launches += presets.launches
        if not presets.launches:
            without.append(launch)
    if not launches:
        return replace(found, launches=tuple(without), notes=tuple(notes))
    notes += [Note(launch.where, "this llama-server names no model, and is left out") for launch in without]
    return Found(tuple(launches), tuple(notes), default)


def _presets(router: Launch, read: Callable[[str], str | None], notes: list[Note]) -> Found:
    options, _ = given_options(router.words, router.environment)
    path = next((given.value for given in options if given.flag == "--models-preset"), None)
    text = read(path) if path else None
    if text is None:
        if path:
            notes.append(Note(f"--models-preset {path}", "cannot be read here: adopt that file"))
        return Found()
    found = preset_launches(text)
    own = [word for given in options if given.flag not in _OF_ROUTERS for word in (given.flag, *given.values)]
    return replace(
        found,
        launches=tuple(
            replace(
                launch,
                # A flag of the router has precedence over its presets (docs/preset.md).
                words=(*launch.words, *own),
                environment={**router.environment, **launch.environment},
                settings=router.settings,
                mounts=router.mounts,
                ports=router.ports,
                notes=(*router.notes, *launch.notes),
            )
            for launch in found.launches
        ),
    )

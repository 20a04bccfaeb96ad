"""The desired systemd unit of a model."""

from __future__ import annotations

from dataclasses import dataclass

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.placement.pinned_weights import pins
from llamarig.records.plan_file import Plan
from llamarig.remote.shared.server_url import server_url
from llamarig.render import layout
from llamarig.render.server_arguments import ModelFiles, server_arguments
from llamarig.render.unit_text import credentials_in_unit, declared_credentials, load_timeout, unit_text


@dataclass(frozen=True)
class Wanted:
    """The desired unit of a model.

    ``arguments`` is the whole command line, ``check`` the command that tests it, ``inputs`` a digest of the
    identities of its model files.
    """

    model: Model
    text: str
    arguments: tuple[str, ...]
    check: tuple[str, ...]
    peers: tuple[str, ...]
    running: bool
    enabled: bool
    inputs: str
    load_timeout_s: int
    plan: Plan | None = None
    """The plan that placed it, with the fallback of its last start; None for a placement declared by the owner."""
    pinned_mib: int | None = None
    """MiB of weights that its server should pin; None where none are pinned or the size is unknown."""

    @property
    def unit(self) -> str:
        """Name of the unit."""
        return layout.unit_name(self.model.name)


def exclusive_peers(rig: Rig, model: Model) -> tuple[str, ...]:
    """Units that must not run beside this model's: those of all other models, unless one of the two coexists."""
    if model.serve.coexists:
        return ()
    return tuple(
        layout.unit_name(other.name) for other in rig.models if other.name != model.name and not other.serve.coexists
    )


def staying_units(rig: Rig, model: Model) -> frozenset[str]:
    """Units of other declared models that keep running, with their memory, while this model is served."""
    others = {layout.unit_name(other.name) for other in rig.models if other.name != model.name}
    return frozenset(others - {*exclusive_peers(rig, model)})


def wanted_unit(
    rig: Rig,
    model: Model,
    *,
    release: str,
    flags: frozenset[str],
    files: ModelFiles,
    inputs: str,
    model_bytes: int,
    running: bool,
) -> Wanted:
    """The unit of a model, rendered for the release that serves it.

    :raises FlagRefusedError: when that release lacks a flag of the declaration
    """
    build = rig.build_of(model)
    program = f"{release}/bin/llama-server"
    arguments = server_arguments(model, files, flags, credentials_in_unit(model))
    peers = exclusive_peers(rig, model)
    return Wanted(
        model=model,
        text=unit_text(model, build, release, files, arguments, peers, model_bytes, pins(rig, model)),
        arguments=(program, *arguments),
        # Credentials exist only while the unit runs, so the check reads the files that they are made from.
        check=(program, *server_arguments(model, files, flags, declared_credentials(model)), "--help"),
        peers=peers,
        running=running,
        enabled=model.serve.coexists or model.name == rig.default_model.name,
        inputs=inputs,
        load_timeout_s=load_timeout(model, model_bytes),
    )


def health_addresses(rig: Rig) -> dict[str, str]:
    """Unit -> the URL of its health endpoint, from the box itself."""
    return {layout.unit_name(model.name): f"{_address(model)}/health" for model in rig.models}


def _address(model: Model) -> str:
    serve = model.serve
    return server_url(serve.host, serve.port, prefix=serve.api_prefix or "", tls=serve.tls_key_file is not None)

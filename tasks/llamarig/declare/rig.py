"""The declaration of a box: builds, models, settings, and the rules between them."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration, Form, Name
from llamarig.declare.build import Build
from llamarig.declare.front import Front, front_refusal
from llamarig.declare.host_policy import HostPolicy
from llamarig.declare.model import Model
from llamarig.declare.serve.weights import GPU_UUID
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.declare.upgrade_gate import UpgradeGate


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


class Hub(Declaration):
    """Source of the models. The token is referred to, never written here."""

    endpoint: Annotated[str, Form("a URL without a login and without a query", "https://hub.lan")] = Field(
        default="https://huggingface.co", pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$"
    )
    """The Hub or a mirror, without a login: declarations are kept in git and appear in messages."""
    token_env: Annotated[str | None, Form("the name of an environment variable", "HF_TOKEN")] = Field(
        default=None, pattern="^[A-Za-z_][A-Za-z0-9_]*$"
    )
    """Environment variable of the control machine that holds the Hub token."""
    token_command: tuple[str, ...] = ()
    """Command of the control machine that prints the Hub token: ('pass', 'show', 'hub')."""
    proxy: Annotated[str | None, Form("http://HOST:PORT without a login", "http://proxy.lan:3128")] = Field(
        default=None, pattern=r"^http://[^\s/@]+/?$"
    )
    """Proxy of the box to the Hub, http://host:port; none where left out, whatever its environment has."""
    max_mb_s: float | None = Field(default=None, ge=0.1)
    """Limit for all downloads of the box together, in MB/s; no limit where left out."""

    @field_validator("token_env")
    @classmethod
    def _no_token_here(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("hf_"):
            raise ValueError(
                "looks like a token itself: put it into an environment variable and name that variable here"
            )
        return value

    @model_validator(mode="after")
    def _one_token(self) -> Hub:
        if self.token_env is not None and self.token_command:
            raise ValueError("token_env and token_command are two tokens: declare one of them")
        return self


class Rig(Declaration):
    """One box."""

    builds: tuple[Build, ...] = Field(min_length=1)
    """The ways llama.cpp is built for this box."""
    models: tuple[Model, ...]
    """The models, each a systemd unit; of an empty list, a deploy only builds llama.cpp."""
    default: Name | None = None
    """The model started at boot; the first where left out."""
    presets: Name | None = None
    """A build whose models are also written to a preset file for llama-server's router mode,
    /etc/llamarig/presets/BUILD.ini; nothing is started from it."""
    llama_swap: bool = False
    """Also write the models to a configuration of llama-swap, /etc/llamarig/presets/llama-swap.yaml; nothing is started
    from it."""
    front: Front | None = None
    """One address for all models: requests name the model, and the box switches by itself."""
    host: HostPolicy = HostPolicy()
    """Settings of the machine itself."""
    hub: Hub = Hub()
    """Where the models are downloaded from, and how."""
    model_lock: str = "inventory/models.lock.json"
    """File on the control machine that freezes revisions and sha256 of every model; commit it."""
    bench_ledger: str = "inventory/bench.jsonl"
    """File on the control machine to which tasks/bench.py appends its timings; commit it."""
    plan_file: str = "inventory/plans.json"
    """File on the control machine that keeps the plans of models with auto(); commit it."""
    upgrade_gate: UpgradeGate | None = None
    """Undo the switch of a model to a release that is slower; not compared where left out."""
    simulated_gpus: tuple[SimulatedGpu, ...] = ()
    """Plan for these GPUs in place of those of the box: what would a 5090 give me?"""

    @field_validator("builds")
    @classmethod
    def _one_build_a_name(cls, value: tuple[Build, ...]) -> tuple[Build, ...]:
        for name in _repeated(build.name for build in value):
            raise ValueError(f"two builds are called {name!r}: rename one")
        return value

    @field_validator("models")
    @classmethod
    def _one_model_a_name(cls, value: tuple[Model, ...]) -> tuple[Model, ...]:
        for name in _repeated(model.name for model in value):
            raise ValueError(f"two models are called {name!r}: rename one")
        return value

    @model_validator(mode="after")
    def _hold_together(self) -> Rig:
        builds = {build.name for build in self.builds}
        for model in self.models:
            if model.build not in builds:
                raise ValueError(
                    f"model {model.name!r}: build = {model.build!r} is not declared; "
                    f"name one of {', '.join(sorted(builds))}, or add it to builds"
                )
            if refusal := _gpus_refusal(model, self.build_of(model)):
                raise ValueError(f"model {model.name!r}: {refusal}")
            if model.serve.tls_key_file is not None and not self.build_of(model).tls:
                raise ValueError(
                    f"model {model.name!r} has a certificate, and build {model.build!r} is compiled without TLS: "
                    "declare tls=True in that build"
                )
        if self.presets is not None and self.presets not in {model.build for model in self.models}:
            used = sorted({model.build for model in self.models})
            remedy = f"name one of {', '.join(used)}" if used else "leave it out until there is a model"
            raise ValueError(f"presets = {self.presets!r} is not the build of any model: {remedy}")
        names = [model.name for model in self.models]
        if self.default is not None and self.default not in names:
            remedy = f"name one of {', '.join(names)}" if names else "leave it out, since there is none"
            raise ValueError(f"default = {self.default!r} is not a model of this box: {remedy}")
        self._ports_are_free()
        if self.front is not None and (refusal := front_refusal(self.front, self.models, self.default)):
            raise ValueError(refusal)
        return self

    def _ports_are_free(self) -> None:
        """Only models that exclude each other may share a port, so that clients keep one address."""
        for index, one in enumerate(self.models):
            for other in self.models[index + 1 :]:
                apart = not (one.serve.coexists or other.serve.coexists)
                if one.serve.port == other.serve.port and not apart and _overlap(one, other):
                    raise ValueError(
                        f"models {one.name!r} and {other.name!r} would both listen on port {one.serve.port}: "
                        "give one another serve.port, or let neither coexist with other models"
                    )

    def gate_of(self, model: Model) -> UpgradeGate | None:
        """What a switch of a model to another release is compared by; None where it is not compared."""
        return model.upgrade_gate or self.upgrade_gate

    def build_of(self, model: Model) -> Build:
        """The build that serves a model."""
        return next(build for build in self.builds if build.name == model.build)

    @property
    def default_model(self) -> Model:
        """The model that is started at boot.

        :raises IndexError: where no model is declared
        """
        return next((model for model in self.models if model.name == self.default), None) or self.models[0]


_DEVICES = {"vulkan": "Vulkan", "hip": "ROCm"}
"""How llama.cpp names the devices of a backend (ggml-vulkan.cpp, and ggml-cuda.h where it is compiled for HIP)."""


def _gpus_refusal(model: Model, build: Build) -> str | None:
    """Why a build cannot select a model's GPUs by these names; None where it can."""
    of_cuda = build.backend == "cuda"
    wrong = [gpu for gpu in model.serve.gpus if of_cuda != bool(GPU_UUID.fullmatch(gpu))]
    if not wrong and not of_cuda:
        prefix = _DEVICES.get(build.backend, "")
        wrong = [gpu for gpu in model.serve.gpus if not prefix or gpu.rstrip("0123456789") != prefix]
    if not wrong:
        return None
    names = (
        "UUIDs as `nvidia-smi -L` prints them, which stay with their cards"
        if of_cuda
        else f"names as `llama-server --list-devices` prints them: {_DEVICES[build.backend]}0"
        if build.backend in _DEVICES
        else "none, since it has no GPU backend"
    )
    return f"gpus has {wrong[0]!r}, and build {model.build!r} is for {build.backend}, whose GPUs are {names}"


def _overlap(one: Model, other: Model) -> bool:
    first, second = (ipaddress.ip_address(model.serve.host) for model in (one, other))
    return first == second or first.is_unspecified or second.is_unspecified

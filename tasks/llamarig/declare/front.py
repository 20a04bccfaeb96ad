"""A front: one address for all models of a box, its clients' keys, and the bounds of its queue."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration, Form, Name
from llamarig.declare.model import Model
from llamarig.declare.serve import Serve

UPSTREAM_KEYS = "/etc/llamarig/front-models"
"""Directory of root's with a generated key for each model behind a front, so that nobody goes round the front."""

_NOT_DEFAULTS = {"model", "messages", "prompt", "input", "stream"}
"""Members of a request that say what is asked, and not how it is answered."""

RequestName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$", max_length=200),
    Form("letters, digits and ._:/@+-", "qwen3-coder:fast"),
]


class FrontAlias(Declaration):
    """Another name under which requests may call a model, with defaults for them."""

    name: RequestName
    """The name in requests: qwen3-coder:fast."""
    model: Name
    """The model that answers."""
    defaults: dict[str, Any] = Field(default={})
    """Members that a request by this name gets where it has none of that name, as the API writes them:
    {"temperature": 0.2, "chat_template_kwargs": {"enable_thinking": False}}."""

    @field_validator("defaults")
    @classmethod
    def _are_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in sorted(value.keys() & _NOT_DEFAULTS):
            raise ValueError(f"{name!r} is what a request asks, and no default of it: leave it out")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{error}: write texts, numbers, True, False, None, lists and dicts of them") from None
        return value


class FrontKey(Declaration):
    """A client's API key. The key itself is on no machine but the client's: the box has its sha256."""

    name: Name
    """Its name in metrics and on the status page; its hashes are in /etc/llamarig/front/keys/NAME on the box."""
    models: tuple[Name, ...] = ()
    """The models that it may use; all where left out."""
    concurrency: int = Field(default=0, ge=0)
    """Requests at once, those that wait included; 0 for no limit of its own."""


class Front(Declaration):
    """One address for all models of the box. A request's `model` chooses; the box switches by itself."""

    port: int = Field(ge=1, le=65535, examples=[8080])
    """TCP port, which no model has."""
    host: str = "127.0.0.1"
    """An address of the box; any but loopback needs keys."""
    hosts: tuple[
        Annotated[
            str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"), Form("a name without a port", "box.lan")
        ],
        ...,
    ] = ()
    """Names by which clients call it, beside its addresses, localhost, the box's own name, and that with .local or
    .lan. Requests to other names are refused: a web page could have made its own name mean this box."""
    clients: tuple[str, ...] | None = None
    """Who may connect where host is not loopback, as for `serve`; private networks where left out."""
    tls_certificate_file: str | None = None
    """Absolute path on the box of a certificate with its chain (PEM); with tls_key_file, the address is HTTPS."""
    tls_key_file: str | None = None
    """Absolute path on the box of its private key (PEM, without a passphrase), which only root may read."""
    keys: tuple[FrontKey, ...] = ()
    """The clients' keys. Without any, every user of the box may use every model, and host has to be loopback."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may use it from a browser, as https://chat.lan:3000; none where left out."""
    aliases: tuple[FrontAlias, ...] = ()
    """Further names of models; each is also served by its own name and by `serve.alias`."""
    concurrency: dict[Name, int] = Field(default={})
    """Model -> requests that it gets at once; its slots (`serve.parallel`) where left out. Others wait in the front."""
    queue_length: int = Field(default=100, ge=1)
    """Requests that may wait for one model; the next is answered 429 with Retry-After."""
    least_residency_s: float = Field(default=10, ge=0)
    """A model that has become ready is not stopped for another one before. Not measured: longer than the pause of an
    agent between two requests."""
    longest_wait_s: float = Field(default=120, ge=0)
    """When a request has waited for so long, the loaded model takes no newer ones, ends those that it has begun, and
    makes room. Until then requests are served by model and not by arrival: A B A A C as A A A B C."""
    idle_stop_s: dict[Name, float] = Field(default={})
    """Model -> seconds without a request after which it is stopped; never where left out."""
    preload: tuple[Name, ...] = ()
    """Models that are loaded when the front starts, before any request."""
    default_returns_s: float | None = Field(default=None, ge=1)
    """Seconds without a request for another model after which the default model comes back; never where left out."""
    keepalive_s: float = Field(default=10, ge=1, le=300)
    """Between two comments that a waiting stream gets, so that its client does not time out."""
    max_body_mib: int = Field(default=100, ge=1, le=4096)
    """Largest body of a request."""

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("not an IP address: write 127.0.0.1 for the box alone, or an address of the box") from None
        return value

    @field_validator("clients")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for network in value or ():
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(
                    f"{error}: write a network as 192.168.1.0/24 or 2001:db8:1::/64, or an address"
                ) from None
        return value

    @field_validator("tls_certificate_file", "tls_key_file")
    @classmethod
    def _is_an_absolute_path(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"/[A-Za-z0-9_./@+-]+", value):
            raise ValueError("write the absolute path of a file on the box, in letters, digits and ./_@+-")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", origin):
                raise ValueError(f"{origin!r} is no origin: write https://HOST or http://HOST:PORT, without a path")
        return value

    @field_validator("keys")
    @classmethod
    def _one_key_a_name(cls, value: tuple[FrontKey, ...]) -> tuple[FrontKey, ...]:
        for name in _repeated([key.name for key in value]):
            raise ValueError(f"two keys are called {name!r}: rename one")
        return value

    @field_validator("concurrency", "idle_stop_s")
    @classmethod
    def _are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        for name, number in value.items():
            if number < 1:
                raise ValueError(f"{name!r}: {number:g}: write a number, at least 1")
        return value

    @model_validator(mode="after")
    def _holds_together(self) -> Front:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS needs both a certificate and its key: set tls_certificate_file and tls_key_file")
        is_open = not ipaddress.ip_address(self.host).is_loopback
        if is_open and not self.keys:
            raise ValueError(
                f"host {self.host} is open to the network: declare a key for each client, "
                'keys=(d.front_key(name="laptop"),), or keep 127.0.0.1'
            )
        if self.clients is not None and not is_open:
            raise ValueError(
                f"clients has no effect, since only the box itself can connect to host {self.host}: declare an address "
                'of the box, or "0.0.0.0"'
            )
        if self.longest_wait_s < self.least_residency_s:
            raise ValueError(
                f"longest_wait_s {self.longest_wait_s:g} is shorter than least_residency_s {self.least_residency_s:g}, "
                "which it could not hold: raise the first, or lower the second"
            )
        return self


def front_refusal(front: Front, models: Sequence[Model], default: str | None) -> str | None:
    """Why a front cannot serve these models; None where it can.

    :param default: name of the model that is started at boot; the first one's where it is None
    """
    if not models:
        return "front: there is no model that it could serve: declare one, or leave front out"
    names = {model.name: model for model in models}
    for field, declared in _named_models(front):
        for name in declared:
            if name not in names:
                return f"front.{field} names {name!r}, which is no model of this box: name one of {', '.join(names)}"
    served_as = [*names, *(model.serve.alias for model in models if model.serve.alias not in (None, model.name))]
    if repeated := _repeated([*served_as, *(alias.name for alias in front.aliases)]):
        return f"front: two models or aliases are called {repeated[0]!r}: rename one"
    for model in models:
        if refusal := _model_refusal(front, model):
            return f"model {model.name!r}: {refusal}"
    exclusive = [name for name in {*front.preload, default or models[0].name} if not names[name].serve.coexists]
    if front.preload and len(exclusive) > 1:
        return (
            f"front.preload: {' and '.join(sorted(exclusive))} exclude each other, and the default is started at boot: "
            "leave one out, or declare coexists=True"
        )
    return None


def behind_front(models: Sequence[Model]) -> tuple[Model, ...]:
    """The models as they are served behind a front: each with a key that the front alone has, if it declares none.

    What is no model is left as it is, for the validation of the rig to refuse.
    """
    return tuple(
        model
        if not isinstance(model, Model) or model.serve.api_key_file is not None
        else model.model_copy(update={"serve": _with_key(model.serve, f"{UPSTREAM_KEYS}/{model.name}")})
        for model in models
    )


def _with_key(serve: Serve, path: str) -> Serve:
    return Serve.model_validate({**serve.model_dump(mode="json"), "api_key_file": path})


def _named_models(front: Front) -> list[tuple[str, Sequence[str]]]:
    return [
        ("preload", front.preload),
        ("concurrency", list(front.concurrency)),
        ("idle_stop_s", list(front.idle_stop_s)),
        ("aliases", [alias.model for alias in front.aliases]),
        *((f"keys: {key.name!r}", key.models) for key in front.keys),
    ]


def _model_refusal(front: Front, model: Model) -> str | None:
    serve = model.serve
    if not ipaddress.ip_address(serve.host).is_loopback:
        return (
            f"host {serve.host} lets clients go round the front: leave serve.host out, and declare it for the front, "
            f'd.front(host="{serve.host}")'
        )
    if serve.tls_key_file is not None:
        return "TLS is the front's, which reaches the model on the box itself: declare the certificate in d.front(...)"
    if serve.port == front.port:
        return (
            f"serve.port {serve.port} is the front's, whose address clients use: give the model another one, which they"
            " never see"
        )
    return None


def _repeated(names: Sequence[str | None]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if name is not None and count > 1)

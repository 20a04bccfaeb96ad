"""How a model is served: llama-server's settings as typed fields, each with its flag, unit and source."""

from __future__ import annotations

import ipaddress
import re

from pydantic import field_validator, model_validator

from llamarig.declare.flags import owned_environment, owned_flags, rows
from llamarig.declare.model_settings import file_flags
from llamarig.declare.refused_flags import REFUSED_FLAGS
from llamarig.declare.risky_flags import flag_of, risky_environment, risky_flags
from llamarig.declare.serve.chat import Chat
from llamarig.declare.serve.compute import Compute
from llamarig.declare.serve.context import Context
from llamarig.declare.serve.endpoint import Endpoint
from llamarig.declare.serve.operation import Operation
from llamarig.declare.serve.weights import Weights
from llamarig.declare.unit_syntax import unit_syntax_error

_PLACING = {"-ot", "--override-tensor"}
"""Flags whose values say what is meant: whole layers, or rules of the owner's own."""


# pydantic takes the fields of the last base first, and flags are rendered in the order of the fields.
class Serve(Operation, Chat, Compute, Weights, Context, Endpoint):
    """One llama-server. llama.cpp's own default holds where a field is left out (``None``)."""

    @field_validator("extra")
    @classmethod
    def _have_no_field(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        owned = {**dict(file_flags()), **owned_flags(rows(cls, "serve.{}"))} if value else {}
        flags = list(dict.fromkeys(map(flag_of, value)))
        remedies = {flag: owned[flag] for flag in flags if flag in owned}
        if {"--no-mmap", "--mlock"} <= remedies.keys():
            # Together they are one load mode of today's llama-server.
            remedies["--no-mmap"] = remedies["--mlock"]
        found = [f"{flag} is rendered by llamarig: declare {remedy} in its place" for flag, remedy in remedies.items()]
        found += [f"{flag}: {REFUSED_FLAGS[flag]}" for flag in flags if flag in REFUSED_FLAGS]
        found += [f"{one!r}: {reason}" for one in value if (reason := unit_syntax_error(one))]
        if len(remedies) > 1 or remedies.keys() & _PLACING:
            found.append("`llamarig adopt` translates a whole command line")
        if found:
            raise ValueError("; ".join(found))
        return value

    @field_validator("environment")
    @classmethod
    def _are_no_flags(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                raise ValueError(f"{key!r} is no environment variable name")
            if key.startswith("LLAMA_ARG_") or key == "LLAMA_API_KEY":
                # llama-server reads LLAMA_ARG_NO_X as the opposite of LLAMA_ARG_X (common/arg.cpp:130).
                if risky := risky_environment(key):
                    raise ValueError(f"{key} is the flag {risky.refusal()}, and pass the flag as serve.extra")
                owned = owned_environment(rows(cls, "serve.{}"))
                remedy = owned.get(key) or owned.get(key.replace("LLAMA_ARG_NO_", "LLAMA_ARG_"))
                raise ValueError(
                    f"{key}: llama-server reads it as a flag, where none is on its command line; "
                    + (f"declare {remedy}" if remedy else "use a typed field, or the flag in serve.extra")
                )
            if key == "CUDA_VISIBLE_DEVICES":
                raise ValueError("CUDA_VISIBLE_DEVICES is rendered by llamarig: declare serve.gpus in its place")
            if reason := unit_syntax_error(text, assignment=True):
                raise ValueError(f"{key}: {reason}")
        return value

    @model_validator(mode="after")
    def _risky_flags_are_accepted(self) -> Serve:
        for risky in risky_flags(self.extra):
            if risky.name not in self.accept:
                raise ValueError(f"extra: {risky.refusal()}")
        return self

    @model_validator(mode="after")
    def _an_open_host_has_a_key(self) -> Serve:
        if not ipaddress.ip_address(self.host).is_loopback and self.api_key_file is None:
            raise ValueError(
                f"host {self.host} is open to the network: set api_key_file to a key file on the box, or keep 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _clients_come_from_elsewhere(self) -> Serve:
        if self.clients is not None and ipaddress.ip_address(self.host).is_loopback:
            raise ValueError(
                f"clients has no effect, since only the box itself can connect to host {self.host}: declare an address "
                'of the box, or "0.0.0.0"'
            )
        return self

    @model_validator(mode="after")
    def _every_origin_needs_a_key(self) -> Serve:
        if "*" in self.cors_origins and self.api_key_file is None:
            raise ValueError(
                'cors_origins = ("*",) lets every web page that you open use this server: set api_key_file, or name '
                "the page's origin"
            )
        return self

    @model_validator(mode="after")
    def _no_log_has_the_key(self) -> Serve:
        # tools/server/server-http.cpp of the pinned commit: SRV_TRC, which is verbosity 4.
        if self.api_key_file is not None and (self.log_verbosity or 0) >= 4:
            raise ValueError(
                f"log_verbosity = {self.log_verbosity}: from 4 on, llama-server logs the last four characters of its"
                " API key: declare 3 or less, or look at this log without api_key_file, on host 127.0.0.1"
            )
        return self

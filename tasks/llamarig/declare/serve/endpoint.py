"""Where a model is served, and to whom."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import OWNER, Flag, Setting
from llamarig.declare.unit_syntax import unit_syntax_error

CREDENTIALS = {"api_key_file": "api-key", "tls_certificate_file": "tls-certificate", "tls_key_file": "tls-key"}
"""Field that names a file -> name of the systemd credential as which the unit gets it."""
PRIVATE_NETWORKS = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    # Link-local, and the range that providers and VPNs such as Tailscale share (RFC 6598).
    *("169.254.0.0/16", "fe80::/10", "100.64.0.0/10"),
)
"""Networks that no packet of the internet comes from: RFC 1918, RFC 4193 and the two above."""

_KEY_ON_A_COMMAND_LINE = "serve.api_key_file (a key on a command line can be read in `ps`)"


class Endpoint(Declaration):
    """Name, address, port and key of the server."""

    alias: Annotated[
        str | None,
        Flag("--alias -a", default="the model's name", source="llamarig: clients ask for the name in the declaration"),
    ] = None
    """The name that the API shows."""
    host: Annotated[
        str, Flag("--host", "IP address", source="llamarig: closed unless declared otherwise; llama.cpp has the same")
    ] = "127.0.0.1"
    """An address of the box; any but loopback needs api_key_file."""
    port: Annotated[
        int, Field(ge=1, le=65535, examples=[8080]), Flag("--port", "TCP port", source=OWNER, also=("--reuse-port",))
    ]
    """Models that exclude each other may share one, so that clients keep it."""
    api_key_file: Annotated[
        str | None,
        Flag(
            "--api-key-file",
            "path",
            default="no key",
            source="llama.cpp: tools/server; the unit hands the file over as a credential",
            instead={"--api-key": _KEY_ON_A_COMMAND_LINE},
            env="LLAMA_API_KEY",
        ),
    ] = None
    """Absolute path on the box of a file of root's, mode 0600, with one key a line."""

    api_prefix: Annotated[str | None, Flag("--api-prefix", "path", default="none")] = None
    """Path before every path of the API, /llama for /llama/v1/chat/completions; /health then wants the key, too."""
    tls_certificate_file: Annotated[
        str | None,
        Flag(
            "--ssl-cert-file",
            "path",
            default="HTTP without TLS",
            source="llama.cpp: tools/server; the unit hands the file over as a credential",
        ),
    ] = None
    """Absolute path on the box of a certificate with its chain (PEM); with tls_key_file, the API is HTTPS."""
    tls_key_file: Annotated[
        str | None,
        Flag(
            "--ssl-key-file",
            "path",
            default="HTTP without TLS",
            source="llama.cpp: tools/server; the unit hands the file over as a credential",
        ),
    ] = None
    """Absolute path on the box of its private key (PEM, without a passphrase), which only root may read."""
    clients: Annotated[
        tuple[str, ...] | None,
        Setting(
            "IPAddressAllow=",
            "networks",
            default="private networks: RFC 1918, unique local, link-local, 100.64.0.0/10",
            source="llamarig: the networks of a home, and nothing of the internet",
        ),
    ] = None
    """Who may connect where host is not loopback, as ("192.168.1.0/24", "2001:db8:1::/64"). The box always may."""
    cors_origins: Annotated[
        tuple[str, ...],
        Flag(
            "--cors-origins",
            "origin",
            default="pages of localhost alone",
            source="llamarig: llama.cpp lets every web page read every answer",
            instead=dict.fromkeys(
                ("--cors-credentials", "--no-cors-credentials"), "serve.cors_origins (llama-server reads no cookies)"
            ),
            rendered_by="cors_arguments",
        ),
    ] = ()
    """The web page that may read answers, as https://chat.lan:3000, or * for every one, which needs api_key_file."""

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

    @field_validator("cors_origins")
    @classmethod
    def _is_one_origin(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.:\[\]-]+", origin):
                raise ValueError(f"{origin!r} is no origin: write https://HOST or http://HOST:PORT, without a path")
        if len(value) > 1:
            raise ValueError(
                "llama-server sends all of them as one header, which browsers refuse: declare one, or put a reverse "
                "proxy in front"
            )
        return value

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("not an IP address: write 127.0.0.1 for the box alone, or an address of the box") from None
        return value

    @field_validator("api_key_file", "tls_certificate_file", "tls_key_file")
    @classmethod
    def _is_an_absolute_path(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"/[A-Za-z0-9_./@+-]+", value):
            raise ValueError(
                "write the absolute path of a file on the box, in letters, digits and ./_@+-, for example "
                "/etc/llamarig/keys/api"
            )
        return value

    @field_validator("api_prefix")
    @classmethod
    def _is_a_path(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", value):
            raise ValueError("write a path with a slash at its beginning and none at its end, as /llama")
        return value

    @model_validator(mode="after")
    def _tls_needs_both_files(self) -> Endpoint:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS needs both a certificate and its key: set tls_certificate_file and tls_key_file")
        return self

    @field_validator("alias")
    @classmethod
    def _fits_into_a_unit(cls, value: str | None) -> str | None:
        if value is not None and (reason := unit_syntax_error(value)):
            raise ValueError(reason)
        return value

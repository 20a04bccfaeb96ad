"""Endpoints for operators, timeouts, logs, and what no other field sets."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import Flag, Setting
from llamarig.declare.lint_rules import LINT_RULES
from llamarig.declare.risky_flags import risky_flag_names
from llamarig.declare.secrets import is_secret, text_is_secret

_WHERE_SECRETS_BELONG = (
    "the server needs no Hub token, and a deploy gets its own from hub(token_env=...) or hub(token_command=...); an API"
    " key belongs into a file on the box, named by api_key_file"
)


class Operation(Declaration):
    """How a server is watched, stopped and combined with others."""

    metrics: Annotated[bool, Flag("--metrics", env="LLAMA_ARG_ENDPOINT_METRICS")] = False
    """/metrics for Prometheus."""
    slots: Annotated[bool, Flag("--slots", off="--no-slots", env="LLAMA_ARG_ENDPOINT_SLOTS")] = True
    """/slots, which the liveness probe reads; it shows prompts to every client of the API."""
    sleep_idle_s: Annotated[PositiveInt | None, Flag("--sleep-idle-seconds", "s", default="never")] = None
    """Gives its memory back after so long without a request; the next request loads again."""
    request_timeout_s: Annotated[PositiveInt | None, Flag("--timeout -to", "s", default="3600")] = None
    """Longest read or write of a connection."""
    log_verbosity: Annotated[
        int | None,
        Field(ge=0, le=5),
        Flag(
            "--verbosity -lv --log-verbosity",
            default="3",
            instead=dict.fromkeys(("-v", "--verbose", "--log-verbose"), "serve.log_verbosity = 5"),
        ),
    ] = None
    """3 is info, 4 adds buffer sizes, and the end of the API key: not with api_key_file."""
    web_ui: Annotated[
        bool,
        Flag(
            "--no-ui --ui --webui",
            older="--no-webui",
            source="llamarig: a server for programs alone",
            rendered_by="web_ui_arguments",
        ),
    ] = False
    """The web UI at the address of the API; its pages are compiled from the pinned source (npm ci)."""
    coexists: Annotated[bool, Setting("Conflicts=", source="llamarig: models share GPUs, so one at a time")] = False
    """May run beside the other models of the box."""
    load_timeout_s: Annotated[
        int | None,
        Field(ge=10),
        Setting(
            "StartLimitIntervalSec= and the deploy's wait",
            "s",
            default="120, and what a disk of 100 MB/s needs for the files",
            source="llamarig: render/unit_text.py",
        ),
    ] = None
    """Longest wait for /health after a start."""
    environment: Annotated[dict[str, str], Setting("Environment=")] = Field(default={})
    """Further environment variables of the server."""
    readable_paths: Annotated[tuple[str, ...], Setting("BindReadOnlyPaths=", "paths")] = ()
    """Further files and directories that the server may read; it sees its model's files, its release and /usr."""
    extra: Annotated[tuple[str, ...], Setting("the end of the command line")] = ()
    """Arguments of llama-server that have no field, passed on unchanged."""
    accept: Annotated[dict[str, str], Setting("the deploy's warnings")] = Field(default={})
    """Lints and risky flags that are intended: name (declare/lint_rules.py, declare/risky_flags.py) -> reason."""

    @field_validator("environment")
    @classmethod
    def _holds_no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if is_secret(name, text):
                raise ValueError(
                    f"{name} looks like a secret, and every user of the box can read the unit that it would be written"
                    f" into: {_WHERE_SECRETS_BELONG}"
                )
        return value

    @field_validator("extra")
    @classmethod
    def _hold_no_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(text_is_secret(argument) for argument in value):
            raise ValueError(
                "one of them looks like a secret, and every user of the box can read command lines: "
                + _WHERE_SECRETS_BELONG
            )
        return value

    @field_validator("readable_paths")
    @classmethod
    def _are_absolute_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", path) or ".." in path.split("/"):
                raise ValueError(
                    f"{path!r}: write the absolute path of a file or directory, in letters, digits and ./_@+-"
                )
        return value

    @field_validator("accept")
    @classmethod
    def _are_lints_with_a_reason(cls, value: dict[str, str]) -> dict[str, str]:
        for rule, reason in value.items():
            if rule not in LINT_RULES and rule not in risky_flag_names():
                raise ValueError(
                    f"{rule!r} is no lint and no risky flag: a deploy prints the name of each in front of its message"
                )
            if not reason.strip():
                raise ValueError(f"{rule} is accepted without a reason: write why it is intended")
        return value

"""Endpoints for operators, timeouts, logs, and what no other field sets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import LLAMA_CPP, OWNER, Flag, Setting
from llamarig.declare.lint_rules import LINT_RULES


class Operation(Declaration):
    """How a server is watched, stopped and combined with others."""

    metrics: Annotated[
        bool,
        Field(description="/metrics for Prometheus"),
        Flag("--metrics", unit="-", source=LLAMA_CPP, env=("LLAMA_ARG_ENDPOINT_METRICS",)),
    ] = False
    slots: Annotated[
        bool,
        Field(description="/slots, which the liveness probe reads; it shows prompts to every client of the API"),
        Flag("--slots", off="--no-slots", unit="-", source=LLAMA_CPP, env=("LLAMA_ARG_ENDPOINT_SLOTS",)),
    ] = True
    sleep_idle_s: Annotated[
        int | None,
        Field(ge=1, description="gives its memory back after so long without a request; the next request loads again"),
        Flag("--sleep-idle-seconds", unit="s", default="never", source=LLAMA_CPP),
    ] = None
    request_timeout_s: Annotated[
        int | None,
        Field(ge=1, description="longest read or write of a connection"),
        Flag("--timeout", aliases=("-to",), unit="s", default="3600", source=LLAMA_CPP, env=("LLAMA_ARG_TIMEOUT",)),
    ] = None
    log_verbosity: Annotated[
        int | None,
        Field(ge=0, le=5, description="3 is info, 4 adds buffer sizes"),
        Flag(
            "--verbosity",
            aliases=("-lv", "--log-verbosity"),
            unit="-",
            default="3",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_LOG_VERBOSITY",),
        ),
    ] = None
    web_ui: Annotated[
        bool,
        Field(description="the web UI; releases are built without its pages"),
        Flag(
            "--no-ui",
            older="--no-webui",
            aliases=("--ui", "--webui"),
            unit="-",
            source="llamarig: its pages would be an unpinned download (render/release.py)",
            env=("LLAMA_ARG_UI",),
            rendered_by="web_ui_arguments",
        ),
    ] = False
    coexists: Annotated[
        bool,
        Field(description="may run beside the other models of the box"),
        Setting("Conflicts=", unit="-", source="llamarig: models share GPUs, so one at a time"),
    ] = False
    load_timeout_s: Annotated[
        int | None,
        Field(ge=10, description="longest wait for /health after a start"),
        Setting(
            "StartLimitIntervalSec= and the deploy's wait",
            unit="s",
            default="120, and what a disk of 100 MB/s needs for the files",
            source="llamarig: render/unit_text.py",
        ),
    ] = None
    environment: Annotated[dict[str, str], Setting("Environment=", unit="-", source=OWNER)] = Field(
        default={}, description="further environment variables of the server"
    )
    extra: Annotated[
        tuple[str, ...],
        Field(description="arguments of llama-server that have no field, passed on unchanged"),
        Setting("the end of the command line", unit="-", source=OWNER),
    ] = ()
    accept: Annotated[dict[str, str], Setting("the deploy's warnings", unit="-", source=OWNER)] = Field(
        default={}, description="lints that are intended: name (declare/lint_rules.py) -> reason"
    )

    @field_validator("accept")
    @classmethod
    def _are_lints_with_a_reason(cls, value: dict[str, str]) -> dict[str, str]:
        for rule, reason in value.items():
            if rule not in LINT_RULES:
                raise ValueError(f"{rule!r} is no lint: a deploy prints each lint's name in front of it")
            if not reason.strip():
                raise ValueError(f"{rule} is accepted without a reason: write why it is intended")
        return value

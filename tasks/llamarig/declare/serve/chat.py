"""How a server answers: sampling, speculative decoding, reasoning, chat template."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import LLAMA_CPP, Flag
from llamarig.declare.serve.sampling import Sampling
from llamarig.declare.serve.speculation import Speculation
from llamarig.declare.unit_syntax import unit_syntax_error


class Chat(Declaration):
    """What shapes the answers."""

    sampling: Annotated[Sampling, Field(description="for requests that do not say how to sample")] = Sampling()
    speculation: Annotated[
        Speculation | None, Field(description="guess tokens ahead and check them at once; off where left out")
    ] = None
    reasoning: Annotated[
        Literal["on", "off", "auto"] | None,
        Field(description="whether the model reasons before it answers"),
        Flag(
            "--reasoning",
            aliases=("-rea",),
            unit="-",
            default="auto",
            source="llama.cpp: common/common.h; auto asks the template",
            env=("LLAMA_ARG_REASONING",),
        ),
    ] = None
    reasoning_format: Annotated[
        Literal["none", "deepseek", "deepseek-legacy", "auto"] | None,
        Field(description="where in the answer the reasoning stands"),
        Flag("--reasoning-format", unit="-", default="deepseek", source=LLAMA_CPP, env=("LLAMA_ARG_THINK",)),
    ] = None
    reasoning_effort: Annotated[
        Literal["minimal", "low", "medium", "high", "xhigh", "max"] | None,
        Field(description="for templates that read it, such as gpt-oss's"),
        Flag(
            "--reasoning-effort",
            unit="-",
            default="the template's",
            source="the chat template",
            env=("LLAMA_ARG_REASONING_EFFORT",),
        ),
    ] = None
    reasoning_budget: Annotated[
        int | None,
        Field(ge=-1, description="longest reasoning; -1 is no limit"),
        Flag("--reasoning-budget", unit="tokens", default="-1", source=LLAMA_CPP, env=("LLAMA_ARG_THINK_BUDGET",)),
    ] = None
    reasoning_preserve: Annotated[
        bool | None,
        Field(description="reasoning of earlier answers stays in the history"),
        Flag(
            "--reasoning-preserve",
            off="--no-reasoning-preserve",
            unit="-",
            default="on",
            source="llama.cpp: common/arg.cpp:3734",
            env=("LLAMA_ARG_REASONING_PRESERVE",),
        ),
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, str | int | float | bool],
        Flag(
            "--chat-template-kwargs",
            unit="-",
            source="the chat template",
            env=("LLAMA_ARG_CHAT_TEMPLATE_KWARGS",),
            rendered_by="chat_arguments",
        ),
    ] = Field(default={}, description="arguments of the chat template besides the messages: {'enable_thinking': False}")

    @property
    def loads_mtp(self) -> bool:
        """Whether llama.cpp loads the model's own layers of multi-token prediction.

        (src/models/ skip them unless load_mtp, which common/common.cpp:1625 of the pinned commit takes from the types.)
        """
        return self.speculation is not None and "draft-mtp" in self.speculation.types

    @field_validator("chat_template_kwargs")
    @classmethod
    def _fit_into_a_unit(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        for word in (*value, *(text for text in value.values() if isinstance(text, str))):
            if reason := unit_syntax_error(word):
                raise ValueError(f"{word!r}: {reason}")
        return value

"""How a server answers: sampling, speculative decoding, reasoning, chat template."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import GGUF, OWNER, Flag
from llamarig.declare.serve.sampling import Sampling
from llamarig.declare.serve.speculation import Speculation
from llamarig.declare.unit_syntax import unit_syntax_error


class Chat(Declaration):
    """What shapes the answers."""

    task: Annotated[
        Literal["completion", "embeddings", "rerank"],
        Flag(
            "--embeddings",
            also=("--rerank",),
            source=OWNER,
            instead={
                **dict.fromkeys(("--embedding", "--embeddings"), 'serve.task = "embeddings"'),
                **dict.fromkeys(("--rerank", "--reranking"), 'serve.task = "rerank"'),
            },
            rendered_by="task_arguments",
        ),
    ] = "completion"
    """What it is for and has to answer: completions, /v1/embeddings, or /v1/rerank."""
    pooling: Annotated[Literal["mean", "cls", "last"] | None, Flag("--pooling", default="the model's", source=GGUF)] = (
        None
    )
    """How the embeddings of a text's tokens become one."""
    sampling: Sampling = Sampling()
    """For requests that do not say how to sample."""
    speculation: Speculation | None = None
    """Guess tokens ahead and check them at once; off where left out."""
    reasoning: Annotated[
        Literal["on", "off", "auto"] | None,
        Flag("--reasoning -rea", default="auto", source="llama.cpp: common/common.h; auto asks the template"),
    ] = None
    """Whether the model reasons before it answers."""
    reasoning_format: Annotated[
        Literal["none", "deepseek", "deepseek-legacy", "auto"] | None,
        Flag("--reasoning-format", default="deepseek", env="LLAMA_ARG_THINK"),
    ] = None
    """Where in the answer the reasoning stands."""
    reasoning_effort: Annotated[
        Literal["minimal", "low", "medium", "high", "xhigh", "max"] | None,
        Flag("--reasoning-effort", default="the template's", source="the chat template"),
    ] = None
    """For templates that read it, such as gpt-oss's."""
    reasoning_budget: Annotated[
        int | None, Field(ge=-1), Flag("--reasoning-budget", "tokens", default="-1", env="LLAMA_ARG_THINK_BUDGET")
    ] = None
    """Longest reasoning; -1 is no limit."""
    reasoning_preserve: Annotated[
        bool | None,
        Flag(
            "--reasoning-preserve", off="--no-reasoning-preserve", default="on", source="llama.cpp: common/arg.cpp:3734"
        ),
    ] = None
    """Reasoning of earlier answers stays in the history."""
    chat_template_kwargs: Annotated[
        dict[str, JsonValue],
        Flag("--chat-template-kwargs", source="the chat template", rendered_by="chat_arguments"),
    ] = Field(default={})
    """Arguments of the chat template besides the messages, as JSON has them: {'enable_thinking': False}."""

    @property
    def loads_mtp(self) -> bool:
        """Whether llama.cpp loads the model's own layers of multi-token prediction.

        (src/models/ skip them unless load_mtp, which common/common.cpp:1625 of the pinned commit takes from the types.)
        """
        return self.speculation is not None and "draft-mtp" in self.speculation.types

    @model_validator(mode="after")
    def _pooling_is_read(self) -> Chat:
        if self.pooling is not None and self.task != "embeddings":
            reason = "reranking has one of its own" if self.task == "rerank" else "completions have none"
            raise ValueError(f'pooling is for task = "embeddings", and {reason}: leave it out')
        return self

    @field_validator("chat_template_kwargs")
    @classmethod
    def _fit_into_a_unit(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise ValueError("JSON has no infinite number and no NaN") from None
        if reason := unit_syntax_error(text):
            raise ValueError(reason)
        return value

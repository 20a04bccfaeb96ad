"""The work that a model is tuned for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration, Form
from llamarig.declare.flags import Setting


class Workload(Declaration):
    """What tasks/tune.py times a model with: a preset, or a conversation that you have recorded."""

    preset: Annotated[
        Literal["agent", "chat", "batch"] | None, Setting("what tasks/tune.py replays", default="recording")
    ] = None
    """agent: a prompt of 8,192 tokens, then ten turns that add 200 to 2,000 and generate 200; chat: six short turns;
    batch: eight prompts of 2,000 tokens at once."""
    recording: Annotated[
        str | None,
        Form("a file on this machine", "private/agent.jsonl"),
        Setting("what tasks/tune.py replays", "path", default="preset"),
    ] = Field(default=None, pattern=r"^[^\x00-\x1f]+\.jsonl$")
    """Path on the control machine of a conversation in JSON lines, mode 600 and not in git: it is private."""
    faster_than_percent: Annotated[
        float,
        Field(ge=1, le=50),
        Setting("what tasks/tune.py proposes", "percent", source="llamarig: the noise of runs"),
    ] = 3.0
    """Least gain of total seconds, with confidence, that makes a winner."""

    @field_validator("recording")
    @classmethod
    def _is_no_option(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("-"):
            raise ValueError(f"{value!r} begins with a dash: write ./{value}")
        return value

    @model_validator(mode="after")
    def _one_of_them(self) -> Workload:
        if (self.preset is None) == (self.recording is None):
            raise ValueError(
                'what is it tuned for? declare preset="agent", "chat" or "batch", or recording="FILE.jsonl"'
            )
        return self

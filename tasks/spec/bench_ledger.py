"""The bench ledger: what every timing of a served model came out at, a line of JSON each, kept and committed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.spec.base import Declaration

PerSecond = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Speed(Declaration):
    """Tokens per second of several runs."""

    median: PerSecond
    lowest: PerSecond
    highest: PerSecond


class Card(Declaration):
    """A graphics card while it was timed; ``power_limit_w`` in watts, None where it does not tell."""

    name: str
    uuid: str = ""
    power_limit_w: float | None = None


class Conditions(Declaration):
    """What a timing was taken under.

    ``date`` is UTC, by the clock of the machine that deploys. Generation is timed at a depth of ``prompt_tokens``.
    """

    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    driver: str = ""
    cards: tuple[Card, ...] = ()
    ram_mts: int | None = Field(default=None, description="of the slowest module; None where the box does not tell")
    prompt_tokens: int = Field(ge=1)
    generated_tokens: int = Field(ge=2)
    beside: tuple[str, ...] = Field(default=(), description="other models that were running on the box")


class BenchEntry(Declaration):
    """One timing of one model. ``flags`` are the server's own, without names, addresses and keys."""

    box: str
    model: str
    release: str = Field(description="<commit>-<build key> of the llama.cpp that served")
    flags: tuple[str, ...]
    runs: int = Field(ge=1, description="without the first one, which only warms up")
    prompt: Speed
    generation: Speed
    ram_bytes_per_token: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="bytes of weights read from RAM for a token; None where llama.cpp placed them itself",
    )
    conditions: Conditions

    @property
    def key(self) -> tuple[str, str, str, tuple[str, ...]]:
        """What two timings have in common that can be held against each other."""
        return (self.box, self.model, self.release, self.flags)

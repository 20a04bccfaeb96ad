"""The bench ledger: timings of served models, one line of JSON each. It is meant to be committed."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from llamarig.declare.base import Declaration
from llamarig.records import store
from llamarig.records.base import StoredRecord

PerSecond = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TokenRate(Declaration):
    """Tokens per second over several runs."""

    median: PerSecond
    lowest: PerSecond
    highest: PerSecond


class TimedGpu(Declaration):
    """A GPU of a timing; ``power_limit_w`` in watts, ``clock_mhz`` its median clock meanwhile; None where unknown."""

    name: str
    uuid: str = ""
    power_limit_w: float | None = None
    clock_mhz: int | None = None


class SecondTurn(Declaration):
    """A turn after the timed one. ``seconds``: to its first token, median of the runs; ``computed`` of its ``tokens``
    did not come out of the server's cache."""

    seconds: float = Field(gt=0, allow_inf_nan=False)
    tokens: int = Field(ge=1)
    computed: int = Field(ge=0)


class Conditions(Declaration):
    """Conditions of a timing. ``date``: UTC, by the clock of the control machine.

    Generation is timed with ``prompt_tokens`` in the context.
    """

    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    driver: str = ""
    cards: tuple[TimedGpu, ...] = ()
    ram_mts: int | None = Field(default=None, description="MT/s of the slowest module; None where unknown")
    prompt_tokens: int = Field(ge=1)
    generated_tokens: int = Field(ge=0)
    beside: tuple[str, ...] = Field(default=(), description="other models that were running on the box")
    kernel: str = ""
    workload: str = Field(
        default="",
        description="bench: a prompt, an answer, and a second turn; upgrade: a prompt and an answer, after the switch "
        "to another release. Empty in older entries, which are of bench without the second turn",
    )
    throttled: tuple[str, ...] = Field(default=(), description="what slowed processors or GPUs down meanwhile")


class BenchEntry(StoredRecord):
    """One timing of one model. ``flags``: arguments of the server, without names, addresses and keys."""

    title: ClassVar[str] = "timing"

    box: str
    model: str
    release: str = Field(description="<commit>-<build key> of llama.cpp")
    flags: tuple[str, ...]
    runs: int = Field(ge=1, description="without the first run, which is a warm-up")
    prompt: TokenRate
    generation: TokenRate | None = Field(default=None, description="None for embeddings and reranking")
    second_turn: SecondTurn | None = Field(default=None, description="None where the context has no room for it")
    ram_bytes_per_token: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="bytes of weights read from RAM per token; None where llama.cpp chose the placement",
    )
    conditions: Conditions

    @property
    def key(self) -> tuple[str, str, str, tuple[str, ...]]:
        """Key of comparable timings."""
        return (self.box, self.model, self.release, self.flags)


def read_ledger(path: str) -> list[BenchEntry]:
    """Read all timings, the oldest first; none where there is no ledger.

    :raises RecordError: naming the line that is not a valid timing
    """
    return store.read_lines(path, BenchEntry)


def append_timing(path: str, entry: BenchEntry) -> None:
    """Add a timing to the end of the ledger.

    :raises RecordError: when it cannot be written
    """
    store.append_line(path, entry)

"""The result of one timed request: what serve/bench_request.py prints, and the control machine reads.

Used on both sides: Python 3.9 or newer, standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from llamarig.remote.shared.record import Record


@dataclass(frozen=True)
class Timing(Record):
    """Timings of one request as the server reports them, or the ``problem``: why there are none.

    ``alone``: whether the server had no other request meanwhile; None where it does not show its slots.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    prompt_per_second: float = 0.0
    generation_per_second: float = 0.0
    alone: Optional[bool] = None
    problem: str = ""

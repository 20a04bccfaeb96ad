"""The search: yields placements to be measured, is sent what each would take, returns the best that fits."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.spec.plan_file import GivenUp, NextLayer

MOST_DRY_RUNS = 40


@dataclass(frozen=True)
class Found:
    """The best placement that fits, what it takes, and what the next layer would need."""

    candidate: Candidate
    prediction: Prediction
    next_layer: tuple[NextLayer, ...]
    given_up: tuple[GivenUp, ...]


class NothingFitsError(Exception):
    """No placement fits; the message says by how much, and what giving something up would free."""


Search = Generator[Candidate, Prediction, Found]

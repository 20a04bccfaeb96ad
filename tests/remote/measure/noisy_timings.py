"""Timings of a simulated box: drift, noise from run to run, and outliers; random, and the same for the same seed.

Noise from load to load was within +-5 % of the median where not every processor computed (measured on two H200), and
medians of consecutive runs differ by 1 to 2 % on an idle box (checks/bench_comparison.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Noise:
    """What disturbs timings, as fractions of their duration.

    ``run``: standard deviation from run to run; ``drift``: that of the whole series from its begin to its end, a trend
    and a random walk; ``outliers``: how many runs take 5 to 40 % longer; ``heavy``: noise of a t distribution with
    three degrees of freedom in place of a normal one.
    """

    run: float
    drift: float
    outliers: float = 0.0
    heavy: bool = False

    def of_a_run(self, random: Random) -> float:
        spread = random.gauss(0, self.run)
        if self.heavy:
            spread /= math.sqrt(sum(random.gauss(0, 1) ** 2 for _ in range(3)) / 3)
        return spread + (random.uniform(0.05, 0.4) if random.random() < self.outliers else 0)


QUIET = Noise(run=0.01, drift=0.05)
REALISTIC = Noise(run=0.015, drift=0.08, outliers=0.05)
ROUGH = Noise(run=0.05, drift=0.1, outliers=0.1)
WILD = Noise(run=0.1, drift=0.2, outliers=0.1, heavy=True)


def interleaved(random: Random, noise: Noise, pairs: int, speed: float) -> list[tuple[float, float]]:
    """Seconds of the current setting and of a candidate that is ``speed`` times as fast, timed as ABBA ABBA."""
    level, found = 0.0, []
    for number in range(pairs):
        pair = {}
        for which in "AB" if number % 2 == 0 else "BA":
            level += random.gauss(noise.drift / (2 * pairs), noise.drift / (3 * math.sqrt(2 * pairs)))
            pair[which] = 100 / (speed if which == "B" else 1.0) * math.exp(level + noise.of_a_run(random))
        found.append((pair["A"], pair["B"]))
    return found

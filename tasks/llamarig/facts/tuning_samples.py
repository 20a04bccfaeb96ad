"""Samples that the tuner has left on a box."""

from __future__ import annotations

from pyinfra.api.facts import FactBase

from llamarig.remote.measure.tune_job import TakenSample, parse_samples


class TuningSamples(FactBase[list[TakenSample]]):
    """The samples of one stage of tuning, in their order; those before a damaged line.

    Output::

        {"sample": {"candidate": "current", "run": ..., "replayed": {"seconds": ...}, "start_s": ...}, ...}
    """

    default = list

    def command(self, path: str) -> str:
        """:param path: of the file, as in TuneJob"""
        return f"cat {path} 2>/dev/null; true"

    def process(self, output: list[str]) -> list[TakenSample]:
        return parse_samples(output)

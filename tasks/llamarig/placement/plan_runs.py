"""The dry runs of one plan: each is made only once, and what may go side by side does. Sans-I/O generators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from llamarig.declare.placement import Layers
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.dry_run import (
    DryRunError,
    dry_run_arguments,
    fit_arguments,
    parse_prediction,
    with_candidate,
)
from llamarig.placement.llama_cpp_fit import fit_answer, fit_layers
from llamarig.placement.model_layers import layer_weights
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.side_by_side import Steps
from llamarig.records.plan_file import FitResult

T = TypeVar("T")
DryRunSteps = Steps[Sequence[str], str, T]
"""Yields the arguments of one or several runs of llama-fit-params, which may go side by side; the caller sends back
their outputs."""


def performed(steps: DryRunSteps[T], run: Callable[[Sequence[Sequence[str]]], list[str]]) -> T:
    """Make the dry runs that a generator yields; return the generator's result."""
    try:
        requests = next(steps)
        while True:
            requests = steps.send(run(requests))
    except StopIteration as end:
        result: T = end.value
        return result


MOST_DRY_RUNS = 40


class TooManyDryRunsError(Exception):
    """The search did not end, which is a bug in llamarig."""


class DryRuns:
    """Counts the dry runs of one model and makes each one only once."""

    def __init__(self, request: PlanRequest) -> None:
        self.request = request
        self.count = 0
        self._output_mib: int | None = None
        self._outputs: dict[tuple[str, ...], str] = {}

    def _make(self, runs: Sequence[Sequence[str]]) -> DryRunSteps[list[str]]:
        """The outputs of these dry runs; those that were not made yet may go side by side."""
        missing = [each for each in dict.fromkeys(map(tuple, runs)) if each not in self._outputs]
        if missing:
            if self.count >= MOST_DRY_RUNS:
                raise TooManyDryRunsError(f"no plan after {self.count} dry runs: please report this as a bug")
            self.count += len(missing)
            self._outputs.update(zip(missing, (yield [*missing]), strict=True))
        return [self._outputs[tuple(each)] for each in runs]

    def _arguments(self, path: str, candidate: Candidate) -> list[str]:
        request = self.request
        tried = with_candidate(request.model, candidate)
        return dry_run_arguments(tried, path, request.flags, request.simulated_names)

    def measure(self, candidates: Sequence[Candidate]) -> DryRunSteps[Prediction]:
        """Memory of the first candidate, accurate to one MiB. The others are measured beside it."""
        request = self.request
        path = request.short_header_path or request.header_path
        runs = [self._arguments(path, each) for each in candidates]
        if request.short_header_path is None:
            return request.prediction((yield from self._make(runs))[0])
        output = _output_gpu(candidates[0].placement)
        if self._output_mib is None:
            # The short header has a smaller output tensor. Two dry runs, made once, give the size it lacks.
            both = yield from self._make([runs[0], self._arguments(request.header_path, candidates[0])])
            small, whole = (request.prediction(each) for each in both)
            self._output_mib = whole.gpus[output].model_mib - small.gpus[output].model_mib
        short = request.prediction((yield from self._make(runs))[0])
        row = short.gpus[output]
        row = row.model_copy(update={"model_mib": row.model_mib + self._output_mib})
        return replace(short, gpus=(*short.gpus[:output], row, *short.gpus[output + 1 :]))

    def verify(self, candidate: Candidate, answer: Sequence[str] | None) -> DryRunSteps[tuple[Prediction, int | None]]:
        """Measure with the whole header; also return the output's compute buffers as llama-fit-params prints them.

        :param answer: of llama.cpp's own fit, which is measured beside it
        """
        request = self.request
        beside = [] if answer is None else [self._fit_measurement(candidate, answer)]
        runs = [self._arguments(request.header_path, candidate), *beside]
        whole = request.prediction((yield from self._make(runs))[0])
        if request.short_header_path is None:
            return whole, None
        (output,) = yield from self._make([self._arguments(request.short_header_path, candidate)])
        printed = whole.gpus[_output_gpu(candidate.placement)].compute_mib
        return whole.with_compute_of(request.prediction(output)), printed

    def fit(self, candidate: Candidate, margins_mib: Sequence[int]) -> DryRunSteps[list[str] | None]:
        """Where llama.cpp's own fit places the layers with the same margins; None if it gives up.

        It goes alone: it reads how much memory is free, of which the context of another dry run takes some.
        """
        request = self.request
        margins = [margin + other for margin, other in zip(margins_mib, request.others_mib, strict=True)]
        model, names = with_candidate(request.model, candidate), request.simulated_names
        (output,) = yield from self._make([fit_arguments(model, request.header_path, request.flags, margins, names)])
        try:
            return fit_answer(output)
        except DryRunError:
            return None

    def _fit_measurement(self, candidate: Candidate, answer: Sequence[str]) -> list[str]:
        request = self.request
        model, names, placement = (
            with_candidate(request.model, candidate),
            request.simulated_names,
            [*answer, "--fit", "off"],
        )
        return dry_run_arguments(model, request.header_path, request.flags, names, placement=placement)

    def fit_result(self, candidate: Candidate, answer: Sequence[str] | None) -> DryRunSteps[FitResult | None]:
        """What llama.cpp's own fit found; None if it gave up."""
        request = self.request
        if answer is None:
            return None
        (output,) = yield from self._make([self._fit_measurement(candidate, answer)])
        try:
            result = parse_prediction(output, "llama-fit-params with fit's own answer")
        except DryRunError:
            return None
        header, devices = request.header, request.inputs.devices
        whole, spread = fit_layers(answer, layer_weights(header), header.tensors, devices)
        return FitResult(
            arguments=" ".join(answer),
            whole=whole,
            spread=spread,
            memory=(*result.gpus, result.host),
            splits=result.splits,
        )


def _output_gpu(placement: Layers) -> int:
    return max(gpu for gpu, share in enumerate(placement.split) if share)

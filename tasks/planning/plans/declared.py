"""What a placement that its owner declared takes: one or two dry runs, which the caller performs."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import replace

from tasks.planning.flags import ModelFiles, server_arguments
from tasks.planning.pinned_weights import pinnable_mib
from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.planning.plans.dry_run import (
    DryRunError,
    declared_arguments,
    fit_arguments,
    memory_arguments,
    peer_arguments,
    prediction,
)
from tasks.planning.plans.fit_peer import fit_answer
from tasks.planning.plans.making import Case
from tasks.planning.plans.ram import ram_budget
from tasks.spec.model import Model
from tasks.spec.placement import Fit, Layers
from tasks.spec.plan_file import MeasuredPlacement

Measuring = Generator[Sequence[str], str, MeasuredPlacement]
"""Yields the arguments of llama-fit-params, is sent what it printed."""


def declared_flags(served: Model, build_flags: Collection[str]) -> tuple[str, ...]:
    """What of a model's declaration decides memory, its placement included: what a measurement is true for.

    :param served: with fit()'s margin as it will be rendered
    :raises FlagRefusedError: when the build cannot do what is declared
    """
    arguments = server_arguments(served, ModelFiles("-"), build_flags)
    files = [f"{name}={path}" for name, path in (("mmproj", served.mmproj), ("draft", served.draft)) if path]
    speculation = served.serve.speculation
    guesses = [f"speculation={kind}" for kind in speculation.types] if speculation is not None else []
    return (*memory_arguments(arguments), *files, *guesses)


def measure_declared(case: Case) -> Measuring:
    """What the server of a declared placement takes.

    :raises DryRunError: when llama-fit-params does not print it
    """
    whole = yield from _measure(case, case.path)
    if case.short is not None:
        # llama-server reserves logits for a few tokens, llama-fit-params for a whole batch: the buffers of the header
        # with the shorter vocabulary are the server's, the weights those of the whole one.
        short = yield from _measure(case, case.short)
        pairs = zip(whole.gpus, short.gpus, strict=True)
        gpus = tuple(row.model_copy(update={"compute_mib": small.compute_mib}) for row, small in pairs)
        whole = replace(whole, gpus=gpus)
    if len(whole.gpus) != len(case.devices):
        raise DryRunError(f"a dry run names {len(whole.gpus)} GPUs, the box lists {len(case.devices)}")
    belongs, serve = case.belongs, case.model.serve
    others = belongs.others_mib or (0,) * len(case.devices)
    return MeasuredPlacement(
        shards=belongs.shards,
        release=belongs.release,
        flags=declared_flags(case.model, case.flags),
        devices=belongs.devices,
        left_mib=tuple(
            device.free_mib - row.total_mib - other
            for device, row, other in zip(case.devices, whole.gpus, others, strict=True)
        ),
        ram=ram_budget(serve, whole.host, whole.checkpoint_mib, case.ram_available_mib),
        box_ram_mib=case.box_ram_mib,
        pinnable_mib=pinnable_mib(whole.host.model_mib, case.header.tensors),
    )


def _measure(case: Case, path: str) -> Generator[Sequence[str], str, Prediction]:
    names = tuple(device.name for device in case.devices) if case.simulated else ()
    outcome_of = f"llama-fit-params with model {case.model.name!r}"
    placement, serve = case.model.serve.placement, case.model.serve
    if not isinstance(placement, Fit):
        output = yield declared_arguments(case.model, path, case.flags, names)
        return prediction(output, outcome_of)
    # fit() is decided when the server loads: ask llama.cpp's own fit what it would come to, then measure that.
    nowhere = Layers(gpu=(0,), split=(1,))
    candidate = Candidate(nowhere, serve.context, serve.ubatch, serve.cache_type_k, serve.cache_type_v)
    others = case.belongs.others_mib or (0,) * len(case.devices)
    targets = (placement.target_mib + placement.target_mib[-1:] * len(others))[: len(others)]
    margins = [target + other for target, other in zip(targets, others, strict=True)]
    answer = fit_answer((yield fit_arguments(case.model, case.path, case.flags, candidate, margins, names)))
    output = yield peer_arguments(case.model, path, case.flags, candidate, answer, names)
    return prediction(output, outcome_of)

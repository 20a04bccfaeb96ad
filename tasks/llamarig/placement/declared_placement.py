"""Measures a placement that the owner declared, by one or two dry runs that the caller performs."""

from __future__ import annotations

from collections.abc import Collection

from llamarig.declare.model import Model
from llamarig.declare.placement import Fit
from llamarig.declare.serve.weights import OFFLOAD_MIN_BATCH
from llamarig.placement.candidate import Prediction
from llamarig.placement.dry_run import (
    dry_run_arguments,
    fit_arguments,
    memory_arguments,
)
from llamarig.placement.llama_cpp_fit import fit_answer
from llamarig.placement.model_layers import layer_counts
from llamarig.placement.pinned_weights import pinnable_mib
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.plan_runs import DryRunSteps
from llamarig.placement.ram_budget import ram_budget
from llamarig.records.plan_file import MeasuredPlacement
from llamarig.render.server_arguments import ModelFiles, server_arguments


def declared_flags(served: Model, build_flags: Collection[str]) -> tuple[str, ...]:
    """The arguments and settings of a declaration that decide memory, placement included: the key of a measurement.

    :param served: with fit()'s margin as it will be rendered
    :raises FlagRefusedError: if the build does not support a declared setting
    """
    arguments = server_arguments(served, ModelFiles("-"), build_flags)
    files = [f"{name}={path}" for name, path in (("mmproj", served.mmproj), ("draft", served.draft)) if path]
    speculation = served.serve.speculation
    speculated = [f"speculation={kind}" for kind in speculation.types] if speculation is not None else []
    threshold = served.serve.environment.get(OFFLOAD_MIN_BATCH)
    offload = [f"{OFFLOAD_MIN_BATCH}={threshold}"] if threshold else []
    return (*memory_arguments(arguments), *files, *speculated, *offload)


def measure_declared(request: PlanRequest) -> DryRunSteps[MeasuredPlacement]:
    """Measure the memory of a declared placement.

    :raises DryRunError: if llama-fit-params does not print a prediction
    """
    whole = yield from _measure(request, request.header_path)
    if request.short_header_path is not None:
        whole = whole.with_compute_of((yield from _measure(request, request.short_header_path)))
    inputs, serve = request.inputs, request.model.serve
    return MeasuredPlacement(
        shards=inputs.shards,
        release=inputs.release,
        flags=declared_flags(request.model, request.flags),
        devices=inputs.devices,
        left_mib=tuple(
            device.free_mib - row.total_mib - other
            for device, row, other in zip(inputs.devices, whole.gpus, request.others_mib, strict=True)
        ),
        ram=ram_budget(serve, whole.host, whole.checkpoint_mib, request.ram_available_mib),
        box_ram_mib=request.box_ram_mib,
        pinnable_mib=pinnable_mib(whole.host.model_mib, request.header.tensors),
    )


def _measure(request: PlanRequest, path: str) -> DryRunSteps[Prediction]:
    model, flags, serve = request.model, request.flags, request.model.serve
    names, devices = request.simulated_names, request.inputs.devices
    chosen: list[str] | None = None
    if isinstance(serve.placement, Fit):
        # llama.cpp decides fit() when it loads the model: ask its own fit for the result, then measure that.
        declared = serve.placement.target_mib
        targets = (declared + declared[-1:] * len(devices))[: len(devices)]
        margins = [target + other for target, other in zip(targets, request.others_mib, strict=True)]
        (output,) = yield [fit_arguments(model, request.header_path, flags, margins, names)]
        answer = fit_answer(output)
        chosen = [*answer, "--fit", "off"]
    positions = layer_counts(request.header.tensors, request.header.metadata).positions
    (output,) = yield [dry_run_arguments(model, path, flags, names, placement=chosen, positions=positions)]
    return request.prediction(output)

"""How fast a plan would be, from what tasks/bench.py measured of this model on this box; nothing where it did not."""

from __future__ import annotations

import shlex
from itertools import chain

from pyinfra.context import host

from tasks.facts.model_headers import ModelHeaders
from tasks.operations.bench_ledger import LedgerError, read_ledger
from tasks.operations.lock_file import LockError, locked_models
from tasks.planning.placement import placement_arguments
from tasks.planning.plans.ladder import in_force
from tasks.planning.plans.ram_reads import ram_bytes_per_token
from tasks.planning.plans.speed import calibrated, measured, speed_lines
from tasks.planning.release import release_id
from tasks.planning.shards import model_files, target
from tasks.spec.model import Model
from tasks.spec.placement import Layers
from tasks.spec.plan_file import Plan
from tasks.spec.rig import Rig


def speed_said(rig: Rig, model: Model, plan: Plan, before: Plan | None = None) -> list[str]:
    """Predicted tokens per second of the plan, of what serves by the plan file, and of llama.cpp's own fit."""
    try:
        ledger = read_ledger(rig.bench_ledger)
        locks = locked_models(rig)
    except (LedgerError, LockError) as error:
        return [f"no speed is predicted: {error}"]
    if not ledger or locks is None:
        return []
    lock = locks[[known.name for known in rig.models].index(model.name)]
    release = release_id(rig.build_of(model), rig.models)
    file = model_files(lock).model
    calibration = calibrated(measured(ledger, box=host.name, model=model.name, release=release, file=file))
    if calibration is None:
        return []
    shards = [target(lock, shard) for shard in lock.shards]
    headers = host.get_fact(ModelHeaders, paths=shards)
    if any(shard not in headers for shard in shards):
        return []
    tensors = [tensor for shard in shards for tensor in headers[shard].tensors]

    def reads(arguments: list[str]) -> float | None:
        return ram_bytes_per_token(arguments, tensors, headers[shards[0]].metadata)

    def reads_of(placement: Layers) -> float | None:
        return reads(list(chain.from_iterable(placement_arguments(placement))))

    placements = [("this plan", reads_of(plan.placement))]
    if before is not None and in_force(before) != plan.placement:
        placements.append((f"as {rig.plan_file} has it", reads_of(in_force(before))))
    if plan.fit is not None:
        placements.append(("llama.cpp's own fit", reads([*shlex.split(plan.fit.arguments), "--fit", "off"])))
    return speed_lines(calibration, placements)

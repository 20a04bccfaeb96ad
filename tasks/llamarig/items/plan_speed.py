"""Predict the speed of a plan from measurements of tasks/bench.py of this model on this box."""

from __future__ import annotations

import shlex
from itertools import chain

from pyinfra.context import host

from llamarig.declare.model import Model
from llamarig.declare.placement import Layers
from llamarig.declare.rig import Rig
from llamarig.engine.item import Seen
from llamarig.engine.run import ask
from llamarig.facts.model_headers import ModelHeaders
from llamarig.placement.speed_prediction import calibrate, calibration_runs, ram_bytes_per_token, speed_lines
from llamarig.placement.steps_down import effective_placement
from llamarig.records.bench_ledger import read_ledger
from llamarig.records.plan_file import Plan
from llamarig.records.store import RecordError
from llamarig.remote.shared.gguf_header import combined_header
from llamarig.render.model_paths import model_files, target
from llamarig.render.placement_arguments import placement_arguments
from llamarig.render.release import release_id


def predicted_speed(rig: Rig, seen: Seen, model: Model, plan: Plan, before: Plan | None = None) -> list[str]:
    """Lines with the predicted tokens/s of the plan, of the plan in the plan file, and of llama.cpp's own fit.

    Empty if this model has not been measured on this box.
    """
    try:
        ledger = read_ledger(rig.bench_ledger)
    except RecordError as error:
        return [f"no speed is predicted: {error}"]
    locks = seen.here.locked
    if not ledger or locks is None:
        return []
    lock = locks[[declared.name for declared in rig.models].index(model.name)]
    release = release_id(rig.build_of(model), rig.models)
    file = model_files(lock).model
    calibration = calibrate(calibration_runs(ledger, box=host.name, model=model.name, release=release, file=file))
    if calibration is None:
        return []
    shards = [target(lock, shard) for shard in lock.shards]
    headers = ask(ModelHeaders, paths=shards).of(shards)
    if headers is None:
        return []
    header = combined_header(headers)

    def reads(arguments: list[str]) -> float | None:
        return ram_bytes_per_token(arguments, header)

    def reads_of(placement: Layers) -> float | None:
        return reads(list(chain.from_iterable(placement_arguments(placement))))

    placements = [("this plan", reads_of(plan.placement))]
    if before is not None and effective_placement(before) != plan.placement:
        placements.append((f"the plan in {rig.plan_file}", reads_of(effective_placement(before))))
    if plan.fit is not None:
        placements.append(("llama.cpp's own fit", reads([*shlex.split(plan.fit.arguments), "--fit", "off"])))
    return speed_lines(calibration, placements)

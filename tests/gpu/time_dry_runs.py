"""Time the dry runs of a plan on real cards: one after another, two and four at a time, with and without a process that
holds a context on every card. Run by hand.

    python3 -m tests.gpu.time_dry_runs CUDA_RELEASE WORK_DIRECTORY MODEL CONTEXT UBATCH [MARGIN_MIB ...]

Arguments as of tests/gpu/plan_on_cards.py. Each way is timed three times (LLAMARIG_DRY_RUN_ROUNDS), in turn; every
plan has to be the same. The program that holds contexts is what a driver without persistence mode would gain by.
Prints a line for each way.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llamarig.declare.model import Model
from llamarig.declare.placement import Auto
from llamarig.declare.serve import Serve
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.plan_runs import performed
from llamarig.placement.planned_loading import Pinning
from llamarig.placement.planner import make_plan
from llamarig.records.plan_file import Plan

from tests.box.sparse_models import write_sparse
from tests.gpu.plan_on_cards import dry_runs, request_of
from tests.placement.model_shapes import SHAPES

ROUNDS = int(os.environ.get("LLAMARIG_DRY_RUN_ROUNDS", "3"))
WAYS = [(at_a_time, held) for held in (False, True) for at_a_time in (1, 2, 4)]
HOLD = """
import ctypes, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
cuda.cuInit(0)
for index in range(int(sys.argv[1])):
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), index)
print("held", flush=True)
time.sleep(3600)
"""


@dataclass
class Timed:
    """Dry runs, at most so many at a time. ``waves``: seconds of those that went together."""

    program: str
    at_a_time: int
    waves: list[float] = field(default_factory=list)

    def run(self, requests: Sequence[Sequence[str]]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(requests), self.at_a_time):
            began = time.monotonic()
            found += dry_runs(self.program, requests[start : start + self.at_a_time])
            self.waves.append(time.monotonic() - began)
        return found


@contextlib.contextmanager
def contexts(cards: int) -> Iterator[None]:
    """A process that holds a context on every card."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(cards)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    release, work, name, context, ubatch, *margins = sys.argv[1:]
    directory, auto = Path(work), Auto(per_gpu=tuple(map(int, margins)) or None)
    path = directory / f"{name}.gguf"
    if not path.exists():
        write_sparse(directory, name, SHAPES[name], tokens=True)
    serve = Serve(
        port=18200,
        context=int(context),
        batch=max(2048, int(ubatch)),
        ubatch=int(ubatch),
        cache_type_k="q8_0",
        cache_type_v="q8_0",
        placement=auto,
    )
    model = Model(name="m", repo="o/r", quant="Q", build="b", serve=serve)
    request = request_of(Path(release), directory, model, path)
    seconds: dict[tuple[int, bool], list[float]] = {way: [] for way in WAYS}
    waves: dict[tuple[int, bool], list[float]] = {way: [] for way in WAYS}
    plans: list[Plan] = []
    for _ in range(ROUNDS):
        for way in WAYS:
            timed = Timed(f"{release}/bin/llama-fit-params", way[0])
            holding = contexts(len(request.inputs.devices)) if way[1] else contextlib.nullcontext()
            with holding:
                began = time.monotonic()
                plans.append(performed(make_plan(request), timed.run))
                seconds[way].append(time.monotonic() - began)
            waves[way] += timed.waves
    # With pinned weights as with mapped ones: one search, where there were two.
    pinned = Timed(f"{release}/bin/llama-fit-params", 2)
    began = time.monotonic()
    with_pinned = performed(make_plan(_pinned(request)), pinned.run)
    print(f"pinned: {with_pinned.dry_runs} dry runs in {time.monotonic() - began:.1f} s, {len(pinned.waves)} waves")
    for way in WAYS:
        held = "contexts held" if way[1] else "no other context"
        print(
            f"{way[0]} at a time, {held}: {statistics.median(seconds[way]):.1f} s "
            f"({min(seconds[way]):.1f} to {max(seconds[way]):.1f}), {plans[0].dry_runs} dry runs, a wave "
            f"{statistics.median(waves[way]):.2f} s"
        )
    if len({plan.placement for plan in plans}) > 1:
        sys.exit("the plans differ")


def _pinned(request: PlanRequest) -> PlanRequest:
    return replace(request, pinning=Pinning(ram_mib=1 << 30))


if __name__ == "__main__":
    main()

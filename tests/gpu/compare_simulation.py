"""Compare dry runs on real GPUs and on simulated ones. Run by hand on a machine with a GPU.

    python3 -m tests.gpu.compare_simulation LLAMA_CPP_SOURCE_TREE CUDA_RELEASE WORK_DIRECTORY

The simulation is compiled from the tree and loaded by the same CUDA release, with the real cards hidden from it.
GGML_CUDA_DEVICES=2 makes two devices of one card. Exits with 1 where a MiB differs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.placement.devices import parse_device_list, simulation_environment
from llamarig.records.plan_file import PlannedDevice
from llamarig.remote.build.build_simulated_gpu import LIBRARY, SOURCE, compile_library
from llamarig.remote.build.cpp_definitions import definitions
from llamarig.remote.build.cuda_backend_parts import parts_of

from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES

Rows = list[tuple[str, int, int, int]]

Q8 = ("-ctk", "q8_0", "-ctv", "q8_0")
LONG = ("-c", "262144", "-b", "2048", "-ub", "2048", *Q8)
SOME_WHOLE = "blk[.]([0-3]|2[0-9]|3[0-9]|4[0-7])[.]ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"
CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qwen3-coder-next-q6", (*LONG, "-ot", "exps=CPU")),
    ("qwen3-coder-next-q6", (*LONG, "-ot", SOME_WHOLE)),
    ("qwen3-coder-next-q6", (*LONG, "-ot", SOME_WHOLE, "--no-op-offload")),
    ("qwen3-coder-next-q6", ("-c", "65536", "-b", "4096", "-ub", "4096", *Q8, "-ot", SOME_WHOLE)),
    ("qwen3-coder-next-q6-fused", (*LONG, "-ot", SOME_WHOLE)),
    ("qwen3-coder-next-mxfp4", ("-c", "131072", "-ub", "512", "-ot", SOME_WHOLE)),
    (
        "qwen3-coder-next-q4",
        ("-c", "262144", "-b", "16384", "-ub", "1024", "-ctk", "q4_1", "-ctv", "q4_1", "-ncmoe", "20"),
    ),
    ("gpt-oss-120b", ("-c", "65536", "-b", "4096", "-ub", "4096", *Q8, "-ncmoe", "24")),
    ("qwen35-35b-a3b-q4", ("-c", "65536", *Q8, "-ncmoe", "24")),
    ("qwen35-35b-a3b-q8", ("-c", "65536", *Q8)),
    ("qwen3-30b-a3b", ("-c", "32768", "-ncmoe", "10")),
    ("qwen3-32b", ("-c", "32768", *Q8)),
)


def output_of(release: Path, arguments: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [str(release / "bin/llama-fit-params"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    if done.returncode:
        raise SystemExit(f"llama-fit-params {' '.join(arguments)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def rows(release: Path, arguments: list[str], environment: Mapping[str, str]) -> Rows:
    output = output_of(release, [*arguments, "--fit-print", "on"], environment)
    found = re.findall(r"^(\w+) (\d+) (\d+) (\d+) *$", output, re.MULTILINE)
    return [(name, int(weights), int(context), int(compute)) for name, weights, context, compute in found]


def simulation(tree: Path, work: Path, cards: list[PlannedDevice]) -> dict[str, str]:
    work.mkdir(parents=True, exist_ok=True)
    own = {definition.name for definition in definitions(SOURCE.read_text())}
    (work / "cuda_backend_parts.inc").write_text(parts_of(tree, own))
    compile_library(tree, work, "given")
    gpus = tuple(
        SimulatedGpu(name=card.description, total_mib=card.total_mib, free_mib=card.free_mib) for card in cards
    )
    return simulation_environment(gpus, str(work / LIBRARY))


def main() -> None:
    tree, release, work = (Path(argument).resolve() for argument in sys.argv[1:4])
    cards = parse_device_list(output_of(release, ["--list-devices"], {}))
    simulated = simulation(tree, work, cards)
    print(output_of(release, ["--list-devices"], simulated), flush=True)
    different = 0
    for name, arguments in CASES:
        model = work / f"{name}.gguf"
        if not model.exists():
            write_sparse(work, name, SHAPES[name])
        common = ["-m", str(model), "-fa", "on", "-ngl", "999", "-dev", ",".join(card.name for card in cards)]
        if len(cards) > 1:
            first = SHAPES[name].layers * 2 // 3
            common += ["-ts", f"{first},{SHAPES[name].layers + 1 - first}"]
        found = [rows(release, [*common, *arguments], environment) for environment in ({}, simulated)]
        different += found[0] != found[1]
        print(f"{'same' if found[0] == found[1] else 'DIFFERENT'}: {name} {' '.join(arguments)}", flush=True)
        for real, other in zip(*found, strict=True):
            print(f"    {real}" + (f"    simulated {other}" if other != real else ""), flush=True)
    print(f"{len(CASES) - different} of {len(CASES)} the same")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()

"""Plan a full-size model on real cards, serve it, and compare its memory with the plan. Run by hand.

    python3 -m tests.gpu.plan_on_cards CUDA_RELEASE WORK_DIRECTORY MODEL CONTEXT UBATCH [MARGIN_MIB ...]

MODEL is one of tests/placement/model_shapes.py, as a sparse file: llama-server loads zeros as weights, so buffers and
graph splits are those of the real model, but speeds and text are not. Served twice: with the plan, and with the fit of
llama.cpp for the same margins. Exits with 1 if a buffer differs from the plan by more than a first start's tolerance.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llamarig.declare.model import Model
from llamarig.declare.placement import Auto, Fit, Placement
from llamarig.declare.serve import Serve
from llamarig.placement.candidate import Candidate
from llamarig.placement.devices import parse_device_list
from llamarig.placement.dry_run import server_outputs, with_candidate
from llamarig.placement.plan_report import plan_report
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.plan_runs import performed
from llamarig.placement.planner import make_plan
from llamarig.records.plan_file import Plan, PlanInputs
from llamarig.remote.build.build_release import flags_of
from llamarig.remote.plan.short_vocabulary import prepare
from llamarig.remote.shared.gguf_header import digest_of, read_header
from llamarig.remote.shared.server_log import TOLERANCE_MIB, compare, read_log
from llamarig.render.server_arguments import ModelFiles, server_arguments

from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES

PORT = 18200
LOAD_S, ANSWER_S = 300, 300


def plan_of(release: Path, work: Path, model: Model, path: Path) -> Plan:
    """The plan of a model on the box's cards."""
    request = request_of(release, work, model, path)
    began = time.monotonic()
    plan = performed(make_plan(request), partial(dry_runs, f"{release}/bin/llama-fit-params"))
    print(f"planned with {plan.dry_runs} dry runs in {time.monotonic() - began:.1f} s")
    return plan


def request_of(release: Path, work: Path, model: Model, path: Path) -> PlanRequest:
    """What that plan is made from."""
    program = f"{release}/bin/llama-fit-params"
    output = subprocess.run([program, "--list-devices"], capture_output=True, text=True).stdout
    devices = parse_device_list(output)
    help_text = subprocess.run([f"{release}/bin/llama-server", "--help"], capture_output=True, text=True).stdout
    with path.open("rb") as file:
        header = read_header(file.read(64 << 20))
    auto = model.serve.placement
    assert isinstance(auto, Auto)
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    short = prepare(work / "short", server_outputs(model), model.serve.ubatch, [path])
    return PlanRequest(
        model=model,
        flags=frozenset(flags_of(help_text)),
        header=header,
        header_path=str(path),
        short_header_path=str(short),
        simulated=False,
        inputs=PlanInputs(
            header=digest_of([header]),
            devices=tuple(devices),
            margins_mib=auto.margins(len(devices)),
            flags=(),
            release=release.name,
        ),
        ram_available_mib=int(available.split()[1]) // 1024,
    )


def dry_runs(program: str, requests: Sequence[Sequence[str]]) -> list[str]:
    """The outputs of dry runs, side by side."""
    command = [sys.executable, "-B", "-m", "llamarig.remote.plan.dry_run", "60", program]
    started = [subprocess.Popen([*command, *each], stdout=subprocess.PIPE, text=True) for each in requests]
    return [each.communicate()[0] for each in started]


def used_mib() -> str:
    """Used memory of all cards in MiB, separated by slashes."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return "/".join(subprocess.run(query, capture_output=True, text=True).stdout.split())


def time_completion(words: int, generated: int) -> str:
    """Request a completion and describe its timings."""
    body = {"prompt": "a " * words, "n_predict": generated, "ignore_eos": True, "cache_prompt": False}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
        timings = json.load(response)["timings"]
    return (
        f"{timings['prompt_n']} tokens at {timings['prompt_per_second']:.0f}/s, then {timings['predicted_n']} at "
        + (f"{timings['predicted_per_second']:.1f}/s")
    )


def serve(release: Path, work: Path, name: str, arguments: Sequence[str]) -> list[str]:
    """Run the server for a short and two longer prompts; return the lines of its log."""
    log = work / f"{name}.log"
    before = used_mib()
    with log.open("wb") as out:
        command = [f"{release}/bin/llama-server", *arguments, "--log-verbosity", "4"]
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + LOAD_S
            while time.monotonic() < deadline and server.poll() is None:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                        break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.5)
            print(f"{name}: MiB in use: {before} before, {used_mib()} loaded", flush=True)
            for words in (64, 4_000, 24_000):
                print(f"{name}: {time_completion(words, 64)}; {used_mib()} MiB in use", flush=True)
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            print(f"{name}: no answer ({error}); exit status {server.poll()}", flush=True)
        finally:
            server.terminate()
            server.wait(timeout=60)
    return log.read_text(errors="replace").splitlines()


def main() -> None:
    release, work = (Path(argument).resolve() for argument in sys.argv[1:3])
    shape, context, ubatch = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    margins = tuple(map(int, sys.argv[6:])) or None
    path = work / f"{shape}.gguf"
    if not path.exists():
        write_sparse(work, shape, SHAPES[shape], tokens=True)
    auto = Auto(per_gpu=margins) if margins else Auto()

    def model_placed(placement: Placement) -> Model:
        placed = Serve(
            port=PORT,
            context=context,
            batch=max(2048, ubatch),
            ubatch=ubatch,
            cache_type_k="q8_0",
            cache_type_v="q8_0",
            threads=16,
            placement=placement,
        )
        return Model(name=shape, repo="shapes/only", quant="Q6_K", build="cuda", serve=placed)

    model = model_placed(auto)
    plan = plan_of(release, work, model, path)
    print("\n".join(plan_report(plan, shape)), flush=True)
    help_text = subprocess.run([f"{release}/bin/llama-server", "--help"], capture_output=True, text=True).stdout
    flags = frozenset(flags_of(help_text))
    chosen = Candidate(plan.placement, plan.context, plan.ubatch, plan.cache_type_k, plan.cache_type_v)
    lines = serve(release, work, "plan", server_arguments(with_candidate(model, chosen), ModelFiles(str(path)), flags))
    predicted = {row.name: row.total_mib for row in plan.memory}
    found = compare(read_log(lines), predicted)
    for each in found:
        print(f"plan: {each}{'  DIFFERS' if each.differs else ''}")
    for line in lines:
        if "buffer size" in line or "splits" in line:
            print(f"    {line.strip()[-110:]}")
    fit = model_placed(Fit(target_mib=plan.belongs.margins_mib))
    serve(release, work, "fit", server_arguments(fit, ModelFiles(str(path)), flags))
    gpus = [each for each in found if each.name != "Host"]
    print(f"{sum(not each.differs for each in gpus)} of {len(gpus)} cards within {TOLERANCE_MIB} MiB of the plan")
    sys.exit(0 if gpus and not any(each.differs for each in gpus) else 1)


if __name__ == "__main__":
    main()

"""A planned model's first start, on simulated cards: its memory is compared with the plan; a shortage is a step down.

The server, its log, its failures and the switch are real. The cards are the simulation that dry runs use
(remote/build/simulated_gpu.cpp): they count memory, refuse allocations beyond their size, and compute nothing.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from llamarig.declare.placement import Layers
from llamarig.declare.rig import Rig
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.engine.jobs import job_text
from llamarig.facts.start_records import BackOffs, RecordedBackOff
from llamarig.items.simulated_gpus import simulation_library
from llamarig.items.start_plan import start_plan, with_back_off
from llamarig.items.unit_differences import switch_job
from llamarig.items.wanted_unit import Wanted, wanted_unit
from llamarig.placement.devices import simulation_environment
from llamarig.placement.dry_run import memory_arguments
from llamarig.placement.model_layers import LayerWeights, layer_weights
from llamarig.placement.steps_down import effective_placement
from llamarig.records.model_lock import locked_models
from llamarig.records.plan_file import (
    DeviceMemory,
    Plan,
    PlanInputs,
    PlannedDevice,
    RamBudget,
    read_plan_file,
    record_plan,
)
from llamarig.remote.plan.model_headers import read_whole_header
from llamarig.remote.shared.gguf_header import combined_header
from llamarig.remote.shared.server_log import TOLERANCE_MIB, read_log
from llamarig.render import layout
from llamarig.render.model_paths import model_files, target
from llamarig.render.release import release_path

from tests.box.deployment import Deployment, wait_for
from tests.box.rehearse import chat
from tests.render.golden_units import PINNED

pytestmark = pytest.mark.box

UNIT = "llamarig-tiny.service"
JOB = "/var/lib/llamarig/jobs/switch-tiny"
KEY_FILE = "/etc/llamarig/keys/api"
# Three of the rehearsal model's four layers are on the first card; two of them have their experts there too.
PLACEMENT = Layers(gpu=(2, 1), split=(3, 2))
EMPTY_BUDGET = RamBudget(weights_mib=0, buffers_mib=0, cache_mib=0, checkpoints_mib=0, reserve_mib=0, available_mib=0)


@dataclass(frozen=True)
class Start:
    """What a switch of the rehearsal's model to simulated cards is made from."""

    deployment: Deployment
    rig: Rig
    weights: LayerWeights
    plan: Plan

    def rendered(self, placement: Layers) -> Wanted:
        (model,) = self.rig.models
        locked = locked_models(self.rig)
        assert locked is not None
        return wanted_unit(
            self.rig,
            model.model_copy(update={"serve": model.serve.model_copy(update={"placement": placement})}),
            release=release_path(self.rig.builds[0], self.rig.models),
            flags=PINNED,
            files=model_files(locked[0]),
            inputs="",
            model_bytes=1 << 24,
            running=True,
        )

    def with_cards(self, *free_mib: int, **serve: Any) -> Start:
        """The same start on cards with this much free memory."""
        cards = tuple(SimulatedGpu(name=f"card {n}", total_mib=1000, free_mib=mib) for n, mib in enumerate(free_mib))
        environment = simulation_environment(cards, simulation_library(self.rig.builds[0]))
        (model,) = self.rig.models
        seen = {"environment": environment, "readable_paths": (layout.SIMULATED,)}
        served = model.serve.model_copy(update={**seen, **serve})
        return replace(self, rig=self.rig.model_copy(update={"models": (model.model_copy(update={"serve": served}),)}))

    def switch(self, **plan: Any) -> str:
        """Run the switch on the box as a deploy does; return its last state and message. ``plan`` overrides fields."""
        wanted = self.rendered(PLACEMENT)
        start = replace(start_plan(self.plan, self.weights, self.rendered), **plan)
        job = switch_job(wanted, self.rig.builds[0], [], 1 << 24, start)
        self.deployment.write(f"{JOB}/job.json", job_text(job))
        self.deployment.shell(
            f"cd /opt/llamarig/lib && python3 -B -m llamarig.remote.serve.switch_unit {JOB} >/dev/null 2>&1; true",
            timeout=300,
        )
        status: dict[str, Any] = json.loads(self.deployment.shell(f"cat {JOB}/status.json"))
        return f"{status['state']}: {status['message']}"

    def total(self, card: int) -> int:
        return self.plan.gpus[card].total_mib

    def back_off(self) -> RecordedBackOff | None:
        """The step down that the start record on the box has."""
        return BackOffs().process(self.deployment.shell(BackOffs().command()).splitlines()).get(UNIT)


@pytest.fixture(scope="module")
def prepared(converged: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The box with the library of simulated cards for its release."""
    variant = converged.variant(tmp_path_factory.mktemp("first-start"))
    outcome = variant.run(script="tests/box/deploy_plan_prerequisites.py")
    assert outcome.code == 0, str(outcome)
    return variant


@pytest.fixture
def start(prepared: Deployment, deployment: Deployment) -> Iterator[Start]:
    """A plan with the memory that a dry run of the release predicts; afterwards the box is restored."""
    rig = Rig.model_validate(prepared.rig)
    locked = locked_models(rig)
    assert locked is not None
    paths = [prepared.box.root / target(locked[0], shard).lstrip("/") for shard in locked[0].shards]
    shards = [read_whole_header(path)[1] for path in paths]
    header = combined_header(shards)
    without_memory = Plan(
        belongs=PlanInputs(
            header="0" * 64,
            devices=tuple(
                PlannedDevice(name=f"CUDA{n}", description=f"card {n}", total_mib=1000, free_mib=900) for n in (0, 1)
            ),
            margins_mib=(2, 2),
            flags=(),
            release="x",
        ),
        placement=PLACEMENT,
        context=8192,
        ubatch=512,
        cache_type_k="f16",
        cache_type_v="f16",
        memory=(),
        ram=EMPTY_BUDGET,
    )
    made = Start(prepared, rig, layer_weights(header), without_memory).with_cards(900, 900)
    memory = dry_run(made)
    yield replace(made, plan=without_memory.model_copy(update={"memory": memory}))
    deployment.shell(f"rm -rf {KEY_FILE}")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def dry_run(start: Start) -> tuple[DeviceMemory, ...]:
    """MiB on each device, as the release's llama-fit-params prints them for the unit's flags."""
    program, *arguments = start.rendered(PLACEMENT).arguments
    (model,) = start.rig.models
    variables = " ".join(f"{name}='{value}'" for name, value in model.serve.environment.items())
    words = [*arguments[:2], *memory_arguments(arguments), "--device", "CUDA0,CUDA1", "--fit-print", "on"]
    quoted = " ".join(f"'{word}'" for word in words)
    output = start.deployment.shell(f"{variables} {program.replace('server', 'fit-params')} {quoted} 2>/dev/null")
    rows = [line.split() for line in output.splitlines() if line.startswith(("CUDA", "Host"))]
    return tuple(
        DeviceMemory(name=name, model_mib=int(model), context_mib=int(context), compute_mib=int(compute))
        for name, model, context, compute in rows
    )


def log_of_this_start(deployment: Deployment) -> list[str]:
    return deployment.shell(
        "journalctl --sync; journalctl -o cat --no-pager "
        f"_SYSTEMD_INVOCATION_ID=$(systemctl show {UNIT} -p InvocationID --value)"
    ).splitlines()


def test_the_memory_of_a_start_is_compared_with_the_plan_and_no_key_is_logged(start: Start) -> None:
    box = start.deployment
    box.shell(f"install -d -m 700 /etc/llamarig/keys; umask 077; echo sesame-{'x' * 32}-last >{KEY_FILE}")
    result = start.with_cards(900, 900, api_key_file=KEY_FILE).switch()
    assert f"it took what was predicted, within {TOLERANCE_MIB} MiB per GPU: CUDA0 " in result, result
    assert f"predicted {start.total(0)}; CUDA1 " in result
    lines = log_of_this_start(box)
    log = read_log(lines)
    for gpu in start.plan.gpus:
        assert abs(log.memory[gpu.name].total - gpu.total_mib) <= TOLERANCE_MIB
    assert {line for line in lines if "api_keys" in line} == set(), (
        "the log has a line with the API keys, of which llama-server logs the last characters at this level"
    )
    assert box.shell(f"journalctl -o cat --no-pager | grep -c -e '-last$' -e sesame; test -e {KEY_FILE}") == "0"
    assert box.shell(f"ls -d /run/systemd/system/{UNIT}.d 2>/dev/null; true") == "", "the verbose log level was left on"
    box.shell(f"systemctl restart {UNIT}")
    wait_for(lambda: "model loaded" in "".join(log_of_this_start(box)), "the next start")
    assert read_log(log_of_this_start(box)).memory == {}


def test_a_card_with_less_free_memory_than_planned_serves_a_step_down(start: Start) -> None:
    """Another process has taken memory of the first card since the plan was made."""
    less = start.with_cards(start.total(0) - 1, 900)
    result = less.switch()
    assert result.startswith("done: "), result
    assert re.search(r"GPU memory was short \(CUDA0 lacks \d+ MiB: ", result), result
    assert "cudaMalloc failed: out of memory (simulated)), so it serves with " in result
    back_off = less.back_off()
    assert back_off is not None
    missing = back_off.taken.missing_mib
    assert list(missing) == ["CUDA0"]
    assert missing["CUDA0"] >= 3, "the failed allocation and the margin, less what was free"
    assert chat(start.deployment.address, "With less?")
    proposed = with_back_off(less.plan, back_off, less.rendered(PLACEMENT).text)
    assert effective_placement(proposed).gpu[0] < 2
    assert effective_placement(proposed).gpu[1] == 1, "the other card keeps its planned layers"
    assert (
        start.deployment.shell(f"cat /etc/systemd/system/{UNIT}")
        == less.rendered(effective_placement(proposed)).text.strip()
    )
    # The proposal is served from now on; no further step down is taken.
    again = replace(less, plan=proposed)
    assert again.plan.proposals[0].missing_mib == (missing["CUDA0"], 0)
    assert start_plan(again.plan, again.weights, again.rendered).predicted_mib is None


def test_a_shortage_that_no_step_down_fixes_restores_the_old_model(start: Start) -> None:
    before = start.deployment.shell(f"cat /etc/systemd/system/{UNIT}")
    result = start.with_cards(900, 3).switch()
    assert result.startswith("failed: "), result
    assert "GPU memory is short (CUDA1 lacks " in result
    assert "and there is no step down" in result
    assert "llamarig-tiny.service serves again as before" in result
    assert start.deployment.shell(f"cat /etc/systemd/system/{UNIT}") == before
    assert start.deployment.shell(f"ls -d /run/systemd/system/{UNIT}.d 2>/dev/null; true") == ""


def test_the_number_of_steps_down_is_limited(start: Start) -> None:
    """Every step fails, because it frees a hundredth of what the wrong layer weights promise."""
    overstated = tuple({kind: 100 * mib for kind, mib in layer.items()} for layer in start.weights.experts)
    wrong = replace(start.with_cards(5, 900), weights=replace(start.weights, experts=overstated))
    result = wrong.switch(most_back_offs=1)
    assert result.startswith("failed: "), result
    assert "after 1 step down" in result
    assert result.count("cudaMalloc failed") == 2
    assert "serves again as before" in result


def test_a_server_that_takes_its_margin_steps_down(start: Start) -> None:
    """The prediction is 8 MiB too low, and the card has 2 MiB more than the server takes instead of the margin of 7."""
    wrong = start.with_cards(start.total(0) + 2, 900)
    triple = tuple({kind: 3 * mib for kind, mib in layer.items()} for layer in start.weights.experts)
    predicted = {"CUDA0": start.total(0) - 8, "CUDA1": start.total(1)}
    wrong = replace(wrong, weights=replace(start.weights, experts=triple))
    result = wrong.switch(predicted_mib=predicted, margins_mib={"CUDA0": 7, "CUDA1": 2}, tolerance_mib=4)
    assert result.startswith("done: "), result
    assert "CUDA0 lacks " in result
    assert "it took more than predicted" in result
    assert "so it serves with " in result
    assert chat(start.deployment.address, "Still well?")


def test_a_deploy_that_steps_down_writes_a_proposal_and_the_next_changes_nothing(
    start: Start, deployment: Deployment
) -> None:
    """auto() plans for two cards, of which the first has less free memory when the server starts."""
    variant = deployment.variant(start.deployment.directory / "auto")
    variant.rig["plan_file"] = str(variant.directory / "plans.json")
    variant.rig["bench_ledger"] = str(variant.directory / "bench.jsonl")
    serve = variant.rig["models"][0]["serve"]
    free = (start.total(0) + 2, 17)
    cards = [SimulatedGpu(name=f"card {n}", total_mib=1000, free_mib=mib) for n, mib in enumerate(free)]
    less = (cards[0].model_copy(update={"free_mib": free[0] - 4}), cards[1])
    variant.rig["simulated_gpus"] = [card.model_dump(mode="json") for card in cards]
    serve["placement"] = {"kind": "auto", "margin_mib": 1}
    environment = simulation_environment(less, simulation_library(start.rig.builds[0]))
    serve["environment"] = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    serve["readable_paths"] = [layout.SIMULATED]
    outcome = variant.run()
    assert outcome.code == 0, str(outcome)
    output = " ".join(outcome.output.split())
    assert "GPU memory was short (CUDA0 lacks " in output
    assert f"written into {variant.rig['plan_file']} as a proposal: commit it" in output
    plan = read_plan_file(variant.rig["plan_file"]).boxes["rehearsal-box"]["tiny"]
    assert len(plan.proposals) == 1
    assert (
        sum(effective_placement(plan).gpu) < sum(plan.placement.gpu)
        or effective_placement(plan).partial != plan.placement.partial
    )
    assert chat(deployment.address, "By a plan?")
    second = variant.run()
    assert second.changed == [], str(second)
    assert variant.run("--data", "only=llama.units,llama.environment", script="tasks/audit.py").code == 0
    # If the control machine fails before it writes, the next deploy reads the step down from the start record.
    record_plan(variant.rig["plan_file"], "rehearsal-box", "tiny", plan.model_copy(update={"proposals": ()}))
    third = variant.run()
    assert third.changed == ["Models served"], str(third)
    assert read_plan_file(variant.rig["plan_file"]).boxes["rehearsal-box"]["tiny"] == plan
    assert variant.run().changed == []
    # Once the model has been timed, a plan predicts its speed and names the number of runs. On simulated cards, which
    # compute nothing, the speed itself has no meaning.
    shown = variant.run(script="tasks/plan.py")
    assert "tokens/s" not in shown.output, "a speed was predicted without a timing"
    timed = variant.run(*("--data", "runs=1", "--data", "depth=64", "--data", "generate=16"), script="tasks/bench.py")
    assert timed.code == 0, str(timed)
    shown = variant.run(script="tasks/plan.py")
    assert shown.code == 0, str(shown)
    assert "this plan: " in shown.output
    assert "calibrated on 1 run: " in shown.output
    assert "served with " in shown.output, "the report lacks the proposal"


def test_a_dry_run_predicts_the_logged_buffers_of_a_server_on_the_cpu(deployment: Deployment) -> None:
    """Compares the log of a second server with the rehearsal's flags with the output of its dry run."""
    argv = deployment.shell("tr '\\0' '\\n' </proc/$(systemctl show llamarig-tiny -p MainPID --value)/cmdline").split(
        "\n"
    )
    words = argv[:]
    words[words.index("--port") + 1] = str(deployment.box.port + 17)
    line = shlex.join(words)
    deployment.shell(
        f"LLAMA_ARG_LOG_VERBOSITY=4 {line} >/run/cpu-start.log 2>&1 & pid=$!; "
        "for i in $(seq 300); do grep -q 'model loaded' /run/cpu-start.log && break; sleep 0.2; done; "
        "kill $pid; wait $pid; true",
        timeout=120,
    )
    log = read_log(deployment.shell("cat /run/cpu-start.log").splitlines())
    dry = [words[0].replace("server", "fit-params"), *words[1:3], *memory_arguments(words), "--fit-print", "on"]
    output = deployment.shell(f"{shlex.join(dry)} 2>/dev/null").split()
    assert output[0] == "Host"
    assert log.memory.keys() == {"CPU"}
    took = log.memory["CPU"]
    assert [int(took.model), int(took.context), int(took.compute)] == [int(mib) for mib in output[1:4]]

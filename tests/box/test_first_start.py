"""A planned model's first start, on simulated cards: memory is compared with the plan, and a shortage is a step down.

The server is the real one, and so are its log, its failures and the switch. The cards are the stand-in that dry runs
use (remote/build/simulated_gpu.cpp): they count memory, refuse what they have not, and compute nothing.
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
from llamarig.facts.start_records import BackOffs
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
from llamarig.remote.shared.jobs import BackOff
from llamarig.remote.shared.server_log import TOLERANCE_MIB, read_log
from llamarig.render.model_paths import model_files, target
from llamarig.render.release import release_path

from tests.box.deployment import Deployment, wait_for
from tests.box.rehearse import chat
from tests.render.golden_units import PINNED

pytestmark = pytest.mark.box

UNIT = "llamarig-tiny.service"
JOB = "/var/lib/llamarig/jobs/switch-tiny"
KEY_FILE = "/etc/llamarig/keys/api"
# Of the rehearsal's four layers three lie on the first card, of which two keep their experts there.
PLACEMENT = Layers(gpu=(2, 1), split=(3, 2))
NOTHING = RamBudget(weights_mib=0, buffers_mib=0, cache_mib=0, checkpoints_mib=0, reserve_mib=0, available_mib=0)


@dataclass(frozen=True)
class Start:
    """Everything a switch of the rehearsal's model to simulated cards is made from."""

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
            inputs_written=0,
            model_bytes=1 << 24,
            running=True,
        )

    def with_cards(self, *free_mib: int, **serve: Any) -> Start:
        """The same on cards with so much free."""
        cards = tuple(SimulatedGpu(name=f"card {n}", total_mib=1000, free_mib=mib) for n, mib in enumerate(free_mib))
        environment = simulation_environment(cards, simulation_library(self.rig.builds[0]))
        (model,) = self.rig.models
        served = model.serve.model_copy(update={"environment": environment, **serve})
        return replace(self, rig=self.rig.model_copy(update={"models": (model.model_copy(update={"serve": served}),)}))

    def switch(self, **plan: Any) -> str:
        """Have the box switch as a deploy does; returns its last message. Fields of the plan may be overridden."""
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

    def off(self) -> BackOff | None:
        """The step down that the box's proof records."""
        return BackOffs().process(self.deployment.shell(BackOffs().command()).splitlines()).get(UNIT)


@pytest.fixture(scope="module")
def ground(first_run: tuple[Deployment, object], tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The box with the simulated cards of its release."""
    variant = first_run[0].variant(tmp_path_factory.mktemp("first-start"))
    outcome = variant.run(script="tests/box/planning_ground.py")
    assert outcome.code == 0, str(outcome)
    return variant


@pytest.fixture
def start(ground: Deployment, deployment: Deployment) -> Iterator[Start]:
    """A plan as a dry run of the release made it, and afterwards the box as it was."""
    rig = Rig.model_validate(ground.rig)
    locked = locked_models(rig)
    assert locked is not None
    paths = [ground.box.root / target(locked[0], shard).lstrip("/") for shard in locked[0].shards]
    shards = [read_whole_header(path)[1] for path in paths]
    header = combined_header(shards)
    nothing = Plan(
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
        ram=NOTHING,
    )
    made = Start(ground, rig, layer_weights(header), nothing).with_cards(900, 900)
    memory = dry_run(made)
    yield replace(made, plan=nothing.model_copy(update={"memory": memory}))
    deployment.shell(f"rm -rf {KEY_FILE}")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def dry_run(start: Start) -> tuple[DeviceMemory, ...]:
    """MiB a device, as the release's own llama-fit-params prints them for the unit's flags."""
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


def test_what_a_start_took_is_compared_and_no_key_is_logged(start: Start) -> None:
    box = start.deployment
    box.shell(f"install -d -m 700 /etc/llamarig/keys; umask 077; echo sesame-{'x' * 32}-last >{KEY_FILE}")
    ended = start.with_cards(900, 900, api_key_file=KEY_FILE).switch()
    assert f"it took what was predicted, within {TOLERANCE_MIB} MiB per GPU: CUDA0 " in ended, ended
    assert f"predicted {start.total(0)}; CUDA1 " in ended
    lines = log_of_this_start(box)
    log = read_log(lines)
    for gpu in start.plan.gpus:
        assert abs(log.memory[gpu.name].total - gpu.total_mib) <= TOLERANCE_MIB
    assert {line for line in lines if "api_keys" in line} == set(), "llama-server logs the end of its key at this level"
    assert box.shell(f"journalctl -o cat --no-pager | grep -c -e '-last$' -e sesame; test -e {KEY_FILE}") == "0"
    assert box.shell(f"ls -d /run/systemd/system/{UNIT}.d 2>/dev/null; true") == "", "for one start alone"
    box.shell(f"systemctl restart {UNIT}")
    wait_for(lambda: "model loaded" in "".join(log_of_this_start(box)), "the next start")
    assert read_log(log_of_this_start(box)).memory == {}


def test_a_card_with_less_than_planned_serves_a_step_down(start: Start) -> None:
    """Somebody else took memory of the first card since the plan was made."""
    less = start.with_cards(start.total(0) - 1, 900)
    ended = less.switch()
    assert ended.startswith("done: "), ended
    assert re.search(r"GPU memory was short \(CUDA0 lacks \d+ MiB: ", ended), ended
    assert "cudaMalloc failed: out of memory (simulated)), so it serves with " in ended
    off = less.off()
    assert off is not None
    assert list(off.missing_mib) == ["CUDA0"]
    assert off.missing_mib["CUDA0"] >= 3, "what it wanted and the margin, less what was free"
    assert chat(start.deployment.address, "With less?")
    proposed = with_back_off(less.plan, off, less.rendered(PLACEMENT).text)
    assert effective_placement(proposed).gpu[0] < 2
    assert effective_placement(proposed).gpu[1] == 1, "the other card has all it was planned to have"
    assert (
        start.deployment.shell(f"cat /etc/systemd/system/{UNIT}")
        == less.rendered(effective_placement(proposed)).text.strip()
    )
    # What serves now is switched to as it is from here on, and takes no further step.
    again = replace(less, plan=proposed)
    assert again.plan.proposals[0].missing_mib == (off.missing_mib["CUDA0"], 0)
    assert start_plan(again.plan, again.weights, again.rendered).predicted_mib is None


def test_a_card_with_nothing_left_gets_the_old_model_back(start: Start) -> None:
    before = start.deployment.shell(f"cat /etc/systemd/system/{UNIT}")
    ended = start.with_cards(900, 3).switch()
    assert ended.startswith("failed: "), ended
    assert "GPU memory is short (CUDA1 lacks " in ended
    assert "and there is no step down" in ended
    assert "llamarig-tiny.service serves again as before" in ended
    assert start.deployment.shell(f"cat /etc/systemd/system/{UNIT}") == before
    assert start.deployment.shell(f"ls -d /run/systemd/system/{UNIT}.d 2>/dev/null; true") == ""


def test_it_steps_down_a_few_times_and_not_for_ever(start: Start) -> None:
    """Steps that free a hundredth of what they say: every one of them fails as well."""
    more = tuple({kind: 100 * mib for kind, mib in layer.items()} for layer in start.weights.experts)
    wrong = replace(start.with_cards(5, 900), weights=replace(start.weights, experts=more))
    ended = wrong.switch(most_back_offs=1)
    assert ended.startswith("failed: "), ended
    assert "after 1 step down" in ended
    assert ended.count("cudaMalloc failed") == 2
    assert "serves again as before" in ended


def test_more_than_predicted_is_backed_off_when_it_costs_the_margin(start: Start) -> None:
    """A prediction that is 8 MiB too low, on a card with little more than the server takes: 7 MiB were to stay free."""
    wrong = start.with_cards(start.total(0) + 2, 900)
    triple = tuple({kind: 3 * mib for kind, mib in layer.items()} for layer in start.weights.experts)
    predicted = {"CUDA0": start.total(0) - 8, "CUDA1": start.total(1)}
    wrong = replace(wrong, weights=replace(start.weights, experts=triple))
    ended = wrong.switch(predicted_mib=predicted, margins_mib={"CUDA0": 7, "CUDA1": 2}, tolerance_mib=4)
    assert ended.startswith("done: "), ended
    assert "CUDA0 lacks " in ended
    assert "it took more than predicted" in ended
    assert "so it serves with " in ended
    assert chat(start.deployment.address, "Still well?")


def test_a_deploy_by_plan_backs_off_writes_a_proposal_and_then_changes_nothing(
    start: Start, deployment: Deployment
) -> None:
    """auto() planned for two cards; when it is started, the first one has less free than when it was planned."""
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
    # The control machine may fail before it writes: the next deploy reads the step down from the box's proof.
    record_plan(variant.rig["plan_file"], "rehearsal-box", "tiny", plan.model_copy(update={"proposals": ()}))
    third = variant.run()
    assert third.changed == ["Models served"], str(third)
    assert read_plan_file(variant.rig["plan_file"]).boxes["rehearsal-box"]["tiny"] == plan
    assert variant.run().changed == []
    # Once the model is timed, a plan predicts its speed, and on how many runs. (These cards compute nothing.)
    shown = variant.run(script="tasks/plan.py")
    assert "tokens/s" not in shown.output, "nothing was measured, so nothing is predicted"
    timed = variant.run(*("--data", "runs=1", "--data", "depth=64", "--data", "generate=16"), script="tasks/bench.py")
    assert timed.code == 0, str(timed)
    shown = variant.run(script="tasks/plan.py")
    assert shown.code == 0, str(shown)
    assert "this plan: " in shown.output
    assert "calibrated on 1 run: " in shown.output
    assert "served with " in shown.output, "the proposal is not forgotten"


def test_buffers_of_a_server_on_the_cpu_are_as_predicted(deployment: Deployment) -> None:
    """The rehearsal's own server, a second time beside itself: what it logs, and what its dry run prints."""
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

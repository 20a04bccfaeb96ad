"""What a survey proposes for twenty kinds of hardware: the text of the file, that it is a rig, and that it deploys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.item import Item, Query, Seen
from llamarig.facts.display_cards import DisplayCards
from llamarig.facts.gpus import Gpus
from llamarig.facts.ram import MemoryModules
from llamarig.items.all_items import ITEMS
from llamarig.survey.group_file import FileHead, file_text
from llamarig.survey.hardware import Hardware
from llamarig.survey.propose import proposal
from llamarig.survey.words import engine_words
from pyinfra.facts.files import File

from tests.items.converged_box import FILE_FOUND, control_machine
from tests.survey.golden import HERE, block, surveyed, written
from tests.survey.hardware import BOXES, Answers, bus, card, hardware, hardware_of, nvidia, value

EACH = pytest.mark.parametrize("name", BOXES)
BACKENDS = {"p40": "vulkan", "old_driver": "vulkan", "rx7900xt": "vulkan", "arc_a770": "vulkan", "strix_halo": "vulkan"}
ON_THE_PROCESSOR = ("no_driver_unknown", "intel_graphics", "cpu_only", "wsl2")


def executed(text: str) -> dict[str, Any]:
    """The rig of a file's text, as pyinfra gets it."""
    names: dict[str, Any] = {}
    exec(compile(text, "group_data/box.py", "exec"), names)
    rig: dict[str, Any] = names["rig"]
    return rig


def uncommented(text: str, first: str) -> str:
    """The file with one commented declaration taken into it: that whose first line is ``first``."""
    lines = text.splitlines()
    begin = lines.index(f"        # {first}")
    end = next(number for number in range(begin, len(lines)) if lines[number] == "        # ),")
    for number in range(begin, end + 1):
        lines[number] = lines[number].replace("# ", "", 1)
    return "\n".join(lines)


@EACH
def test_the_file_is_the_reviewed_one(name: str) -> None:
    path = HERE / f"{name}.py"
    assert written(name) == (path.read_text() if path.exists() else ""), (
        "review the difference, then record it: .venv/bin/python -m tests.survey.golden"
    )


def test_the_closing_blocks_are_the_reviewed_ones() -> None:
    assert "".join(map(block, BOXES)) == (HERE / "blocks.txt").read_text()


def test_no_reviewed_file_is_left_over() -> None:
    assert {path.stem for path in HERE.glob("*.py")} == set(BOXES)


@EACH
def test_the_file_is_a_rig_without_models(name: str) -> None:
    rig = Rig.model_validate(executed(written(name)))
    assert rig.models == ()
    backend = BACKENDS.get(name, "cpu" if name in ON_THE_PROCESSOR else "cuda")
    assert rig.builds[0].backend == backend


@EACH
def test_the_example_is_a_model_of_that_rig(name: str) -> None:
    rig = Rig.model_validate(executed(uncommented(written(name), "d.model(")))
    assert [model.name for model in rig.models] == ["qwen3-30b-a3b"]
    assert (rig.models[0].serve.placement.kind == "cpu-only") == (rig.builds[0].backend == "cpu")


@pytest.mark.parametrize("name", ["p40", "old_driver"])
def test_the_build_for_later_is_one(name: str) -> None:
    rig = Rig.model_validate(executed(uncommented(written(name), "d.build(")))
    assert [build.backend for build in rig.builds] == ["vulkan", "cuda"]


@EACH
def test_no_item_of_a_deploy_refuses_it(name: str) -> None:
    """By the comparisons of a deploy, with what the box has answered; what it did not answer is as on a fresh box."""
    answers = BOXES[name]
    rig = Rig.model_validate(executed(written(name)))
    here = control_machine(rig)
    differing: set[type[Item]] = set()
    compared = 0
    for item in ITEMS:
        if any(need in differing for need in item.needs):
            differing.add(type(item))
            continue
        seen = Seen("box", here, {each: _answered(each, answers) for each in item.queries(rig, here)})
        found = item.differences(rig, seen)
        assert [each.refusal for each in found if not each.by_deploy and each.stops_deploy] == [], item.name
        if found:
            differing.add(type(item))
        compared += 1
    assert compared > 10


def _answered(requested: Query[Any], answers: Answers) -> Any:
    """A fact of the box, which has apt."""
    apt = Query(File, {"path": "/usr/bin/apt-get"})
    return (
        File().process(FILE_FOUND.format(path=apt.arguments["path"]).splitlines())
        if requested == apt
        else value(requested, answers)
    )


def test_a_refusal_would_be_seen() -> None:
    """The declaration of one box on another: a 3090's on that with the old driver."""
    rig = Rig.model_validate(executed(written("rtx3090")))
    here = control_machine(rig)
    item = next(item for item in ITEMS if item.name == "Graphics cards and builds")
    seen = Seen("box", here, {each: value(each, BOXES["old_driver"]) for each in item.queries(rig, here)})
    assert "580 or newer" in item.differences(rig, seen)[0].refusal


# --- cards ------------------------------------------------------------------------------------------------------------


def with_cards(*lines: str) -> Hardware:
    return hardware_of({**BOXES["rtx3090"], Gpus: nvidia(*lines)})


@pytest.mark.parametrize(
    ("lines", "order"),
    [
        ([card(0, "NVIDIA GeForce RTX 4070", 12282, "8.9"), card(1, "NVIDIA GeForce RTX 3090", 24576, "8.6")], [1, 0]),
        ([card(0, "NVIDIA GeForce RTX 3090", 24576, "8.6"), card(1, "NVIDIA GeForce RTX 4090", 24564, "8.9")], [1, 0]),
        (
            [
                card(0, "NVIDIA GeForce RTX 3090", 24576, "8.6", display=True),
                card(1, "NVIDIA GeForce RTX 3090", 24576, "8.6"),
            ],
            [1, 0],
        ),
        (
            [
                card(0, "NVIDIA GeForce RTX 3060", 12288, "8.6", watts=170),
                card(1, "NVIDIA GeForce RTX 3080 Ti", 12288, "8.6", watts=350),
            ],
            [1, 0],
        ),
    ],
    ids=["the larger first", "then the newer", "of equal ones without a display", "then the one with more power"],
)
def test_the_best_card_is_first_and_models_name_them_by_uuid(lines: list[str], order: list[int]) -> None:
    found = proposal(with_cards(*lines))
    assert [each.index for each in found.cards] == order
    text = file_text(found, FileHead("x", ("box.lan",)))
    uuids = re.search(r"gpus=\((\"GPU-.*?)\),", text)
    assert uuids is not None
    assert [int(uuid[5]) for uuid in uuids[1].split(", ")] == order
    # The audit compares host.gpus in nvidia-smi's order.
    assert [int(uuid[4]) for uuid in re.findall(r"uuid=\"(GPU-.)", text)] == [0, 1]


def test_a_card_that_an_older_generation_holds_back_serves_alone() -> None:
    found = proposal(hardware("p40_beside_rtx3090"))
    assert ([each.name for each in found.cards], [each.name for each in found.unused]) == (["RTX 3090"], ["Tesla P40"])
    assert found.builds[0].architectures == ("86-real",)


@pytest.mark.parametrize(
    ("line", "declared"),
    [
        ("0000:01:00.0|0x10de|0x1f82|nouveau|0|TU117 [GeForce GTX 1650]", ["GTX 1650"]),
        ("0000:01:00.0|0x10de|0x2182|nouveau|0|TU116 [GeForce GTX 1660 Ti / 1660 SUPER]", []),
        ("0000:01:00.0|0x1002|0x67df|amdgpu|0|Ellesmere [Radeon RX 470/480/570/570X/580/580X/590]", []),
        ("0000:01:00.0|0x1002|0x744c|amdgpu|0|Navi 31 [Radeon RX 7900 XT/7900 XTX]", ["Navi 31"]),
    ],
)
def test_only_a_name_that_the_audit_will_find_is_declared(line: str, declared: list[str]) -> None:
    """Of a name for several cards, the driver will tell another one."""
    found = hardware_of({**BOXES["no_driver_debian"], DisplayCards: bus(line)})
    rig = Rig.model_validate(executed(file_text(proposal(found), FileHead("x", ("box.lan",)))))
    assert [each.name for each in rig.host.gpus] == declared


def test_a_display_gets_its_margin() -> None:
    one, _ = surveyed("rtx4090_rtx5070ti")
    assert "placement=d.auto(per_gpu=(384, 1024))" in written("rtx4090_rtx5070ti")
    assert [each.display for each in one.proposal.cards] == [False, True]


# --- toolkits and drivers ---------------------------------------------------------------------------------------------


def test_a_toolkit_of_the_owners_serves_an_old_card() -> None:
    found = hardware("p40_with_cuda_12")
    assert engine_words(found, proposal(found)) == "CUDA 12.4 of /usr"


def test_the_driver_is_declared_where_the_distribution_offers_one() -> None:
    assert proposal(hardware("no_driver_ubuntu")).nvidia_driver == d.nvidia_driver(series="580-server")
    assert proposal(hardware("no_driver_debian")).nvidia_driver is None
    assert "install driver 580 or newer yourself" in "".join(proposal(hardware("no_driver_debian")).remarks)


def test_a_driver_that_is_broken_is_not_installed_again() -> None:
    """Module and library differ: a restart is what it needs."""
    broken = "== nvidia\nFailed to initialize NVML: Driver/library version mismatch\n== module\n580.95.05\n"
    found = proposal(hardware_of({**BOXES["no_driver_ubuntu"], Gpus: broken}))
    assert found.nvidia_driver is None
    assert "restart the box" in found.remarks[0]
    assert found.builds[0].architectures == ("86-real",)


# --- the machine ------------------------------------------------------------------------------------------------------


def test_the_ram_speed_is_declared_only_where_it_is_known() -> None:
    assert proposal(hardware("rtx3090")).memory_mts == 3200
    slow = proposal(hardware("rtx3090_x2"))
    assert (slow.memory_mts, slow.remarks) == (
        6000,
        ("RAM runs at 4400 MT/s, and is rated 6000: switch XMP or EXPO on in the BIOS",),
    )
    assert proposal(hardware("wsl2")).memory_mts is None


@pytest.mark.parametrize("dump", sorted((Path(__file__).parents[1] / "facts/data/dmidecode").glob("*.txt")), ids=str)
def test_every_dump_of_ram_modules_gives_a_file(dump: Path) -> None:
    """Real boxes' modules: part numbers with anything in them, and speeds that are none."""
    found = proposal(hardware_of({**BOXES["rtx3090"], MemoryModules: dump.read_text()}))
    text = file_text(found, FileHead("x", ("box.lan",)))
    assert Rig.model_validate(executed(text)).host.memory_mts == found.memory_mts
    assert max(map(len, text.splitlines())) <= 120


def test_fast_cores_of_hybrid_processors() -> None:
    intel, arm, plain = (proposal(hardware(name)) for name in ("rtx4060ti", "gb10", "rtx3090"))
    assert (intel.threads, intel.cpu_affinity) == (6, "0-11")
    assert (arm.threads, arm.cpu_affinity) == (10, "5-9,15-19")
    assert (plain.threads, plain.cpu_affinity) == (None, None)


def test_a_small_disk_names_the_larger_one() -> None:
    assert proposal(hardware("gtx1660")).remarks == (
        "only 42 GiB are free for models, and /srv/data has 1500 GiB free (see the file)",
    )


# --- texts of a box ---------------------------------------------------------------------------------------------------


def test_text_of_a_box_stays_in_its_comment_or_string() -> None:
    """Names come from the box, and end in a file that is executed here."""
    name = '"""\\"); import os; os.abort() # \x1b]0;\u202e'
    found = hardware_of({**BOXES["rtx3090"], Gpus: nvidia(card(0, name.replace(",", ""), 24576, "8.6"))})
    box = proposal(found)
    text = file_text(box, FileHead(name, (name,)))
    assert [line for line in text.splitlines() if not line.isprintable()] == []
    assert Rig.model_validate(executed(text)).host.gpus[0].name.startswith('"""')

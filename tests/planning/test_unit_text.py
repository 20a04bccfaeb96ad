"""The unit of every profile, to the letter, and what each line of it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.planning.box import Box
from tasks.planning.flags import ModelFiles
from tasks.planning.lints.lint_model import lint_model
from tasks.planning.serving import Unit, Wanted, unit_differences, wanted_unit
from tasks.planning.unit_text import load_timeout
from tasks.spec.model import Model
from tasks.spec.rig import Rig
from tests.planning.golden_units import GOLDEN, PINNED, SIZES, rigs, units

PROFILES = [pytest.param(name, wanted, id=name) for name, wanted in units()]
UUIDS = (
    "GPU-11111111-2222-3333-4444-555555555555",
    "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
)


@pytest.mark.parametrize(("name", "wanted"), PROFILES)
def test_unit_of_every_profile(name: str, wanted: Wanted) -> None:
    assert wanted.text == (GOLDEN / f"{name}.service").read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {param.id for param in PROFILES}


def rig(build: dict[str, object] | None = None, **serve: object) -> Rig:
    cuda = {"name": "b", "backend": "cuda", "architectures": ["89-real"], "cuda_toolkit": "13.0"}
    model = {
        "name": "m",
        "repo": "o/r",
        "quant": "Q4_K_M",
        "build": "b",
        "serve": {"port": 1, "context": 4096, **serve},
    }
    return Rig.model_validate({"builds": [build or cuda], "models": [model]})


def lines(declared: Rig, model_bytes: int = 10**9) -> list[str]:
    wanted = wanted_unit(
        declared,
        declared.models[0],
        release="/r",
        flags=PINNED,
        files=ModelFiles("/m.gguf"),
        inputs_written=0,
        model_bytes=model_bytes,
        running=True,
    )
    return wanted.text.splitlines()


def test_gpus_are_seen_by_uuid_in_the_declared_order() -> None:
    said = lines(rig(gpus=UUIDS))
    assert f"Environment=CUDA_VISIBLE_DEVICES={UUIDS[0]},{UUIDS[1]}" in said
    assert "Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID" in said
    assert not any("CUDA_VISIBLE_DEVICES" in line for line in lines(rig()))


def test_only_a_unit_with_nvidia_gpus_waits_for_their_memory() -> None:
    assert any(line.startswith("ExecStartPre=-") and "wait_for_vram" in line for line in lines(rig()))
    assert not any("ExecStartPre" in line for line in lines(rig({"name": "b", "backend": "cpu"})))
    assert not any("ExecStartPre" in line for line in lines(rig(placement={"kind": "cpu-only"})))


def test_memory_limit_only_where_declared() -> None:
    assert {"MemoryMax=50000M", "MemorySwapMax=0"} <= set(lines(rig(memory_max_mib=50000)))
    assert not any(line.startswith("Memory") and "Max" in line for line in lines(rig()))


def test_real_time_only_when_asked() -> None:
    assert "RestrictRealtime=yes" in lines(rig())
    assert {"LimitRTPRIO=90", "LimitNICE=-20"} <= set(lines(rig(priority=2)))
    assert "RestrictRealtime=yes" not in lines(rig(priority=2))


@pytest.mark.parametrize("gigabytes", [1, 20, 64])
def test_a_crash_after_the_longest_load_still_runs_into_the_start_limit(gigabytes: int) -> None:
    declared = rig()
    size = gigabytes * 10**9
    said = dict(line.split("=", 1) for line in lines(declared, size) if "=" in line and not line.startswith("#"))
    cycle = load_timeout(declared.models[0], size) + int(said["RestartSec"])
    assert int(said["StartLimitBurst"]) * cycle <= int(said["StartLimitIntervalSec"])


def test_load_timeout_is_from_the_size_unless_declared() -> None:
    assert load_timeout(rig().models[0], 64 * 10**9) == 120 + 640
    assert load_timeout(rig(load_timeout_s=50).models[0], 64 * 10**9) == 50


def test_a_flag_stands_on_a_line_of_its_own() -> None:
    said = lines(rig())
    assert "    --ctx-size 4096 \\" in said
    assert "    --model /m.gguf \\" in said


def test_a_new_key_asks_for_a_restart_and_not_for_another_unit() -> None:
    wanted = PROFILES[4].values[1]
    assert isinstance(wanted, Wanted)
    assert wanted.model.serve.api_key_file
    serving = Unit(text=wanted.text, active="active", arguments=wanted.arguments, started=100, written=50)
    (found,) = unit_differences(wanted, Unit(**{**vars(serving), "key_written": 101}))
    assert "key" in str(found)
    assert all(
        "key" not in str(item) for item in unit_differences(wanted, Unit(**{**vars(serving), "key_written": 99}))
    )


MODELS = [pytest.param(rig, model, id=f"{group}-{model.name}") for group, rig in rigs().items() for model in rig.models]


@pytest.mark.parametrize(("rig", "model"), MODELS)
def test_what_a_profile_is_warned_of_is_accepted_with_its_owners_reason(rig: Rig, model: Model) -> None:
    """On the boxes the owners describe, the only lints left are those of RAM: a fact, not a mistake."""
    box = Box(ram=64 << 30, cpus=frozenset(range(16)))
    said = lint_model(model, rig.build_of(model), box, SIZES[model.name], None)
    assert [str(lint) for lint in said] == []


def test_the_readme_tells_every_profile() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [model.name for rig in rigs().values() for model in rig.models if f"`{model.name}`" not in readme] == []


def test_pinned_weights_never_swap_where_the_driver_would_not_pin_them() -> None:
    layers = {"kind": "cpu-moe", "layers": 3}
    assert "MemorySwapMax=0" in lines(rig(placement=layers, load_mode="none"))
    assert "MemorySwapMax=0" in lines(rig(placement=layers, load_mode="mlock"))
    limited = lines(rig(placement=layers, load_mode="none", memory_max_mib=9000))
    assert [line for line in limited if line.startswith("Memory")] == ["MemoryMax=9000M", "MemorySwapMax=0"]
    assert "MemorySwapMax=0" not in lines(rig(placement=layers, load_mode="mmap"))
    cpu: dict[str, object] = {"name": "b", "backend": "cpu"}
    assert "MemorySwapMax=0" not in lines(rig(cpu, placement={"kind": "cpu-only"}, load_mode="none"))

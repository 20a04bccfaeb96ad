"""The unit of every profile compared with golden files, and tests of single directives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.facts.units import Unit
from llamarig.items.unit_differences import unit_differences
from llamarig.items.wanted_unit import Wanted, health_addresses, wanted_unit
from llamarig.lints.lint_model import lint_model
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.remote.shared.unit_directives import directives_sha256
from llamarig.render.server_arguments import ModelFiles
from llamarig.render.unit_text import load_timeout

from tests.render.golden_units import GOLDEN, PINNED, SIZES, rigs, units

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
        inputs="",
        model_bytes=model_bytes,
        running=True,
    )
    return wanted.text.splitlines()


def test_the_server_sees_gpus_by_uuid_in_the_declared_order() -> None:
    unit = lines(rig(gpus=UUIDS))
    assert f"Environment=CUDA_VISIBLE_DEVICES={UUIDS[0]},{UUIDS[1]}" in unit
    assert "Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID" in unit
    assert not any("CUDA_VISIBLE_DEVICES" in line for line in lines(rig()))


def test_only_a_unit_with_nvidia_gpus_waits_for_vram() -> None:
    assert any(line.startswith("ExecStartPre=-") and "wait_for_vram" in line for line in lines(rig()))
    assert not any("ExecStartPre" in line for line in lines(rig({"name": "b", "backend": "cpu"})))
    assert not any("ExecStartPre" in line for line in lines(rig(placement={"kind": "cpu-only"})))


def test_memory_limit_only_where_declared() -> None:
    assert {"MemoryMax=50000M", "MemorySwapMax=0"} <= set(lines(rig(memory_max_mib=50000)))
    assert not any(line.startswith("Memory") and "Max" in line for line in lines(rig()))


def test_real_time_only_where_declared() -> None:
    assert "RestrictRealtime=yes" in lines(rig())
    assert {"LimitRTPRIO=90", "LimitNICE=-20"} <= set(lines(rig(priority=2)))
    assert "RestrictRealtime=yes" not in lines(rig(priority=2))


@pytest.mark.parametrize("gigabytes", [1, 20, 64])
def test_the_start_limit_covers_crashes_after_the_longest_load(gigabytes: int) -> None:
    declared = rig()
    size = gigabytes * 10**9
    directives = dict(line.split("=", 1) for line in lines(declared, size) if "=" in line and not line.startswith("#"))
    cycle = load_timeout(declared.models[0], size) + int(directives["RestartSec"])
    assert int(directives["StartLimitBurst"]) * cycle <= int(directives["StartLimitIntervalSec"])


def test_load_timeout_depends_on_the_size_unless_declared() -> None:
    assert load_timeout(rig().models[0], 64 * 10**9) == 120 + 640
    assert load_timeout(rig(load_timeout_s=50).models[0], 64 * 10**9) == 50


def test_each_flag_is_on_its_own_line() -> None:
    unit = lines(rig())
    assert "    --ctx-size 4096 \\" in unit
    assert "    --model /m.gguf \\" in unit


def test_a_new_key_needs_a_restart_and_not_another_unit() -> None:
    wanted = PROFILES[4].values[1]
    assert isinstance(wanted, Wanted)
    assert wanted.model.serve.api_key_file
    (found,) = unit_differences(wanted, replace(serving(wanted), key="other"))
    assert found.found == "running with other contents of them"
    assert unit_differences(wanted, replace(serving(wanted), key="same")) == []
    assert unit_differences(wanted, serving(wanted)) == [], "an old systemd keeps its copy of the key out of sight"


def serving(wanted: Wanted) -> Unit:
    """The unit as it should be, with a server that checks its key."""
    return Unit(
        text=wanted.text,
        active="active",
        arguments=wanted.arguments,
        proved_directives_sha256=directives_sha256(wanted.text),
        health=200,
        status_without_key=401,
        status_with_key=200,
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"status_without_key": 200}, "a request without the API key to be refused with HTTP 401"),
        ({"status_without_key": 0}, "a request without the API key to be refused with HTTP 401"),
        ({"status_with_key": 401}, "the key in its key file to be accepted"),
    ],
)
def test_a_server_that_does_not_check_its_key_is_a_difference(change: dict[str, int], found: str) -> None:
    wanted = PROFILES[4].values[1]
    assert isinstance(wanted, Wanted)
    (difference,) = unit_differences(wanted, replace(serving(wanted), **change))  # type: ignore[arg-type]  # of int fields
    assert difference.expected == found
    assert unit_differences(wanted, replace(serving(wanted), **change, health=503)) == [], "it loads"  # type: ignore[arg-type]  # of int fields


def test_a_certificate_and_its_key_are_handed_over_as_credentials() -> None:
    """The key is bound nowhere into what the server sees."""
    files = {"tls_certificate_file": "/etc/tls/chain.pem", "tls_key_file": "/etc/tls/key.pem"}
    unit = lines(rig({"name": "b", "backend": "cpu", "tls": True}, **files))
    assert "LoadCredential=tls-certificate:/etc/tls/chain.pem" in unit
    assert "LoadCredential=tls-key:/etc/tls/key.pem" in unit
    assert not any(line.startswith("Bind") and "/etc/tls" in line for line in unit)
    wanted = health_addresses(rig({"name": "b", "backend": "cpu", "tls": True}, api_prefix="/a", **files))
    assert list(wanted.values()) == ["https://127.0.0.1:1/a/health"]


def test_only_a_unit_with_a_key_checks_its_key_file() -> None:
    checks = [line for line in lines(rig(api_key_file="/etc/k")) if "key_file.py" in line]
    assert checks == [
        "ExecStartPre=+/opt/llamarig/bin/python3 -I -B /opt/llamarig/lib/llamarig/remote/serve/key_file.py /etc/k"
    ]
    assert not any("key_file.py" in line for line in lines(rig()))


MODELS = [pytest.param(rig, model, id=f"{group}-{model.name}") for group, rig in rigs().items() for model in rig.models]


@pytest.mark.parametrize(("rig", "model"), MODELS)
def test_every_lint_of_a_profile_is_accepted_with_a_reason(rig: Rig, model: Model) -> None:
    """Without the lints of RAM, which depend on the box and not on the declaration."""
    box = BoxCapacity(ram=64 << 30, cpus=frozenset(range(16)))
    lints = lint_model(model, rig.build_of(model), box, SIZES[model.name], None)
    assert [str(lint) for lint in lints] == []


def test_the_readme_names_every_profile() -> None:
    readme = (Path(__file__).parents[2] / "group_data/README.md").read_text()
    assert [model.name for rig in rigs().values() for model in rig.models if f"`{model.name}`" not in readme] == []


def test_weights_that_the_driver_may_fail_to_pin_are_not_swapped() -> None:
    layers = {"kind": "cpu-moe", "layers": 3}
    assert "MemorySwapMax=0" in lines(rig(placement=layers, load_mode="none"))
    assert "MemorySwapMax=0" in lines(rig(placement=layers, load_mode="mlock"))
    limited = lines(rig(placement=layers, load_mode="none", memory_max_mib=9000))
    assert [line for line in limited if line.startswith("Memory")] == ["MemoryMax=9000M", "MemorySwapMax=0"]
    assert "MemorySwapMax=0" not in lines(rig(placement=layers, load_mode="mmap"))
    cpu: dict[str, object] = {"name": "b", "backend": "cpu"}
    assert "MemorySwapMax=0" not in lines(rig(cpu, placement={"kind": "cpu-only"}, load_mode="none"))

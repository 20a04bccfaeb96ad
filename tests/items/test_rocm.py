"""Versions of ROCm that llama.cpp's HIP backend can be compiled with."""

from __future__ import annotations

import re
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.facts.rocm import Rocm
from llamarig.items.packages import ROCM
from llamarig.items.rocm import RocmInstalled, rocm_refusal

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.package_managers import MANAGERS, package_replies


def test_the_hip_of_debian_13_is_too_old() -> None:
    refusal = rocm_refusal(Rocm(offered="5.7.1")) or ""
    for word in ("6.1 or newer", "HIP 5.7.1", "/opt/rocm", 'backend="vulkan"'):
        assert word in refusal


def test_the_version_of_amds_own_rocm_decides_where_it_is_installed() -> None:
    assert rocm_refusal(Rocm(own="7.1.0", offered="5.7.1")) is None
    assert "/opt/rocm is ROCm 5.4.2" in (rocm_refusal(Rocm(own="5.4.2")) or "")


@pytest.mark.parametrize("rocm", [Rocm(), Rocm(offered="6.1.0"), Rocm(offered="10.0")])
def test_an_unknown_or_new_version_is_accepted(rocm: Rocm) -> None:
    assert rocm_refusal(rocm) is None


def hip(backend: Any = "hip") -> Rig:
    build = d.build(name="b", backend=backend, architectures=("gfx1100",) if backend == "hip" else ())
    serve = d.serve(port=8080, context=4096)
    return Rig.model_validate(
        d.rig(builds=[build], models=[d.model(name="m", repo="o/r", quant="Q6", build="b", serve=serve)])
    )


def test_a_rocm_that_is_too_old_is_refused_before_it_is_installed(caplog: pytest.LogCaptureFixture) -> None:
    replies = {**package_replies("debian", []), "libamdhip64-dev": "== own\n\n== offered\n  Candidate: 5.7.1-6"}
    with pytest.raises(OperationFailedError) as failed:
        converged_commands([RocmInstalled()], hip(), replies)
    assert "6.1 or newer" in caplog.text
    assert not [command for command in failed.value.commands if "apt-get" in command and "install" in command]


def test_the_distributions_rocm_is_installed_where_amd_has_put_none() -> None:
    replies = {**package_replies("debian", []), "libamdhip64-dev": "== own\n\n== offered\n  Candidate: 6.4.3-2"}
    commands = converged_commands([RocmInstalled()], hip(), replies)
    (install,) = [command for command in commands if re.search(MANAGERS["debian"][3], command)]
    assert all(f" {name}" in install for name in ROCM["debian"])
    amd = {**package_replies("debian", []), "libamdhip64-dev": "== own\n7.1.0-20\n\n== offered\n"}
    commands = converged_commands([RocmInstalled()], hip(), amd)
    assert not [command for command in commands if re.search(MANAGERS["debian"][3], command)]


def test_without_a_hip_build_no_fact_is_read() -> None:
    assert converged_commands([RocmInstalled()], hip("cpu")) == []

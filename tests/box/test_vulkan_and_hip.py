"""Vulkan and HIP without their hardware: Debian has the packages, llama.cpp configures with them, a shader compiles.

tests/gpu/RESULTS.md has results of a complete Vulkan build that served with a software driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from llamarig.declare.build import Build
from llamarig.declare.rig import Rig
from llamarig.engine.jobs import job_text
from llamarig.items.packages import ROCM, wanted_packages
from llamarig.render.release import build_job

from tests.box.deployment import HOST, Deployment
from tests.box.refusals import refusal

pytestmark = pytest.mark.box

SCRIPT = "tests/box/deploy_toolchains.py"
# One compiled shader. Ninja compiles all shaders before any C++ object, so an object as target would take too long.
SHADER = "ggml/src/ggml-vulkan/argmax.comp.cpp"
COMPILE = """
cd /opt/llamarig/lib && python3 -B - <<'PYTHON'
import json, subprocess
from pathlib import Path
from llamarig.remote.build import build_release
from llamarig.remote.shared.job_status import Progress
from llamarig.remote.shared.jobs import BuildJob
job = BuildJob.from_json(json.load(open("/tmp/job.json")))
work = Path(job.work)
work.mkdir(parents=True, exist_ok=True)
progress = Progress(Path("/tmp"))
build_release.fetch_source(job.source, work / "source", Path(job.cache), progress)
build_release.configure(work / "source", work / "build", job, progress)
subprocess.run(["ninja", "-C", str(work / "build"), OBJECT], check=True, env=build_release.compiler_environment(job))
PYTHON
"""


def with_build(deployment: Deployment, **fields: object) -> Rig:
    """Declare a second build beside the one that serves; deploy_toolchains.py installs only its tools."""
    deployment.rig["builds"].append({**deployment.rig["builds"][0], **fields})
    return Rig.model_validate(deployment.rig)


@pytest.mark.parametrize("builder", [None, "another-box"], ids=["built here", "received"])
def test_debian_has_the_packages_for_vulkan(deployment: Deployment, builder: str | None) -> None:
    """Resolved with Debian's real index; nothing is installed."""
    rig = Rig.model_validate(deployment.rig)
    build = Build(name="vulkan", backend="vulkan", built_by=builder)
    simulate_install(deployment, wanted_packages(rig.model_copy(update={"builds": (build,)}), HOST)["debian"])


def test_the_hip_of_debian_is_refused_as_too_old_before_it_is_installed(variant: Deployment) -> None:
    """Debian 13 has HIP 5.7.1, a download of 790 MB."""
    simulate_install(variant, ROCM["debian"])
    with_build(variant, name="hip", backend="hip", architectures=["gfx1100"])
    outcome = variant.run(script=SCRIPT)
    refusal(outcome, "a hip build needs ROCm 6.1 or newer", "has HIP 5.7.1", "AMD's own packages", 'backend="vulkan"')
    assert outcome.changed == []


def simulate_install(deployment: Deployment, names: Sequence[str]) -> None:
    deployment.shell('test -n "$(ls /var/lib/apt/lists/*Packages* 2>/dev/null)" || apt-get update -qq', timeout=120)
    deployment.shell(f"apt-get install --simulate --no-install-recommends -- {' '.join(names)}", timeout=120)


def test_vulkan_configures_and_a_shader_compiles(variant: Deployment) -> None:
    rig = with_build(variant, name="vulkan", backend="vulkan")
    first = variant.run(script=SCRIPT)
    assert first.code == 0, str(first)
    assert variant.run(script=SCRIPT).changed == []
    job = build_job(rig.builds[1], rig.models)
    variant.write("/tmp/job.json", job_text(job))
    try:
        variant.shell(COMPILE.replace("OBJECT", repr(SHADER)), timeout=600)
        directory = f"{job.work}/build/{Path(SHADER).parent}"
        assert "argmax_f32_data" in variant.shell(f"cat {directory}/{Path(SHADER).name}")
        # SPIR-V's magic number in little-endian order.
        assert variant.shell(f"head -qc 4 {directory}/vulkan-shaders.spv/argmax_f32.spv | od -An -tx1") == "03 02 23 07"
    finally:
        variant.shell(f"rm -rf {job.work}")

"""CUDA from PyPI on a box without a GPU: toolkits side by side; llama.cpp configures and compiles a kernel with each.

Tests the oldest and the newest locked version. LLAMARIG_TEST_CUDA="13.1 13.2" chooses others (a download of 1.1 GB
each).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from llamarig.declare.build import CUDA_FROM_PYPI
from llamarig.declare.rig import Rig
from llamarig.engine.jobs import job_text
from llamarig.facts.compilers import CompilersFound
from llamarig.items.compilers import FROM_PYPI
from llamarig.render import layout
from llamarig.render.release import build_job

from tests.box import machine
from tests.box.audit_report import audit
from tests.box.deployment import Deployment
from tests.box.refusals import refusal
from tests.cuda_headers import limits_in_wheels

pytestmark = pytest.mark.box

VERSIONS = os.environ.get("LLAMARIG_TEST_CUDA", f"{CUDA_FROM_PYPI[0]} {CUDA_FROM_PYPI[-1]}").split()
OLDEST = VERSIONS[0]
GCC = "/usr/local/bin/gcc"
TOO_NEW = max(limits.newest_gcc or 0 for limits in FROM_PYPI.values()) + 1
GPU_CODES = Path(__file__).parents[1] / "facts/data/toolkits/gpu_codes.txt"
SCRIPT = "tests/box/deploy_toolchains.py"
HEADER = "include/crt/math_functions.h"
COMPILE = """
cd /opt/llamarig/lib && python3 -B - <<'PYTHON'
import json, sys
from pathlib import Path
from llamarig.remote.build import build_release, fatbin
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import BuildJob
sys.argv = ["", "/tmp/build"]
job = BuildJob.from_json(json.load(open("/tmp/job.json")))
work = Path(job.work)
work.mkdir(parents=True, exist_ok=True)
progress = Progress(Path("/tmp"))
build_release.fetch_source(job.source, work / "source", Path(job.cache), progress)
build_release.configure(work / "source", work / "build", job, progress)
toolkit = build_release.toolkit(job.cmake)
header = Path(toolkit["root"], HEADER)
original = header.read_text()
# Two exception specifiers of one function, as glibc 2.42 and CUDA 13.0 have of rsqrt.
header.write_text(original + "\\ndouble twice() noexcept;\\ndouble twice() noexcept(false);\\n")
refusal = ""
try:
    build_release.compile_first_object(work / "build", job, progress)
except JobFailedError as error:
    refusal = str(error)
finally:
    header.write_text(original)
build_release.compile_first_object(work / "build", job, progress)
(compiled,) = (work / "build").rglob("*.cu.o")
print(json.dumps({"architectures": fatbin.architectures(compiled), "toolkit": toolkit, "refusal": refusal}))
PYTHON
rm -rf $(python3 -c 'import json; print(json.load(open("/tmp/job.json"))["work"])')
"""


@pytest.fixture
def cuda(variant: Deployment) -> Deployment:
    """A variant with one CUDA build for each version."""
    variant.rig["builds"] += [
        {
            **variant.rig["builds"][0],
            "name": f"cuda-{version.replace('.', '-')}",
            "backend": "cuda",
            "architectures": ["89-real", "120a-real"],
            "cuda_toolkit": version,
        }
        for version in VERSIONS
    ]
    return variant


@pytest.fixture
def newer_compiler(cuda: Deployment) -> Iterator[Deployment]:
    """A box whose GCC reports a version that no toolkit supports. It is a wrapper: compiling still works."""
    cuda.write(GCC, f'#!/bin/sh\n[ "$*" = -dumpversion ] && echo {TOO_NEW} || exec /usr/bin/gcc "$@"\n')
    cuda.shell(f"chmod 755 {GCC}; rm -rf {layout.CUDA}")
    yield cuda
    cuda.shell(f"rm {GCC}")


def test_the_table_of_compilers_is_that_of_all_locked_wheels(tmp_path: Path) -> None:
    assert limits_in_wheels(tmp_path) == dict(FROM_PYPI)


def test_a_compiler_that_no_toolkit_supports_is_refused_before_anything_is_installed(
    newer_compiler: Deployment, tmp_path: Path
) -> None:
    refused = newer_compiler.run(script=SCRIPT)
    for version in VERSIONS:
        refusal(
            refused, f"CUDA {version} does not compile with", f"g++ {TOO_NEW}, expected", "CMAKE_CUDA_HOST_COMPILER"
        )
    assert newer_compiler.shell(f"ls {layout.CUDA} 2>/dev/null || true") == ""

    outcome, host = audit(newer_compiler, tmp_path / "report.json")
    # The refusal is reported, and the missing releases, which are its consequence, are not.
    refusals = [item for item in host["findings"] if item["check"] == "llama.toolkits"]
    assert len(refusals) == len(VERSIONS), str(outcome)
    for item in refusals:
        assert not item["by_deploy"]
        assert f"g++ {TOO_NEW}" in item["found"]
        assert "CMAKE_CUDA_HOST_COMPILER" in item["remedy"]
    assert [item for item in host["findings"] if item["check"] == "llama.release"] == []


def test_toolkits_are_installed_side_by_side_and_each_compiles_a_kernel(cuda: Deployment) -> None:
    cuda.shell("rm -rf /opt/llamarig/cuda")  # a kept box may have toolkits of an earlier run
    first = cuda.run(script=SCRIPT)
    assert first.code == 0, str(first)
    assert "CUDA toolkits" in first.changed
    assert "no nvidia-smi on this box" in first.output, "the missing driver was not reported"
    assert cuda.run(script=SCRIPT).changed == []

    roots = {version: f"{layout.CUDA}/{version}/root" for version in VERSIONS}
    output = cuda.shell(CompilersFound().command(paths=roots.values()))
    found = CompilersFound().process(output.splitlines())
    assert {version: found.toolkits[root].limits for version, root in roots.items()} == {
        version: FROM_PYPI[version] for version in VERSIONS
    }
    assert {found.toolkits[root].gcc for root in roots.values()} == {found.gcc}
    codes = {words[0]: words[1:] for line in GPU_CODES.read_text().splitlines() if (words := line.split())}
    for version, root in roots.items():
        listed = cuda.shell(f"{root}/bin/nvcc --list-gpu-code").split()
        assert sorted(int(code.removeprefix("sm_")) for code in listed) == [int(code) for code in codes[version]]

    rig = Rig.model_validate(cuda.rig)
    for build in rig.builds[1:]:
        cuda.write("/tmp/job.json", job_text(build_job(build, rig.models)))
        printed = cuda.shell(COMPILE.replace("HEADER", repr(HEADER)), timeout=900)
        compiled = json.loads(printed.splitlines()[-1])
        assert compiled["architectures"] == ["89-real", "120-real"]
        assert f"CUDA {build.cuda_toolkit}." in compiled["refusal"]
        assert "does not compile acc.cu.o with" in compiled["refusal"]
        assert compiled["toolkit"]["root"] == f"/opt/llamarig/cuda/{build.cuda_toolkit}/root"
        assert compiled["toolkit"]["version"].startswith(f"{build.cuda_toolkit}.")

    # The stub of libcuda.so lets programs link without a driver.
    cuda.shell(
        "cd /tmp && echo 'int cuMemCreate(void); int main(void) { return cuMemCreate(); }' >driver.c && "
        f"cc driver.c -L/opt/llamarig/cuda/{OLDEST}/root/lib64/stubs -lcuda -o driver && "
        "readelf -d driver | grep -q libcuda.so.1"
    )


def test_a_library_deleted_from_a_toolkit_is_restored(cuda: Deployment) -> None:
    cuda.shell(f"rm /opt/llamarig/cuda/{OLDEST}/root/lib64/stubs/libcuda.so")
    outcome = cuda.run(script=SCRIPT)
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == ["CUDA toolkits"]
    assert cuda.run(script=SCRIPT).changed == []


def test_prune_lists_and_deletes_a_toolkit_that_no_build_uses(cuda: Deployment, deployment: Deployment) -> None:
    *others, last = VERSIONS
    del cuda.rig["builds"][-1]
    listed = cuda.run(script="tasks/prune.py")
    assert listed.code == 0, str(listed)
    assert f"cuda/{last}: no declared build uses this CUDA toolkit" in listed.output
    assert not [version for version in others if f"cuda/{version}: " in listed.output]
    refused = cuda.run("--data", f"delete=cuda/{OLDEST}", script="tasks/prune.py")
    assert refused.code == 1
    assert cuda.run("--data", f"delete=cuda/{last}", script="tasks/prune.py").code == 0
    assert deployment.shell("ls /opt/llamarig/cuda").split() == others
    assert cuda.run(script=SCRIPT).changed == []


def test_a_cuda_build_without_architectures_and_without_nvidia_smi_is_refused(cuda: Deployment) -> None:
    cuda.rig["builds"][1]["architectures"] = []
    outcome = cuda.run()
    assert outcome.code != 0
    assert (
        f"build {cuda.rig['builds'][1]['name']} is to be compiled for this box's cards, but no nvidia-smi on this box"
        in outcome.output
    )
    assert "declare its architectures" in outcome.output


def test_a_switch_to_a_gpu_build_that_finds_no_gpu_fails(deployment: Deployment) -> None:
    """llama-server would silently serve on the CPU. The CPU build stands in for such a build."""
    job = json.loads(deployment.shell("cat /var/lib/llamarig/jobs/switch-tiny/job.json")) | {"needs_gpu": True}
    deployment.write("/tmp/job/job.json", json.dumps(job))
    switch = "cd /opt/llamarig/lib && python3 -B -m llamarig.remote.serve.switch_unit /tmp/job"
    done = machine.ssh(deployment.box, switch, check=False)
    assert done.returncode == 1
    assert "this build of llama-server sees no GPU" in done.stderr

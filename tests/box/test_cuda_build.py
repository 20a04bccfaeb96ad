"""CUDA from PyPI on a box without a GPU: the toolkit stands, llama.cpp configures with it, and real kernels compile."""

from __future__ import annotations

import json

import pytest

from tasks.planning.release import build_job
from tasks.spec.rig import Rig
from tests.box import machine
from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

SCRIPT = "tests/box/toolchain_only.py"
OBJECT = "ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/acc.cu.o"
COMPILE = """
cd /opt/llamarig/lib && python3 -B - <<'PYTHON'
import json, subprocess
from pathlib import Path
from tasks.files import build_release, fatbin
from tasks.files.job_status import Progress
job = json.load(open("/tmp/job.json"))
work = Path(job["work"])
work.mkdir(parents=True, exist_ok=True)
progress = Progress(Path("/tmp"))
build_release.fetch_source(job["source"], work / "source", Path(job["cache"]), progress)
build_release.configure(work / "source", work / "build", job, progress)
subprocess.run(["ninja", "-C", str(work / "build"), OBJECT], check=True, env=build_release.compiler_environment(job))
print(json.dumps(fatbin.architectures(work / "build" / OBJECT)))
PYTHON
rm -rf $(python3 -c 'import json; print(json.load(open("/tmp/job.json"))["work"])')
"""


@pytest.fixture
def cuda(variant: Deployment) -> Deployment:
    build = {
        **variant.rig["builds"][0],
        "name": "cuda",
        "backend": "cuda",
        "architectures": ["89-real", "120a-real"],
        "cuda_toolkit": "13.0",
    }
    variant.rig["builds"].append(build)
    return variant


def test_toolkit_from_pypi_and_a_real_kernel(cuda: Deployment) -> None:
    first = cuda.run(script=SCRIPT)
    assert first.code == 0, str(first)
    assert "Toolchain | CUDA 13.0 from PyPI" in first.changed
    assert "no nvidia-smi on this box" in first.output, "a box without a driver is told so"
    assert cuda.run(script=SCRIPT).changed == []

    rig = Rig.model_validate(cuda.rig)
    cuda.write("/tmp/job.json", json.dumps(build_job(rig.builds[1], rig.models)))
    printed = cuda.shell(COMPILE.replace("OBJECT", repr(OBJECT)), timeout=600)
    assert json.loads(printed.splitlines()[-1]) == ["89-real", "120-real"]

    # What a driver exports can be linked against without one.
    cuda.shell(
        "cd /tmp && echo 'int cuMemCreate(void); int main(void) { return cuMemCreate(); }' >driver.c && "
        "cc driver.c -L/opt/llamarig/cuda/13.0/root/lib64/stubs -lcuda -o driver && "
        "readelf -d driver | grep -q libcuda.so.1"
    )


def test_a_library_deleted_from_the_toolkit_is_brought_back(cuda: Deployment) -> None:
    cuda.shell("rm /opt/llamarig/cuda/13.0/root/lib64/stubs/libcuda.so")
    outcome = cuda.run(script=SCRIPT)
    assert outcome.code == 0, str(outcome)
    assert outcome.changed == ["Toolchain | CUDA 13.0 as CMake expects it"]
    assert cuda.run(script=SCRIPT).changed == []


def test_cards_nobody_can_ask_for_their_architecture(cuda: Deployment) -> None:
    cuda.rig["builds"][1]["architectures"] = []
    outcome = cuda.run()
    assert outcome.code != 0
    assert "build cuda is to be compiled for this box's cards, but no nvidia-smi on this box" in outcome.output
    assert "declare its architectures" in outcome.output


def test_a_gpu_build_that_sees_no_gpu_does_not_serve(deployment: Deployment) -> None:
    """The CPU build in the place of one for CUDA: llama-server would serve on the CPU without a word."""
    wrong = json.loads(deployment.shell("cat /var/lib/llamarig/jobs/switch-tiny/job.json")) | {"needs_gpu": True}
    deployment.write("/tmp/job/job.json", json.dumps(wrong))
    switch = "cd /opt/llamarig/lib && python3 -B -m tasks.files.switch_unit /tmp/job"
    done = machine.ssh(deployment.box, switch, check=False)
    assert done.returncode == 1
    assert "this build of llama-server sees no GPU" in done.stderr

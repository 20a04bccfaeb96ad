"""Compiles the simulated GPU against the source tree of a release, and tests it with that release.

Runs on the box as a transient systemd unit. llama.cpp loads the library only where GGML_BACKEND_PATH names it, so no
server ever does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from llamarig.remote.build.build_release import fetch_source, run
from llamarig.remote.build.cpp_definitions import definitions
from llamarig.remote.build.cuda_backend_parts import parts_of
from llamarig.remote.download.verified_files import sha256_of
from llamarig.remote.shared.job_status import JobFailedError, Progress, run_job
from llamarig.remote.shared.jobs import SimulationJob

SOURCE = Path(__file__).with_name("simulated_gpu.cpp")
LIBRARY = "libggml-simulated.so"
SUMS = "SHA256SUMS"
"""Checksum file of the library, for sha256sum --check."""


def build(job: SimulationJob, progress: Progress) -> str:
    """Build the library; returns the closing line.

    :raises JobFailedError: when this commit's CUDA backend differs too much from the one the simulation was written for
    """
    started = time.monotonic()
    tree, target = Path(job.work) / "source", Path(job.directory)
    tree.parent.mkdir(parents=True, exist_ok=True)
    fetch_source(job.source, tree, Path(job.cache), progress, job.pip)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    progress.step("extracting the parts of the CUDA backend that determine memory")
    source = SOURCE.read_text(encoding="utf-8")
    defined_here = {definition.name for definition in definitions(source)}
    (part / "cuda_backend_parts.inc").write_text(parts_of(tree, defined_here), encoding="utf-8")
    progress.step("compiling the simulated GPU")
    compile_library(tree, part, job.source.commit)
    progress.step("testing the simulated GPU")
    _check_library(part / LIBRARY, Path(job.release))
    (part / SUMS).write_text(f"{sha256_of(part / LIBRARY)}  {LIBRARY}\n")
    shutil.rmtree(target, ignore_errors=True)  # a damaged one
    part.rename(target)
    return f"built {target.name[:20]} in {time.monotonic() - started:.0f} s"


def compile_library(tree: Path, directory: Path, commit: str) -> None:
    """Compile the library, in a few seconds.

    :raises JobFailedError: with the compiler's errors
    """
    ggml = tree / "ggml"
    command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-w"]
    command += [f"-I{directory}", f"-I{ggml / 'include'}", f"-I{ggml / 'src'}", str(SOURCE)]
    done = subprocess.run(
        [*command, "-o", str(directory / LIBRARY)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode:
        raise JobFailedError(
            f"llama.cpp {commit[:12]} has a CUDA backend that cannot be simulated: plan on a box that has the GPUs, or "
            "with a commit near the default one; the compiler's errors",
            [line for line in done.stdout.splitlines() if "error" in line][:12] or done.stdout.splitlines()[-12:],
        )


def _check_library(library: Path, release: Path) -> None:
    # Two, so that a list that ends after one is noticed.
    simulated = {"GGML_BACKEND_PATH": str(library), "LLAMARIG_SIMULATED_GPUS": "Trial A:4096:4000,Trial B:2048:1000"}
    os.environ.update(simulated, CUDA_VISIBLE_DEVICES="")
    output = run([str(release / "bin" / "llama-fit-params"), "--list-devices"], "llama-fit-params --list-devices")
    listed = re.findall(r"CUDA(\d): (.+) \((\d+) MiB, (\d+) MiB free\)", output)
    if listed != [("0", "Trial A", "4096", "4000"), ("1", "Trial B", "2048", "1000")]:
        raise JobFailedError(
            "this release does not load the simulated GPU: it lists other devices", output.splitlines()
        )


if __name__ == "__main__":
    run_job(SimulationJob, build)

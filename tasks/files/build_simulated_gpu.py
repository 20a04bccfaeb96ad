"""Compiles the simulated GPU against the very source tree a release was built from, and tries it with that release.

Runs on the box as a transient systemd unit. The library lies beside nothing that serves: llama.cpp loads it only where
GGML_BACKEND_PATH names it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tasks.files.build_release import fetch_source, run, sha256
from tasks.files.cpp_definitions import definitions
from tasks.files.cuda_backend_parts import parts_of
from tasks.files.job_status import JobFailedError, Progress, run_job

SOURCE = Path(__file__).with_name("simulated_gpu.cpp")
LIBRARY = "libggml-simulated.so"
SUMS = "SHA256SUMS"
"""What sha256sum --check reads: whether the library is still the one that was built."""


def build(job: dict[str, Any], progress: Progress) -> str:
    """Build the library ``job`` describes; returns the closing line.

    :raises JobFailedError: when this commit's CUDA backend is unlike the one the simulation was written for
    """
    started = time.monotonic()
    tree, target = Path(job["work"]) / "source", Path(job["directory"])
    tree.parent.mkdir(parents=True, exist_ok=True)
    fetch_source(job["source"], tree, Path(job["cache"]), progress)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    progress.step("taking the parts of the CUDA backend that decide about memory")
    source = SOURCE.read_text(encoding="utf-8")
    own = {definition.name for definition in definitions(source)}
    (part / "cuda_backend_parts.inc").write_text(parts_of(tree, own), encoding="utf-8")
    progress.step("compiling the simulated GPU")
    compile_library(tree, part, job["source"]["commit"])
    progress.step("trying the simulated GPU")
    try_library(part / LIBRARY, Path(job["release"]))
    (part / SUMS).write_text(f"{sha256(part / LIBRARY)}  {LIBRARY}\n")
    shutil.rmtree(target, ignore_errors=True)  # one that somebody damaged
    part.rename(target)
    return f"built {target.name[:20]} in {time.monotonic() - started:.0f} s"


def compile_library(tree: Path, directory: Path, commit: str) -> None:
    """One compiler call, a few seconds.

    :raises JobFailedError: with the compiler's own words
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
            "with a commit near the default one; the compiler said",
            [line for line in done.stdout.splitlines() if "error" in line][:12] or done.stdout.splitlines()[-12:],
        )


def try_library(library: Path, release: Path) -> None:
    """The release lists a GPU it could not otherwise know.

    :raises JobFailedError: when it does not
    """
    # Two cards, so that a list that ends after one is noticed.
    cards = {"GGML_BACKEND_PATH": str(library), "LLAMARIG_SIMULATED_GPUS": "Trial A:4096:4000,Trial B:2048:1000"}
    os.environ.update(cards, CUDA_VISIBLE_DEVICES="")
    said = run([str(release / "bin" / "llama-fit-params"), "--list-devices"], "llama-fit-params --list-devices")
    listed = re.findall(r"CUDA(\d): (.+) \((\d+) MiB, (\d+) MiB free\)", said)
    if listed != [("0", "Trial A", "4096", "4000"), ("1", "Trial B", "2048", "1000")]:
        raise JobFailedError("this release does not load the simulated GPU: it lists other devices", said.splitlines())


if __name__ == "__main__":
    run_job(build)

"""Write or update the lock of one CUDA version on PyPI: python3 -m tests.cuda_lock 13.4.

Only versions whose wheels contain a compiler can be locked, which is the case from CUDA 13.0 on. The
nvidia-cuda-nvcc-cu12 wheels of CUDA 12 contain ptxas and libnvvm, but no nvcc.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.set_up import REPOSITORY, install_uv

# What llama.cpp's CUDA backend needs to compile and run: compiler, its front and back end, headers, runtime, cuBLAS.
EXTRAS = "nvcc,cublas,cudart,cccl,crt,nvvm"


def main(version: str) -> int:
    """Resolve ``version`` (13.4) to the newest patch of every wheel, with a hash for each file of it."""
    if not re.fullmatch(r"\d+\.\d+", version):
        print(f"error: {version!r} is no CUDA version: write it as 13.4", file=sys.stderr)
        return 1
    target = REPOSITORY / "tasks/llamarig/items/locks" / f"cuda-{version}-requirements.txt"
    wanted = f"cuda-toolkit[{EXTRAS}]=={version}.*"
    command = [
        *(str(install_uv()), "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate"),
        *("--system-certs", "--default-index", "https://pypi.org/simple", "--only-binary", ":all:"),
        *("--python-platform", "x86_64-unknown-linux-gnu", "--python-version", "3.10", "--generate-hashes", "-"),
    ]
    done = subprocess.run(command, input=wanted, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"error: PyPI does not offer {wanted}; see above", file=sys.stderr)
        return 1
    if (
        "nvidia-nvvm==" not in done.stdout
    ):  # the wheel of the compiler's back end, which exists from the version that has nvcc
        print(
            f"error: the wheels of CUDA {version} contain no nvcc, so nothing can be compiled with them",
            file=sys.stderr,
        )
        return 1
    target.write_text(f"# {wanted}\n# Made by: make cuda-lock VERSION={version}\n{done.stdout}")
    shown = target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target
    print(
        f"{shown} written; add the version to CUDA_FROM_PYPI (declare/build.py) and the compilers that it supports to "
        "FROM_PYPI (items/compilers.py), as tests/cuda_headers.py prints them; then run tests/box/test_cuda_build.py "
        f"with LLAMARIG_TEST_CUDA={version}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else ""))

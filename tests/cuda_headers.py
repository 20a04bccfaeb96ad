"""Compare the table of compilers that each CUDA toolkit accepts with the headers in its wheels on PyPI.

`.venv/bin/python -m tests.cuda_headers` downloads the headers of every lock (a few hundred kB each) and exits with 1
where `FROM_PYPI` (items/compilers.py) says something else; it prints what they say, as the table has it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from llamarig.declare.build import CUDA_FROM_PYPI
from llamarig.facts.compilers import CompilersFound, Limits
from llamarig.items.compilers import FROM_PYPI

from tests.set_up import REPOSITORY, install_uv


def limits_in_wheels(directory: Path) -> dict[str, Limits | None]:
    """Version -> limits in its headers, which are unpacked below ``directory``; None where they do not tell."""
    for version in CUDA_FROM_PYPI:
        lock = REPOSITORY / f"tasks/llamarig/items/locks/cuda-{version}-requirements.txt"
        pinned = re.search(r"^nvidia-cuda-crt==\S+(?: \\\n +--hash=\S+)+", lock.read_text(), re.MULTILINE)
        assert pinned is not None, lock
        wanted = directory / f"{version}.txt"
        wanted.write_text(pinned[0] + "\n")
        command = [
            *(str(install_uv()), "pip", "install", "--no-config", "--quiet", "--system-certs", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "--python", sys.executable),
            *("--python-platform", "x86_64-unknown-linux-gnu", "--target", str(directory / version), "-r", str(wanted)),
        ]
        subprocess.run(command, check=True)
    roots = {version: str(next((directory / version).rglob("include")).parent) for version in CUDA_FROM_PYPI}
    command = ["sh", "-c", CompilersFound().command(paths=roots.values())]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = CompilersFound().process(output.splitlines()).toolkits
    return {version: found[root].limits for version, root in roots.items()}


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        found = limits_in_wheels(Path(directory))
    for version, limits in found.items():
        print(
            f'"{version}": {limits}', "" if limits == FROM_PYPI[version] else f"  but the table: {FROM_PYPI[version]}"
        )
    return 0 if found == dict(FROM_PYPI) else 1


if __name__ == "__main__":
    sys.exit(main())

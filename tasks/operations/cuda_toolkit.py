"""The parts of a CUDA toolkit from PyPI that CMake cannot find by itself."""

from __future__ import annotations

from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host
from pyinfra.facts.server import Command

from tasks.operations import Commands
from tasks.operations.once import read_once
from tasks.planning import layout

_WANTED = ("bin/nvcc", "lib64/libcudart.so", "lib64/libcublas.so", "lib64/stubs/libcuda.so")


def question(version: str) -> str:
    """The command that says ``linked`` where nothing is to be done."""
    root = f"{layout.CUDA}/{version}/root"
    return f"cd {root} 2>/dev/null && {' && '.join(f'test -e {path}' for path in _WANTED)} && echo linked || true"


@operation()
def linked(version: str) -> Commands:
    """``<toolkit>/root`` is a toolkit as CMake expects one: bin, include, lib64, plain library names, driver stub."""
    base = f"{layout.CUDA}/{version}"
    if read_once(Command, command=question(version)) == "linked":
        host.noop(f"{base}/root is a toolkit")
        return
    # The wheels share one root and bring only versioned library names (libcudart.so.13).
    yield StringCommand(
        f"ln -sfn $(echo {base}/lib/python3*/site-packages/nvidia/cu{version.split('.')[0]}) {base}/root && "
        f"ln -sfn lib {base}/root/lib64 && cd {base}/root/lib && "
        'for library in *.so.*; do ln -sf "$library" "${library%%.so.*}.so"; done && '
        f"{base}/root/bin/nvcc --version"
    )
    # What NVIDIA's own installer calls a stub: every function of the driver by name and none by deed, to link against
    # where no driver is. At run time the driver's own libcuda.so.1 is found.
    yield StringCommand(
        f"cd {base}/root && mkdir -p lib/stubs && "
        "echo '#include <cuda.h>' | cc -E -I include - | grep -oE '\\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\\(' "
        "| tr -d ' (' | sort -u | sed 's/.*/int &(void) { return 999; }/' >lib/stubs/stub.c && "
        "cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o lib/stubs/libcuda.so lib/stubs/stub.c && "
        "grep -q cuMemCreate lib/stubs/stub.c"
    )

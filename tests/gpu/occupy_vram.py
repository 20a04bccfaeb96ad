"""Allocate memory on each card until a given amount is left, to simulate smaller cards. Run by hand.

    python3 -m tests.gpu.occupy_vram FREE_MIB [FREE_MIB ...]

One number per card, in the driver's order. Prints ``held`` once the memory is allocated, and keeps it until killed.
"""

from __future__ import annotations

import ctypes
import sys
import time


def check(status: int, what: str) -> None:
    if status:
        raise SystemExit(f"{what}: CUDA driver error {status}")


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    check(cuda.cuInit(0), "cuInit")
    for index, free_mib in enumerate(map(int, sys.argv[1:])):
        context, free, total, pointer = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()
        check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), index), "cuDevicePrimaryCtxRetain")
        check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        check(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
        size = ctypes.c_size_t(free.value - (free_mib << 20))
        check(cuda.cuMemAlloc_v2(ctypes.byref(pointer), size), "cuMemAlloc")
    print("held", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()

"""Names of CPU instruction sets: the compiler's predefined macros, and the Linux kernel's flags in /proc/cpuinfo."""

from __future__ import annotations

import re
from collections.abc import Iterable

KERNEL_NAMES = {
    # x86: GCC's predefined macros (gcc/config/i386/i386-c.cc), and arch/x86/include/asm/cpufeatures.h.
    "__SSE3__": "pni",
    "__SSSE3__": "ssse3",
    "__SSE4_1__": "sse4_1",
    "__SSE4_2__": "sse4_2",
    "__POPCNT__": "popcnt",
    "__AVX__": "avx",
    "__AVX2__": "avx2",
    "__FMA__": "fma",
    "__F16C__": "f16c",
    "__BMI__": "bmi1",
    "__BMI2__": "bmi2",
    "__LZCNT__": "abm",
    "__MOVBE__": "movbe",
    "__ADX__": "adx",
    "__PRFCHW__": "3dnowprefetch",
    "__AES__": "aes",
    "__PCLMUL__": "pclmulqdq",
    "__SHA__": "sha_ni",
    "__GFNI__": "gfni",
    "__VAES__": "vaes",
    "__VPCLMULQDQ__": "vpclmulqdq",
    "__FMA4__": "fma4",
    "__XOP__": "xop",
    "__AVXVNNI__": "avx_vnni",
    "__AVX512F__": "avx512f",
    "__AVX512CD__": "avx512cd",
    "__AVX512BW__": "avx512bw",
    "__AVX512DQ__": "avx512dq",
    "__AVX512VL__": "avx512vl",
    "__AVX512IFMA__": "avx512ifma",
    "__AVX512VBMI__": "avx512vbmi",
    "__AVX512VBMI2__": "avx512_vbmi2",
    "__AVX512VNNI__": "avx512_vnni",
    "__AVX512BITALG__": "avx512_bitalg",
    "__AVX512VPOPCNTDQ__": "avx512_vpopcntdq",
    "__AVX512BF16__": "avx512_bf16",
    "__AVX512FP16__": "avx512_fp16",
    "__AMX_TILE__": "amx_tile",
    "__AMX_INT8__": "amx_int8",
    "__AMX_BF16__": "amx_bf16",
    # ARM: the C Language Extensions' macros, and arch/arm64/kernel/cpuinfo.c.
    "__ARM_FEATURE_ATOMICS": "atomics",
    "__ARM_FEATURE_CRC32": "crc32",
    "__ARM_FEATURE_DOTPROD": "asimddp",
    "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC": "asimdhp",
    "__ARM_FEATURE_MATMUL_INT8": "i8mm",
    "__ARM_FEATURE_BF16_VECTOR_ARITHMETIC": "bf16",
    "__ARM_FEATURE_SVE": "sve",
    "__ARM_FEATURE_SVE2": "sve2",
    "__ARM_FEATURE_SME": "sme",
}
"""Compiler macro -> kernel flag, for sets that compilers use in ordinary code; those for kernels are left out."""


def sets_used(macros: str) -> list[str]:
    """Return the kernel's names of the instruction sets that code compiled with these macros may use.

    :param macros: output of ``c++ -dM -E``
    """
    defined = set(re.findall(r"^#define (\w+)", macros, re.MULTILINE))
    return sorted(name for macro, name in KERNEL_NAMES.items() if macro in defined)


def sets_of(flags: Iterable[str]) -> frozenset[str]:
    """Return the instruction sets among a processor's flags in /proc/cpuinfo."""
    return frozenset(flags) & frozenset(KERNEL_NAMES.values())

"""Processor, C library and distribution of a box."""

from __future__ import annotations

import subprocess
from pathlib import Path

from llamarig.facts.output import sections_command
from llamarig.facts.platform import HostPlatform, Platform

# Captured on Debian 13 under systemd-nspawn on a Sapphire Rapids guest; flags are shortened.
DEBIAN = """\
== machine
x86_64

== glibc
glibc 2.41

== system
Debian GNU/Linux 13 (trixie)

== sets
flags\t\t: fpu vme sse2 ht syscall nx lm pni pclmulqdq ssse3 fma avx f16c avx2 bmi1 avx512f ibrs

"""
# Format of arch/arm64/kernel/cpuinfo.c.
ARM = """\
== machine
aarch64

== glibc
glibc 2.36

== system
Debian GNU/Linux 12 (bookworm)

== sets
Features\t: fp asimd aes crc32 atomics asimdhp asimddp

"""


def test_output_of_debian_on_x86_is_parsed() -> None:
    sets = frozenset({"pni", "pclmulqdq", "ssse3", "fma", "avx", "f16c", "avx2", "bmi1", "avx512f"})
    expected = Platform("x86_64", "2.41", "Debian GNU/Linux 13 (trixie)", sets)
    assert HostPlatform().process(DEBIAN.splitlines()) == expected


def test_instruction_sets_of_arm_are_parsed() -> None:
    found = HostPlatform().process(ARM.splitlines())
    assert found.instruction_sets == {"aes", "crc32", "atomics", "asimdhp", "asimddp"}


def test_platform_without_output() -> None:
    assert HostPlatform().process(["== machine", "", "== glibc", ""]) == Platform()


def test_ubuntu_26_04() -> None:
    file = Path(__file__).parent / "data/answers/HostPlatform.ubuntu_26_04.txt"
    found = HostPlatform().process(file.read_text().splitlines())
    assert (found.machine, found.glibc, found.system) == ("x86_64", "2.43", "Ubuntu 26.04 LTS")
    assert {"avx2", "fma"} <= found.instruction_sets


def test_a_command_of_no_section_is_valid() -> None:
    """Regression: without a toolkit on a box, the fact of their versions was a syntax error."""
    done = subprocess.run(["sh", "-c", sections_command({})], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")

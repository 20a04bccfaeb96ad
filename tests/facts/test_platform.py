"""What a box says of its processor, C library and distribution, and what is made of it."""

from __future__ import annotations

from tasks.facts.platform import RunsOn
from tasks.planning.sharing import Platform

# Printed by the fact's own command: Debian 13 under systemd-nspawn on a Sapphire Rapids guest; the list is shortened.
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
# The form arch/arm64/kernel/cpuinfo.c gives its line.
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


def test_debian_on_x86() -> None:
    sets = frozenset({"pni", "pclmulqdq", "ssse3", "fma", "avx", "f16c", "avx2", "bmi1", "avx512f"})
    expected = Platform("x86_64", "2.41", "Debian GNU/Linux 13 (trixie)", sets)
    assert RunsOn().process(DEBIAN.splitlines()) == expected


def test_arm() -> None:
    found = RunsOn().process(ARM.splitlines())
    assert found.instruction_sets == {"aes", "crc32", "atomics", "asimdhp", "asimddp"}


def test_a_box_that_says_nothing() -> None:
    assert RunsOn().process(["== machine", "", "== glibc", ""]) == Platform()

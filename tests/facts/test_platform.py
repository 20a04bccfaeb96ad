"""What a box says of its processor, C library, distribution and ROCm, and what is made of it."""

from __future__ import annotations

import pytest

from tasks.facts.platform import RunsOn
from tasks.facts.rocm import RocmFound
from tasks.planning.rocm import Rocm, rocm_refusal
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


# `apt-cache policy libamdhip64-dev` of Debian 13.
POLICY = ["== own", "", "== offered", "  Candidate: 5.7.1-6+deb13u1", ""]


def test_the_hip_of_debian_13_is_too_old_for_llama_cpp() -> None:
    found = RocmFound().process(POLICY)
    assert found == Rocm(offered="5.7.1")
    refusal = rocm_refusal(found) or ""
    for word in ("6.1 or newer", "HIP 5.7.1", "/opt/rocm", 'backend="vulkan"'):
        assert word in refusal


def test_amds_own_rocm_is_taken_before_the_distributions() -> None:
    # /opt/rocm/.info/version holds a line like this.
    found = RocmFound().process(["== own", "7.1.0-20", "", *POLICY[2:]])
    assert found == Rocm(own="7.1.0", offered="5.7.1")
    assert rocm_refusal(found) is None
    assert "/opt/rocm is ROCm 5.4.2" in (rocm_refusal(Rocm(own="5.4.2")) or "")


@pytest.mark.parametrize("rocm", [Rocm(), Rocm(offered="6.1.0"), Rocm(offered="10.0")])
def test_what_is_not_known_to_be_too_old_is_tried(rocm: Rocm) -> None:
    assert rocm_refusal(rocm) is None

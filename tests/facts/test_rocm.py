"""ROCm from AMD, and HIP offered by the distribution."""

from __future__ import annotations

from llamarig.facts.rocm import Rocm, RocmFound

# Output of `apt-cache policy libamdhip64-dev` on Debian 13.
POLICY = ["== own", "", "== offered", "  Candidate: 5.7.1-6+deb13u1", ""]


def test_the_offered_hip_version_of_debian_13_is_read() -> None:
    assert RocmFound().process(POLICY) == Rocm(offered="5.7.1")


def test_the_installed_version_of_amds_rocm_is_read() -> None:
    # Format of /opt/rocm/.info/version.
    found = RocmFound().process(["== own", "7.1.0-20", "", *POLICY[2:]])
    assert found == Rocm(own="7.1.0", offered="5.7.1")

"""A release that is slower is switched to, timed, and replaced by the old one; one that is as fast stays.

Real llama-servers on the processor. The slower one computes a token at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from llamarig.declare.rig import Rig
from llamarig.render.release import release_id, release_path

from tests.box.deployment import Deployment
from tests.box.rehearse import chat
from tests.box.test_releases import install_faulty_server, serving_release

pytestmark = pytest.mark.box


@pytest.fixture
def upgrade(converged: Deployment, variant: Deployment) -> Iterator[tuple[Deployment, str]]:
    """A variant with a gate and another release, which is built and does not serve; and its directory."""
    variant.rig["upgrade_gate"] = {"slower_than_percent": 20}
    # llama.cpp has no such option: another release, whose objects the compiler cache has already.
    variant.rig["builds"][0]["cmake"] = {"LLAMARIG_TEST": "gate"}
    rig = Rig.model_validate(variant.rig)
    release, work = release_path(rig.builds[0], rig.models), release_id(rig.builds[0], rig.models)
    proofs = "/var/lib/llamarig/proofs"
    converged.shell(f"rm -rf {release} /var/lib/llamarig/work/{work} {proofs}/*.slower")
    yield variant, release
    assert converged.run().code == 0
    converged.shell(f"rm -rf {release} /var/lib/llamarig/work/{work} {proofs}/*.slower")


def test_a_release_that_is_as_fast_stays_and_a_slower_one_does_not(
    converged: Deployment, upgrade: tuple[Deployment, str]
) -> None:
    variant, release = upgrade
    first = serving_release(converged)
    switched = variant.run()
    assert switched.code == 0, str(switched)
    output = " ".join(switched.output.split())
    assert re.search(r"its speed is [\d.e+]+ and [\d.]+ tokens/s, before|it looked slower than its last timing", output)
    assert serving_release(converged) == release
    assert variant.run().changed == []

    assert converged.run().code == 0  # without a gate
    assert serving_release(converged) == first
    install_faulty_server(converged, release, "slower")
    refused = variant.run()
    assert refused.code != 0, str(refused)
    output = " ".join(refused.output.split())
    assert "is slower with this release than with" in output, str(refused)
    assert re.search(r"in [468] pairs of starts its speed differed by -\d", output), output
    assert f"The release is kept: {release}" in output
    assert "llamarig-tiny.service serves again as before" in output
    assert "Traceback" not in refused.output
    assert serving_release(converged) == first
    assert chat(converged.address, "Still you?")
    assert converged.shell(f"test -x {release}/bin/llama-server && echo kept") == "kept"

    pid = converged.shell("systemctl show llamarig-tiny -p MainPID --value")
    again = variant.run()
    assert again.code != 0
    assert "to time it again; nothing was changed" in " ".join(again.output.split())
    assert converged.shell("systemctl show llamarig-tiny -p MainPID --value") == pid
    assert converged.run().changed == [], "the box is as it was declared before"

"""A box with two models that exclude each other, and how a test leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.box.deployment import Deployment
from tests.box.rehearse import chat

TINY, SECOND = "llamarig-tiny.service", "llamarig-second.service"


@contextmanager
def two_models(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """The variant with a second model, deployed; afterwards the box is as declared, without drop-ins of its units."""
    first = variant.rig["models"][0]
    variant.rig["models"] = [first, {**first, "name": "second"}]
    outcome = variant.run()
    assert outcome.code == 0, str(outcome)
    yield variant
    deployment.shell(
        "rm -rf /etc/systemd/system/llamarig-*.d; systemctl disable -q --now llamarig-second; "
        f"rm -f /etc/systemd/system/{SECOND}; systemctl daemon-reload; systemctl reset-failed 'llamarig-*'; "
        f"systemctl start {TINY}"
    )
    assert deployment.run().code == 0
    assert chat(deployment.address, "As before?")

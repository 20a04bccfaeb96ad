"""The closing words of a rehearsal: each command they show works as printed."""

from __future__ import annotations

import subprocess

import pytest

from tests.box.deployment import REPOSITORY_ROOT, Deployment
from tests.box.rehearse import DESTROY, next_steps

pytestmark = pytest.mark.box


def test_each_of_the_next_steps_succeeds_as_printed(deployment: Deployment) -> None:
    """Not the one that destroys the box: tests/box/test_machine.py destroys one of its own."""
    steps = [step for step in next_steps(deployment.box).values() if step != DESTROY]
    outputs = {}
    for step in steps:
        done = subprocess.run(
            ["sh", "-c", step.replace("tests.box ssh", "tests.box ssh true")],
            cwd=REPOSITORY_ROOT,
            env=dict(deployment.environment()),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
        outputs[step] = done.stdout + done.stderr
    assert any('"role":"assistant"' in output for output in outputs.values())
    assert any("4 of 4 layers whole on the GPUs" in output for output in outputs.values())

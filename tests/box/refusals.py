"""Helpers for tests of refused deploys: one message, no traceback, and the running model keeps serving."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from llamarig.declare.model import Model
from llamarig.records.model_lock import LockedFile, LockedModel, lock_key

from tests.box.deployment import HOST, Deployment, Outcome
from tests.box.hub import Hub
from tests.box.rehearse import chat
from tests.box.tiny_model import write_shards

SERVED = "Models served"
OTHER = "llamarig/Other-GGUF"
OTHER_UNIT = "/etc/systemd/system/llamarig-other.service"
UNIT = "/etc/systemd/system/llamarig-tiny.service"


def lines(outcome: Outcome) -> list[str]:
    """The printed lines without colour codes, and without the closing block, which repeats why a host has failed."""
    printed = click.unstyle(outcome.output).splitlines()
    end = next((number for number, line in enumerate(printed) if re.match(r"--> (Deploy|[A-Z]\w+): \d", line)), None)
    return printed[:end]


def refusal(outcome: Outcome, *words: str, host: str = HOST) -> str:
    """Assert that the run failed with one line that contains all words and the host's name; return the line."""
    assert outcome.code != 0, outcome
    assert "Traceback" not in outcome.output, outcome
    found = [line for line in lines(outcome) if all(word in line for word in words)]
    assert len(found) == 1, f"{len(found)} lines instead of one contain {words}\n{outcome}"
    assert host in found[0], f"the line does not name {host}: {found[0]}"
    return found[0]


def invocation_id(deployment: Deployment) -> str:
    """systemd's invocation id of the tiny model's service; it changes with every start."""
    return deployment.shell("systemctl show llamarig-tiny -p InvocationID --value")


@contextmanager
def keeps_serving(
    deployment: Deployment, directory: Path, *, restarted: bool = False, repaired: tuple[str, ...] = ()
) -> Iterator[Deployment]:
    """Yield a variant of the deployment; assert afterwards that the tiny model serves as before.

    The original declaration has to find no differences afterwards, except those of ``repaired``.

    :param restarted: whether the variant may have restarted the service, with its old unit
    :param repaired: the operations that restore the original declaration after a variant that was deployed
    """
    before, unit = invocation_id(deployment), deployment.shell(f"cat {UNIT}")
    try:
        yield deployment.variant(directory)
        assert restarted or repaired or invocation_id(deployment) == before, "the server was restarted"
        if not repaired:
            assert deployment.shell(f"cat {UNIT}") == unit
            assert chat(deployment.address, "Do you still serve?")
    finally:
        outcome = deployment.run()
    assert outcome.code == 0, outcome
    assert tuple(outcome.changed) == repaired, outcome
    assert chat(deployment.address, "All as before?")


def add_other_model(variant: Deployment, hub: Hub) -> None:
    """Declare a second model, in its own repository and on the next port, that runs at the same time as the first."""
    folder = hub.store.root.parent / "other-model"
    if not folder.exists():
        write_shards(folder, "Other-F16", seed=7, experts=2)
    hub.add_repo(OTHER, {path.name: path for path in sorted(folder.glob("*.gguf"))})
    first = variant.rig["models"][0]
    serve = {**first["serve"], "port": variant.box.port + 11, "coexists": True}
    variant.rig["models"] = [first, {**first, "name": "other", "repo": OTHER, "serve": serve}]


def lock_other_model(variant: Deployment, hub: Hub) -> list[LockedFile]:
    """Write the other model's entry into the model lock as a deploy with a working Hub would have written it."""
    revision = hub.store.repository(OTHER, anonymous=True).revision("main")
    shards = tuple(
        LockedFile(path=path, size=file.size, sha256=file.sha256) for path, file in sorted(revision.files.items())
    )
    entry = LockedModel(repo=OTHER, commit=revision.commit, shards=shards)
    path = Path(variant.rig["model_lock"])
    lock = json.loads(path.read_text())
    lock["models"][lock_key(Model.model_validate(variant.rig["models"][1]))] = entry.model_dump(
        mode="json", exclude_none=True
    )
    path.write_text(json.dumps(lock))
    return list(shards)


def other_model_is_absent(deployment: Deployment) -> bool:
    """Assert that the box has no model file, record or unit of the other model. Always returns True."""
    found = deployment.shell(
        f"find /var/lib/llamarig/models/{OTHER} -type f 2>/dev/null; ls {OTHER_UNIT} 2>/dev/null; true"
    )
    assert found == "", found
    return True


def remove_other_model(deployment: Deployment) -> None:
    """Remove the other model from the box, which may have been kept from an earlier run."""
    deployment.shell(
        "systemctl disable --quiet --now llamarig-other 2>/dev/null; "
        f"rm -rf {OTHER_UNIT} /var/lib/llamarig/proofs/llamarig-other.service.json /var/lib/llamarig/models/{OTHER}; "
        "systemctl daemon-reload"
    )

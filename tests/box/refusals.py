"""What a refused deploy must be: one message, no traceback, and the running model undisturbed."""

from __future__ import annotations

import json
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
    """What the owner saw, without its colours."""
    return click.unstyle(outcome.output).splitlines()


def refusal(outcome: Outcome, *words: str, host: str = HOST) -> str:
    """The one line that contains all these words and the host's name, in a run that failed without a traceback."""
    assert outcome.code != 0, outcome
    assert "Traceback" not in outcome.output, outcome
    found = [line for line in lines(outcome) if all(word in line for word in words)]
    assert len(found) == 1, f"printed {len(found)} times, not once: {words}\n{outcome}"
    assert host in found[0], f"{host} is not named: {found[0]}"
    return found[0]


def invocation(deployment: Deployment) -> str:
    """Of the tiny model's service: another one after every start."""
    return deployment.shell("systemctl show llamarig-tiny -p InvocationID --value")


@contextmanager
def serving_on(
    deployment: Deployment, directory: Path, *, restarted: bool = False, repaired: tuple[str, ...] = ()
) -> Iterator[Deployment]:
    """A variant to try: when it is refused the tiny model serves on, and the original declaration finds nothing to do.

    :param restarted: whether it may have been stopped and started again, with the unit it had
    :param repaired: the operations that lead back to the original declaration from a variant that is served in the end
    """
    before, unit = invocation(deployment), deployment.shell(f"cat {UNIT}")
    try:
        yield deployment.variant(directory)
        assert restarted or repaired or invocation(deployment) == before, "the server was restarted"
        if not repaired:
            assert deployment.shell(f"cat {UNIT}") == unit
            assert chat(deployment.address, "Do you still serve?")
    finally:
        outcome = deployment.run()
    assert outcome.code == 0, outcome
    assert tuple(outcome.changed) == repaired, outcome
    assert chat(deployment.address, "All as before?")


def add_other_model(variant: Deployment, hub: Hub) -> None:
    """Another model in a repository of its own, on the next port, beside the first."""
    folder = hub.store.root.parent / "other-model"
    if not folder.exists():
        write_shards(folder, "Other-F16", seed=7, experts=2)
    hub.add_repo(OTHER, {path.name: path for path in sorted(folder.glob("*.gguf"))})
    first = variant.rig["models"][0]
    serve = {**first["serve"], "port": variant.box.port + 11, "coexists": True}
    variant.rig["models"] = [first, {**first, "name": "other", "repo": OTHER, "serve": serve}]


def lock_other_model(variant: Deployment, hub: Hub) -> list[LockedFile]:
    """What the deploy itself would have written into the lock, while the Hub was still well."""
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


def nothing_of_the_other_model(deployment: Deployment) -> bool:
    """No file under its final name, no record of one, no unit."""
    found = deployment.shell(
        f"find /var/lib/llamarig/models/{OTHER} -type f 2>/dev/null; ls {OTHER_UNIT} 2>/dev/null; true"
    )
    assert found == "", found
    return True


def forget_other_model(deployment: Deployment) -> None:
    """Take everything of it off the box, so that a test may begin again on a box that was kept."""
    deployment.shell(
        "systemctl disable --quiet --now llamarig-other 2>/dev/null; "
        f"rm -rf {OTHER_UNIT} /var/lib/llamarig/proofs/llamarig-other.service.json /var/lib/llamarig/models/{OTHER}; "
        "systemctl daemon-reload"
    )

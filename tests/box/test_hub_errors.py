"""Deploys against a faulty Hub: one clear message, and no unverified file gets the name of a model file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from tests.box.deployment import Deployment
from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.refusals import (
    OTHER,
    SERVED,
    add_other_model,
    keeps_serving,
    lock_other_model,
    other_model_is_absent,
    refusal,
    remove_other_model,
)
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

API = f"/api/models/{OTHER}*"
RESOLVE = f"/{OTHER}/resolve/*"
BYTES = f"/repos/{OTHER}/*"


@pytest.fixture
def unlocked(deployment: Deployment, hub: Hub, tmp_path: Path) -> Iterator[Deployment]:
    """A variant with another model, which is not in the model lock yet."""
    remove_other_model(deployment)
    with keeps_serving(deployment, tmp_path / "variant") as variant:
        add_other_model(variant, hub)
        yield variant
        assert other_model_is_absent(variant)


@pytest.fixture
def fetching(deployment: Deployment, hub: Hub, tmp_path: Path) -> Iterator[Deployment]:
    """A variant with another model, which is in the model lock but not on the box."""
    remove_other_model(deployment)
    with keeps_serving(deployment, tmp_path / "variant") as variant:
        add_other_model(variant, hub)
        lock_other_model(variant, hub)
        yield variant
        assert other_model_is_absent(variant)


@pytest.fixture
def recovering(deployment: Deployment, hub: Hub, tmp_path: Path) -> Iterator[Deployment]:
    """A variant with another model that is deployed in the end; the original declaration stops it afterwards."""
    remove_other_model(deployment)
    with keeps_serving(deployment, tmp_path / "variant", repaired=(SERVED,)) as variant:
        add_other_model(variant, hub)
        yield variant
        assert chat(f"http://127.0.0.1:{variant.box.port + 11}", "Here after all?")
    remove_other_model(deployment)


# --- when the model is locked ---------------------------------------------------------------------------------------


def test_what_the_hub_does_not_have_is_refused_with_what_it_has(unlocked: Deployment, hub: Hub) -> None:
    """In one test, as the next: to check that the box is undisturbed takes longer than another refused deploy."""
    file = "Other-F16-00001-of-00004.gguf"
    refused: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
        ({"repo": "llamarig/Misspelt-GGUF"}, ("llamarig/Misspelt-GGUF", "spelling", "hub.token_env", hub.endpoint)),
        ({"revision": "no-such-branch"}, (OTHER, "no revision 'no-such-branch'", "check the commit or branch")),
        ({"quant": "Q4_K_M"}, (f"{OTHER} has no quant Q4_K_M; its models are Other-F16: set quant",)),
        ({"quant": None, "files": [file]}, (file, "Other-F16-00001-of-00003.gguf")),
    )
    declared = unlocked.rig["models"][1]
    for fields, words in refused:
        unlocked.rig["models"][1] = {**declared, **fields}
        refusal(unlocked.run(), "model 'other'", *words)


def test_a_model_that_llama_cpp_does_not_know_is_refused_before_it_is_fetched(
    unlocked: Deployment, hub: Hub, tmp_path: Path
) -> None:
    """By the architectures that the build recorded in the manifest of its release."""
    writer = GGUFWriter(tmp_path / "new.gguf", "qwen9")
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((512, 512), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    hub.add_repo(OTHER, {"new.gguf": tmp_path / "new.gguf"})
    unlocked.rig["models"][1] |= {"quant": None, "files": ["new.gguf"]}
    hub.log.clear()
    refusal(unlocked.run(), "architecture qwen9", "does not know", "declare a newer commit, or another model")
    assert sum(request.bytes_sent for request in hub.log.requests() if request.origin == "cdn") <= 16 << 10


HTTP_ERRORS = (
    (401, None, ("hub.token_env",)),
    (403, None, ("HTTP 403", "hub.token_env")),
    (403, "GatedRepo", ("is gated", "accept its terms", "hub.token_env")),
    (404, "RepoNotFound", ("spelling", "hub.token_env")),
    (404, None, ("HTTP 404", "hub.endpoint")),
    (500, None, ("HTTP 500", "try again later")),
)


def test_an_http_error_while_a_model_is_locked_is_reported_with_its_remedy(unlocked: Deployment, hub: Hub) -> None:
    for status, error_code, words in HTTP_ERRORS:
        hub.faults.clear()
        hub.faults.add(Fault(origin="hub", path=API, status=status, error_code=error_code))
        refusal(unlocked.run(), "model 'other'", *words)


def test_an_unreachable_endpoint_is_refused(unlocked: Deployment) -> None:
    """The model that is locked already needs no request."""
    unlocked.rig["hub"]["endpoint"] = f"http://127.0.0.1:{unlocked.box.port + 19}"
    refusal(unlocked.run(), "model 'other'", f":{unlocked.box.port + 19}", "cannot be reached", "hub.endpoint")


def test_temporary_http_errors_while_a_model_is_locked_are_retried(recovering: Deployment, hub: Hub) -> None:
    hub.faults.add(Fault(origin="hub", path=API, status=500, times=2))
    outcome = recovering.run()
    assert outcome.code == 0, str(outcome)
    assert recovering.run().changed == []


# --- when its files are fetched -------------------------------------------------------------------------------------


PERMANENT = (
    (Fault(origin="hub", path=RESOLVE, status=401), ("HTTP 401", "hub.token_env")),
    (Fault(origin="hub", path=RESOLVE, status=403, error_code="GatedRepo"), ("HTTP 403", "accept the terms")),
    (Fault(origin="hub", path=RESOLVE, status=404, error_code="EntryNotFound"), ("any more", "tasks/lock.py")),
    (Fault(origin="hub", path=RESOLVE, status=503, retry_after=86400), ("HTTP 503", "run deploy.py again")),
    (Fault(origin="cdn", path=BYTES, status=403), ("403", "run deploy.py again")),
    (Fault(origin="cdn", path=BYTES, corrupt=True), ("sha256", "locked", "run deploy.py again")),
)


def test_a_permanent_fault_of_a_download_is_reported_with_its_remedy(fetching: Deployment, hub: Hub) -> None:
    for fault, words in PERMANENT:
        hub.faults.clear()
        hub.faults.add(fault)
        refusal(fetching.run(), "models: ", OTHER, *words)
        # A signed URL gives access to the file for an hour, so it must not be stored.
        assert "Signature=" not in fetching.shell("cat /var/lib/llamarig/jobs/fetch/status.json")
        assert other_model_is_absent(fetching)


def test_temporary_faults_of_a_download_are_retried(recovering: Deployment, hub: Hub) -> None:
    lock_other_model(recovering, hub)
    hub.faults.add(
        Fault(origin="hub", path=RESOLVE, status=500, times=2),
        Fault(origin="cdn", path=BYTES, truncate_after_bytes=1000, times=2),
    )
    outcome = recovering.run()
    assert outcome.code == 0, str(outcome)
    assert recovering.run().changed == []


def test_the_token_of_a_gated_repository_is_sent_to_the_hub_only_and_stored_nowhere(
    recovering: Deployment, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy that fetches nothing needs no token."""
    token = "hf_0123456789abcdefghij"
    hub.store.repository(OTHER, anonymous=False).gated_token = token
    recovering.rig["hub"]["token_env"] = "LLAMARIG_TEST_TOKEN"
    refusal(recovering.run(), "LLAMARIG_TEST_TOKEN", "not set", "export")
    monkeypatch.setenv("LLAMARIG_TEST_TOKEN", token)
    hub.log.clear()
    outcome = recovering.run()
    assert outcome.code == 0, str(outcome)
    assert not any(request.authorization for request in hub.log.requests() if request.origin == "cdn")
    monkeypatch.delenv("LLAMARIG_TEST_TOKEN")
    assert recovering.run().changed == []
    assert token not in outcome.output + Path(recovering.rig["model_lock"]).read_text()
    for command in (
        "ps -eww -o args",
        "grep -rs hf_ /var/lib/llamarig/jobs /run/credentials; true",
        "journalctl --no-pager",
    ):
        assert token not in recovering.shell(command), command


def test_a_download_without_enough_disk_space_is_refused_without_a_request(fetching: Deployment, hub: Hub) -> None:
    fetching.rig["host"]["disk_reserve_gib"] = 1_000_000
    hub.log.clear()
    refusal(fetching.run(), "disk space for models", "GiB are free", "host.disk_reserve_gib")
    assert hub.log.requests() == []

"""A model against the stand-in Hub: resolved to one commit and the sha256 of each file, or refused with reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.model import Model
from llamarig.engine.hub_resolver import resolve
from llamarig.engine.hub_token import HubError

from tests.box.fetch_run import random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault

REPO = "acme/m-GGUF"
TOKEN = "hf_fortests"
PATHS = (
    "UD-Q6/m-UD-Q6-00001-of-00002.gguf",
    "UD-Q6/m-UD-Q6-00002-of-00002.gguf",
    "m-Q8-00001-of-00002.gguf",
    "a/m-Q4.gguf",
    "b/m-Q4.gguf",
    "mmproj-F16.gguf",
    "README.md",
)


DRAFTING = d.serve(port=8080, context=4096, speculation=d.speculation(types=("draft-mtp",)))


def model(**fields: Any) -> Model:
    return d.model(**{"name": "m", "repo": REPO, "build": "cpu", "serve": d.serve(port=8080, context=4096), **fields})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("files")
    return {path: random_file(directory / str(seed), 1000 + seed, seed) for seed, path in enumerate(PATHS)}


@pytest.fixture
def served(files: dict[str, Path], tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path) as served:
        served.add_repo(REPO, files)
        served.add_repo("acme/gated-GGUF", files, gated_token=TOKEN)
        yield served


def test_a_branch_is_frozen_with_every_file(served: Hub, files: dict[str, Path]) -> None:
    declared = model(quant="UD-Q6", mmproj="mmproj-F16.gguf")
    locked = resolve(declared, served.endpoint, None)
    commit = locked.commit
    assert [file.path for file in locked.shards] == list(PATHS[:2])
    for file in locked.files:
        assert file.size == files[file.path].stat().st_size
        assert file.sha256 == hashlib.sha256(files[file.path].read_bytes()).hexdigest()
    served.add_revision(REPO, {**files, "new.gguf": files["a/m-Q4.gguf"]})
    assert resolve(declared, served.endpoint, None).commit != commit
    assert resolve(model(quant="UD-Q6", revision=commit), served.endpoint, None).commit == commit


@pytest.mark.parametrize("projector", ["Orn-9B.mmproj-Q8_0.gguf", "Orn-9B-mmproj-F16.gguf", "MMProj/Orn-Q8_0.gguf"])
def test_a_projector_is_locked_where_it_is_named_and_nowhere_else(
    served: Hub, files: dict[str, Path], projector: str
) -> None:
    file, draft = files["a/m-Q4.gguf"], "MTP/Orn-9B-MTP-Q8_0.gguf"
    served.add_repo("acme/Orn-GGUF", dict.fromkeys(("Orn-9B.Q8_0.gguf", draft, projector), file))
    locked = resolve(
        model(repo="acme/Orn-GGUF", quant="Q8_0", mmproj=projector, draft=draft, serve=DRAFTING), served.endpoint, None
    )
    assert [shard.path for shard in locked.shards] == ["Orn-9B.Q8_0.gguf"]
    assert locked.mmproj is not None
    assert locked.draft is not None
    assert (locked.mmproj.path, locked.draft.path) == (projector, draft)


def test_a_quant_that_only_a_draft_head_has_is_refused(served: Hub, files: dict[str, Path]) -> None:
    names = ("gem-12B-it-UD-Q4_K_XL.gguf", "MTP/gem-12B-it-MTP-Q8_0.gguf")
    served.add_repo("acme/gem-GGUF", dict.fromkeys(names, files["a/m-Q4.gguf"]))
    with pytest.raises(HubError) as refused:
        resolve(model(repo="acme/gem-GGUF", quant="Q8_0"), served.endpoint, None)
    assert str(refused.value) == (
        "model 'm': acme/gem-GGUF has Q8_0 only in files that are loaded with a model: MTP/gem-12B-it-MTP-Q8_0.gguf "
        "(draft head); its models are gem-12B-it-UD-Q4_K_XL: set quant to the end of one of these names or of its "
        "folder, or list the model's files in files"
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quant": "Q8"}, "the shard set m-Q8 is incomplete, missing m-Q8-00002-of-00002.gguf"),
        ({"files": ("m-Q8-00001-of-00002.gguf",)}, "the shard set m-Q8 is incomplete"),
        ({"quant": "Q4"}, "quant Q4 matches several sets of acme/m-GGUF: a/m-Q4.gguf, b/m-Q4.gguf"),
        ({"quant": "Q5"}, "has no quant Q5; its models are m-UD-Q6, a/m-Q4, b/m-Q4, m-Q8"),
        ({"files": ("none.gguf",)}, "has no file none.gguf; it has UD-Q6/m-UD-Q6-00001-of-00002.gguf"),
        ({"quant": "UD-Q6", "mmproj": "mmproj-F32.gguf"}, "has no file mmproj-F32.gguf"),
        ({"quant": "UD-Q6", "mmproj": "README.md"}, "has no sha256 on the Hub"),
        ({"quant": "UD-Q6", "revision": "later"}, "has no revision 'later'"),
        ({"quant": "UD-Q6", "repo": "acme/none"}, "has no repository acme/none"),
    ],
)
def test_a_model_that_cannot_be_locked_is_refused_with_the_available_files(
    served: Hub, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(HubError) as refused:
        resolve(model(**fields), served.endpoint, None)
    assert words in str(refused.value)
    assert str(refused.value).startswith("model 'm': ")


@pytest.mark.parametrize("path", ["x'; touch /tmp/PWNED; echo 'Q4.gguf", "../../../x-Q4.gguf", "$(reboot)-Q4.gguf"])
def test_an_unsafe_path_in_a_repository_is_refused(served: Hub, files: dict[str, Path], path: str) -> None:
    """File names come from the repository, whose owner may be malicious."""
    served.add_repo("acme/evil-GGUF", {path: files["a/m-Q4.gguf"]})
    declared = model(repo="acme/evil-GGUF", quant="Q4")
    with pytest.raises(HubError) as refused:
        resolve(declared, served.endpoint, None)
    message = str(refused.value)
    assert message.startswith("model 'm': ")
    assert f"path = {path!r}, which cannot be locked" in message
    assert "declare another file or revision" in message


def test_a_temporary_hub_error_is_retried(served: Hub) -> None:
    served.faults.add(Fault(origin="hub", status=503, times=1))
    assert resolve(model(quant="UD-Q6"), served.endpoint, None).commit

"""Every architecture of the pinned source that has layers of multi-token prediction, against what the product says.

The sources are read and not run: tests/box/test_layer_placement.py loads a model of each way. A new commit with another
architecture, or one that has learned to use its layers, fails here.
"""

from __future__ import annotations

import re

import pytest
from llamarig.placement.model_layers import loaded_tensors, why_no_mtp
from llamarig.remote.shared.gguf_header import Header, Tensor

from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

MODELS = "/var/lib/llamarig/work/0c1e57098*/source/src"
SIBLINGS = {"nemotron-h": "nemotron-h-moe"}
"""Loaders that another file completes with the graph of these layers, which is that of another architecture."""
USES = ("none", "not computed", "one", "several")


def header(architecture: str, nextn: int) -> Header:
    """Two layers, and some of multi-token prediction after them."""
    tensors = [
        Tensor(f"blk.{layer}.{name}.weight", (64, 64), "F16", 8192)
        for layer in range(2 + nextn)
        for name in ("attn_q", *(("nextn.eh_proj",) if layer >= 2 else ()))
    ]
    metadata = {f"{architecture}.block_count": 2 + nextn, f"{architecture}.nextn_predict_layers": nextn}
    return Header(tuple(tensors), {"general.architecture": architecture, **metadata})


def use_in_source(text: str) -> str:
    """One of USES: what a loader and its graph do with these layers."""
    if "load_mtp" not in text:
        return "none"
    if re.search(r"throw .*NextN graph not implemented", text):
        return "not computed"
    return "one" if re.search(r"n_layer_nextn == 1\b", text) else "several"


def use_in_product(architecture: str) -> str:
    """One of USES: what plans and lints take for granted."""
    if "eh_proj" not in " ".join(tensor.name for tensor in loaded_tensors(header(architecture, 1), mtp=True)):
        return "none"
    if why_no_mtp(header(architecture, 1)):
        return "not computed"
    return "one" if why_no_mtp(header(architecture, 2)) else "several"


def test_layers_of_multi_token_prediction_are_used_as_in_the_source(deployment: Deployment) -> None:
    listed = deployment.shell(f"cat $(ls -d {MODELS})/llama-arch.cpp | grep -oP 'LLM_ARCH_\\w+, +\"\\K[^\"]+'").split()
    names = {re.sub("[-_]", "", name): name for name in listed}
    loaders = deployment.shell(
        f"cd $(ls -d {MODELS})/models && grep -l LLM_TENSOR_NEXTN $(grep -l TENSOR_SKIP *.cpp)"
    ).split()
    found = {}
    for loader in loaders:
        stem = loader.removesuffix(".cpp")
        name = SIBLINGS.get(stem, stem)
        files = " ".join(f"{one}.cpp" for one in dict.fromkeys((stem, name)))
        found[names[re.sub("[-_]", "", name)]] = use_in_source(
            deployment.shell(f"cd $(ls -d {MODELS})/models && cat {files}")
        )
    assert len(found) >= 20
    assert set(found.values()) == set(USES)
    assert {name: use_in_product(name) for name in found} == found


def test_no_other_loader_changes_how_many_of_these_layers_there_are(deployment: Deployment) -> None:
    """Those that ``layer_counts`` knows of besides the metadata: graniteswitch, deepseek4, and nanbeige's loops."""
    changing = deployment.shell(
        f"cd $(ls -d {MODELS})/models && grep -lE 'n_layer_(nextn|all) +[-+*]?= ' *.cpp"
    ).split()
    assert changing == ["deepseek4.cpp", "granite-switch.cpp", "nanbeige.cpp"]

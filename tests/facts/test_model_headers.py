"""Headers of model files."""

from __future__ import annotations

import json

from llamarig.facts.model_headers import ModelHeaders
from llamarig.remote.shared.gguf_header import Header, Tensor


def test_headers_and_lines_without_one() -> None:
    own = {"metadata": {"general.alignment": 32}, "length": 96, "sha256": "0" * 64}
    line = json.dumps({"path": "/m.gguf", "tensors": [["t", [2, 3], "F32", 24]], **own})
    wrong = json.dumps({"path": "/x.gguf", "error": "does not begin with GGUF"})
    expected = Header((Tensor("t", (2, 3), "F32", 24),), {"general.alignment": 32}, 96, "0" * 64)
    assert ModelHeaders().process(["noise", line, wrong]) == {"/m.gguf": expected}

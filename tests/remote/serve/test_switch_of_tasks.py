"""A switch proves a server by what it is for, and reaches it where it is: behind a prefix, and over TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.remote.serve.switched_box import UNIT, SwitchedBox

KEY = "sesame-0123456789"


@pytest.mark.parametrize(
    ("mode", "flags", "failure"),
    [
        ("ok", ("--embeddings",), ""),
        ("ok", ("--rerank",), ""),
        ("sees", ("--mmproj", "/p.gguf"), ""),
        ("hears", ("--mmproj", "/p.gguf"), ""),
        ("zeros", ("--embeddings",), "answered an embedding without a result"),
        ("one-score", ("--rerank",), "answered a reranking without a result"),
        ("blind", ("--mmproj", "/p.gguf"), "does not answer a completion with a picture (HTTP 500"),
        # As a model without a projector, whose clients send no pictures.
        ("blind", (), ""),
    ],
)
def test_a_server_answers_what_it_is_for(box: SwitchedBox, mode: str, flags: tuple[str, ...], failure: str) -> None:
    box.serve(UNIT, "old")
    ended = box.switch(box.text(mode, *flags))
    if failure:
        assert ended.startswith("failed: "), ended
        assert failure in ended
        assert box.answers() == "old"
    else:
        assert ended.startswith("done: "), ended
        assert box.answers() == mode


def test_an_api_with_a_prefix_and_a_key_is_found_and_restored(box: SwitchedBox, tmp_path: Path) -> None:
    """Its /health wants the key, too."""
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    text = box.text("new", "--api-prefix", "/llama", "--api-key-file", str(key)) + f"LoadCredential=api-key:{key}\n"
    ended = box.switch(text, api_key_file=str(key))
    assert ended.startswith("done: "), ended
    assert box.answers(KEY, prefix="/llama") == "new"
    failed = box.switch(box.text("crashes"))
    assert f"{UNIT} serves again as before" in failed, failed
    assert box.answers(KEY, prefix="/llama") == "new"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate of another name than 127.0.0.1, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = str(directory / "chain.pem"), str(directory / "key.pem")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*request, "-subj", "/CN=box.lan", "-out", certificate, "-keyout", key], check=True)
    return certificate, key


def _with_tls(box: SwitchedBox, mode: str, certificate: str, key: str) -> str:
    text = box.text(mode, "--ssl-cert-file", certificate, "--ssl-key-file", key)
    return f"{text}LoadCredential=tls-certificate:{certificate}\nLoadCredential=tls-key:{key}\n"


def test_a_server_with_a_certificate_is_proved_over_tls(box: SwitchedBox, certificate: tuple[str, str]) -> None:
    ended = box.switch(_with_tls(box, "new", *certificate))
    assert ended.startswith("done: "), ended
    assert box.answers(scheme="https") == "new"
    assert box.answers() == ""


def test_a_certificate_that_cannot_be_used_changes_nothing(
    box: SwitchedBox, certificate: tuple[str, str], tmp_path: Path
) -> None:
    box.serve(UNIT, "old")
    other = tmp_path / "other.pem"
    other.write_text("no key\n")
    for key, words in ((other, "are not a certificate and its private key"), (tmp_path / "none", "none is missing")):
        ended = box.switch(_with_tls(box, "new", certificate[0], str(key)))
        assert ended.startswith("failed: "), ended
        assert words in ended
        assert ended.endswith("nothing was changed")
        assert box.answers() == "old"

"""The Hub token: from the environment or a command of the control machine; no message shows it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare import DeclarationError, hub
from llamarig.engine.hub_token import HubError, HubTokens


def test_the_token_is_read_from_the_environment_or_its_absence_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMARIG_TEST_TOKEN", " hf_abc\n")
    assert HubTokens().of(hub(token_env="LLAMARIG_TEST_TOKEN")) == "hf_abc"
    monkeypatch.delenv("LLAMARIG_TEST_TOKEN")
    with pytest.raises(HubError, match="export LLAMARIG_TEST_TOKEN="):
        HubTokens().of(hub(token_env="LLAMARIG_TEST_TOKEN"))


def test_a_token_command_runs_once(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hf_def\n")
    declared = hub(token_command=("sh", "-c", f"cat {secret}; rm {secret}"))
    tokens = HubTokens()
    assert tokens.of(declared) == "hf_def"
    assert tokens.of(declared) == "hf_def"


def test_hosts_that_need_it_at_once_run_the_command_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    declared = hub(token_command=("sh", "-c", f"echo run >>{runs}; sleep 0.2; echo hf_ghi"))
    with ThreadPoolExecutor(4) as hosts:
        assert list(hosts.map(HubTokens().of, [declared] * 4)) == ["hf_ghi"] * 4
    assert runs.read_text() == "run\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-command-here",), "cannot be run here: No such file"),
        (("sh", "-c", "echo hf_secret; exit 3"), "failed with exit status 3"),
        (("sh", "-c", "echo hf_secret hf_secret"), "printed 2 words"),
        (("true",), "printed 0 words"),
    ],
)
def test_a_command_that_prints_no_token_is_refused(command: tuple[str, ...], words: str) -> None:
    with pytest.raises(HubError, match=words):
        HubTokens().of(hub(token_command=command))


def test_the_output_of_a_token_command_is_not_repeated(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hf_one hf_two\n")
    with pytest.raises(HubError) as refused:
        HubTokens().of(hub(token_command=("sh", "-c", f"cat {secret}")))
    assert "hf_" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"token_env": "hf_abcdef"}, "looks like a token itself"),
        ({"token_env": "HF TOKEN"}, "write the name of an environment variable"),
        ({"token_env": "A", "token_command": ("true",)}, "two tokens"),
        ({"proxy": "http://me:s3cret@proxy:3128"}, "write http://HOST:PORT without a login"),
        ({"endpoint": "https://me:s3cret@hub.lan"}, "write a URL without a login"),
        ({"endpoint": "https://s3cret@hub.lan/hf"}, "write a URL without a login"),
        ({"endpoint": "https://hub.lan/hf?user=me@home"}, "write a URL without a login"),
        ({"max_mb_s": 0}, "write a number, at least 0.1"),
    ],
)
def test_invalid_declarations_are_refused_without_repeating_the_secret(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DeclarationError, match=words) as refused:
        hub(**fields)
    assert "abcdef" not in str(refused.value)
    assert "s3cret" not in str(refused.value)

"""`llamarig adopt`: its inputs, exit codes and streams."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from llamarig import cli
from llamarig.commands.adopt import adopt

from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES
from tests.readme_commands import ADOPT

COMMAND = "llama-server -m /m/x-Q8_0.gguf -c 4096 -ngl 99 -np 1"


def test_python_goes_to_standard_output_and_notes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert adopt([COMMAND]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("from llamarig import declare as d\n")
    assert "-ngl 99: all_on_gpu(), the default" in printed.err


@pytest.mark.parametrize("words", [COMMAND.split(), COMMAND.split()[1:], ["--", *COMMAND.split()]])
def test_a_command_line_as_its_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert adopt(words) == 0
    assert "context=4096" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["-"], []])
def test_standard_input(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(COMMAND.encode())))
    assert adopt(words) == 0
    assert "context=4096" in capsys.readouterr().out


def test_the_drop_ins_beside_a_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = tmp_path / "llama.service"
    unit.write_text(f"[Service]\nEnvironmentFile=env\nExecStart=/usr/bin/{COMMAND} --top-k $K\n")
    (tmp_path / "env").write_text("K=9\n")
    (tmp_path / "llama.service.d").mkdir()
    (tmp_path / "llama.service.d/10.conf").write_text("[Service]\nEnvironment=GGML_X=1\n")
    (tmp_path / "llama.service.d/20.conf").write_text("[Service]\nEnvironment=GGML_X=2\n")
    assert adopt([str(unit)]) == 0
    printed = capsys.readouterr().out
    assert 'environment={"GGML_X": "2"}' in printed
    assert "top_k=9" in printed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.sh", None, "there is no such file; a command line is given in quotes, or as its words"),
        ("x.gguf", b"GGUF\x03", "is a model: give the command line, script, unit or file that starts its server"),
        ("binary", b"\xff\xfe\x00", "is no text in UTF-8"),
        ("large.sh", b"#" * (1 << 20) + b"\n", "is larger than 1 MiB"),
        ("empty.sh", b"", "no llama-server in it"),
        ("other.sh", b"ollama serve\n", "ollama: is Ollama, not llama-server"),
        ("other.yml", b"a: [1, 2\n", "no llama-server in it"),
    ],
)
def test_an_input_without_a_llama_server_ends_with_one_message(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert adopt([str(tmp_path / name)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert message in line


def test_the_header_of_a_model_on_this_machine_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sparse(tmp_path, "m-Q6_K", SHAPES["qwen3-coder-next-q6"])
    script = tmp_path / "start.sh"
    script.write_text(r"llama-server -m ./m-Q6_K.gguf -ngl 99 -ot 'blk\.[0-9]\.=CUDA0,exps=CPU'")
    assert adopt([str(script)]) == 0
    printed = capsys.readouterr()
    assert "placement=d.layers(gpu=(10,), split=(49,))" in printed.out
    assert "context=262144" in printed.out
    assert "the model's whole context of 262144" in printed.err


def test_the_number_of_layers_and_the_build_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    rules = r"llama-server -m /m/x-Q8_0.gguf -ot 'blk\.[0-9]\.=CUDA0,exps=CPU'"
    assert adopt([rules]) == 0
    assert "give it as --layers N" in capsys.readouterr().err
    assert adopt(["--layers", "30", "--build=vulkan", rules]) == 0
    printed = capsys.readouterr().out
    assert "placement=d.layers(gpu=(10,), split=(31,))" in printed
    assert 'build="vulkan"' in printed


def test_control_characters_of_an_input_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert adopt([f"{COMMAND} --alias 'a\x1b[2Jb' --unknown '\x1b]0;x\x07'"]) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\x07" not in printed.out + printed.err


def test_the_command_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "start.sh").write_text(COMMAND)
    monkeypatch.chdir(tmp_path)
    program, *words = ADOPT[0].split()
    assert program == ".venv/bin/llamarig"
    monkeypatch.setattr(sys, "argv", ["llamarig", *words])
    assert cli.main() == 0
    assert "context=4096" in capsys.readouterr().out


def test_the_program_ends_with_the_commands_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["llamarig", "adopt", "ollama serve"])
    assert cli.main() == 1

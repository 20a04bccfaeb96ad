"""Words of shell scripts as a shell reads them; the real one is asked where that is possible."""

from __future__ import annotations

import subprocess

import pytest
from llamarig.adopt.shell_words import shell_commands, split_words

SCRIPTS = {
    "quotes": "show 'a b' \"c d\" e\\ f \"g\\\"h\" 'i\"j' k'l'\"m\" ''",
    "an empty word": 'show "" x',
    "a continued line": "show -m \\\n  model -c \\\n4096",
    "a comment": "show a # b\n# show c\nshow d#e",
    "variables": 'A=1; B="x y"; show $A ${A}2 "$B" $B "${B}z"',
    "an empty variable": 'A=; show a $A b "$A"',
    "a default": 'show ${NONE:-d e} "${NONE:-d e}" ${NONE-f}',
    "an alternative": "A=1; show ${A:+set} ${NONE:+unset}",
    "a list": 'L=(-m "a b" -c 5); L+=(--port 1); show "${L[@]}" "${L[@]}z"',
    "adding to a text": 'A=x; A+=y; show "$A"',
    "a regular expression": "show -ot 'blk\\.(1[3-8])\\.=CUDA1' -ot \"blk\\.([0-9])\\.=CPU\"",
    "a dollar sign at the end": 'show "ab$" c$',
    "redirections": "show a > /dev/null 2>&1 b <<< x; show c 2>/dev/null",
    "operators": "true && show a; false || show b; show c | cat; (show d)",
    "a branch and a loop": "if true; then show a; fi\nfor i in 1; do show b; done",
    "C escapes": r"show $'a\tb\'c' d",
    "exported variables": "export A=1 B=2; show $A$B",
    "a here-document": "cat > /dev/null <<EOF\nshow x\nEOF\nshow y",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_the_words_are_those_of_bash(script: str) -> None:
    # Whatever is redirected, the arguments are printed where the shell began.
    shown = 'exec 9>&1; show() { for a in "$@"; do printf "[%s]" "$a" >&9; done; echo >&9; }\n'
    real = subprocess.run(["bash", "-c", shown + script], capture_output=True, text=True, check=False)
    assert real.stderr == ""
    found = [command.words[1:] for command in shell_commands(script) if command.words[0] == "show"]
    assert ["".join(f"[{word}]" for word in words) for words in found] == real.stdout.splitlines()


def test_what_only_the_shell_knows_stays_as_it_is_written() -> None:
    (command,) = shell_commands('llama-server -t $(nproc) -c $CTX --port "$1" "$@"')
    assert command.words == ("llama-server", "-t", "$(nproc)", "-c", "${CTX}", "--port", "$1")
    assert command.unknown == ("$(nproc)", "${CTX}", "$1", "$@")


def test_a_command_of_windows_keeps_its_backslashes() -> None:
    text = 'C:\\llama>llama-server.exe -m D:\\models\\a.gguf ^\r\n  -c 4096 -mm "E:\\b c.gguf"\r\n'
    assert split_words(text) == ["llama-server.exe", "-m", "D:\\models\\a.gguf", "-c", "4096", "-mm", "E:\\b c.gguf"]


def test_variables_before_a_command_are_its_own() -> None:
    first, second = shell_commands("A=1 llama-server -m x\nllama-server -m $A")
    assert first.assignments == {"A": "1"}
    assert second.words[-1] == "${A}"


DAMAGED = ("'", '"', "$(", "${", "`", "a=(", "<<EOF", "\\", "${A[", "$'", "((", "a)", "&&", "\x00")


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_script_ends_without_an_error(text: str) -> None:
    list(shell_commands(f"llama-server -m {text}"))
    list(shell_commands(text))

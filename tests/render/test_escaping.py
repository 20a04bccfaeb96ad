"""Hard cases of systemd's unit syntax, from systemd.service(5) and systemd.syntax(7).

Each expected text was read back by `systemd --user --test` (systemd 252), which prints the command line.
"""

from __future__ import annotations

import pytest
from llamarig.render.escaping import environment, exec_start

ARGUMENTS = {
    "plain": ("--ctx-size", "--ctx-size"),
    "path": (
        "/opt/llamarig/llama.cpp/0c1e570-1a2b/bin/llama-server",
        "/opt/llamarig/llama.cpp/0c1e570-1a2b/bin/llama-server",
    ),
    "our override rules": (
        "blk[.](0|12)[.]ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",
        "blk[.](0|12)[.]ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",
    ),
    # A lone semicolon separates two commands unless it is quoted.
    "a lone semicolon": (";", '";"'),
    "a semicolon inside": ("a;b", '"a;b"'),
    "a backslash and a semicolon": ("\\;", '"\\\\;"'),
    # Specifiers and variables are expanded inside quotes too.
    "a specifier": ("%h", "%%h"),
    "two percent signs": ("%%", "%%%%"),
    "a percent sign in quotes": ("50 % full", '"50 %% full"'),
    "a variable": ("$HOME", "$$HOME"),
    "a variable in braces": ("${HOME}", "$${HOME}"),
    "two dollar signs": ("$$", "$$$$"),
    "a dollar sign in quotes": ("a $b", '"a $$b"'),
    # C-style escapes are read inside both kinds of quotes, and a trailing backslash continues the line.
    "an escaped dot": ("blk\\.0", '"blk\\\\.0"'),
    "a backslash and an n": ("\\n", '"\\\\n"'),
    "a trailing backslash": ("a\\", '"a\\\\"'),
    "a tab": ("a\tb", '"a\\tb"'),
    "a double quote": ('say "hi"', '"say \\"hi\\""'),
    "a single quote": ("it's", '"it\'s"'),
    "a JSON object": ('{"enable_thinking":false}', '"{\\"enable_thinking\\":false}"'),
    "empty": ("", '""'),
    "a space": ("a b", '"a b"'),
    "a leading space": (" a", '" a"'),
    "a trailing space": ("a ", '"a "'),
    "a comment sign": ("#1", '"#1"'),
    "letters outside ASCII": ("Größe→語", '"Größe→語"'),
    # No shell reads the line.
    "shell syntax": ("&& rm -rf /", '"&& rm -rf /"'),
    "a glob": ("*.gguf", "*.gguf"),
    "a tilde": ("~/x", "~/x"),
}


@pytest.mark.parametrize(("argument", "text"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_argument_as_systemd_reads_it_back(argument: str, text: str) -> None:
    assert exec_start(["/bin/echo", argument]) == f"/bin/echo {text}"


@pytest.mark.parametrize("lead", ["@", "-", ":", "+", "!", "!!", "|"])
def test_command_prefixes_have_no_meaning_in_an_argument(lead: str) -> None:
    """They are special only before the program, whose path is absolute here."""
    assert exec_start(["/bin/echo", f"{lead}x"]) == f"/bin/echo {lead}x"


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b", "\n", "a\\\nb"])
def test_a_line_break_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a systemd unit cannot contain a line break"):
        exec_start(["/bin/echo", text])
    with pytest.raises(ValueError, match="a systemd unit cannot contain a line break"):
        environment("A", text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", "A=1"),
        ("", "A="),
        ("a b", '"A=a b"'),
        # A dollar sign has no meaning in an assignment; a percent sign has.
        ("$HOME", "A=$HOME"),
        ("100%", "A=100%%"),
        ("a\\b", '"A=a\\\\b"'),
        ('a"b', '"A=a\\"b"'),
        ("a;b", '"A=a;b"'),
        ("x=y", "A=x=y"),
        ("語", '"A=語"'),
    ],
)
def test_assignment_as_systemd_reads_it_back(value: str, text: str) -> None:
    assert environment("A", value) == text


@pytest.mark.parametrize("text", ["\ufdd0", "\uffff", "\U0001fffe", "\ud800"])
def test_noncharacters_and_surrogates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a character; systemd would drop the line"):
        exec_start(["/bin/echo", text])


@pytest.mark.parametrize("text", ["\x01", "\x1b[0m", "\x7f"])
def test_control_characters_are_allowed_in_arguments_and_refused_in_the_environment(text: str) -> None:
    assert exec_start(["/bin/echo", text]) == f'/bin/echo "{text}"'
    with pytest.raises(ValueError, match="refuses the control character"):
        environment("A", text)

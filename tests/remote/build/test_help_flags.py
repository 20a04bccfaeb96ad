"""The flags of a release are those that its ``--help`` lists, whole."""

from __future__ import annotations

from llamarig.remote.build.build_release import flags_of

HELP = """\
-ag,   --agent, -no-ag, --no-agent      whether to enable all built-in tools
                                        (env: LLAMA_ARG_AGENT)
--fim-qwen-1.5b-default                 use default Qwen 2.5 Coder 1.5B (note: can download weights)
--draft, --draft-n N                    the argument has been removed. use --spec-draft-n-max
--port PORT                             port to listen (default: 8080)
"""


def test_spellings_are_read_whole_and_removed_flags_are_left_out() -> None:
    found = {"-ag", "--agent", "-no-ag", "--no-agent", "--fim-qwen-1.5b-default", "--port"}
    assert flags_of(HELP) == found

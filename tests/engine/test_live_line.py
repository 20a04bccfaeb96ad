"""The line of a terminal that is updated in place: what it says, and where it is drawn."""

from __future__ import annotations

import io
import os
import pty

from llamarig.engine.live_line import LiveLine, draws


def test_the_progress_of_each_host_comes_before_the_name_of_the_operation() -> None:
    line = LiveLine()
    assert line.text(0) == ""
    line.begin("Models served", 10)
    assert line.text(75) == "Models served: 65 s"
    line.of_hosts = {"b": "compiling 12 of 240 objects", "a": "downloading 3 of 14 GiB"}
    assert line.text(75) == "a: downloading 3 of 14 GiB; b: compiling 12 of 240 objects"
    line.of_hosts.clear()
    line.begin("", 80)
    assert line.text(90) == ""


def test_it_is_drawn_on_a_terminal_alone_and_in_place_of_pyinfras_own() -> None:
    ours, theirs = pty.openpty()
    environment: dict[str, str] = {}
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as terminal:
        assert not draws(environment, terminal, io.StringIO())
        assert environment == {}
        assert draws(environment, terminal, terminal)
        assert environment == {"PYINFRA_PROGRESS": "off"}
        assert not draws({"PYINFRA_PROGRESS": "off"}, terminal, terminal), "as its owner wants it"

"""Which uv and which CPython a box gets, and the message if neither can be installed."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest
from llamarig.engine.item import query
from llamarig.facts.interpreters import Interpreter, Interpreters
from llamarig.items.python import (
    PYTHON_DOWNLOADS,
    SYSTEM_PYTHON,
    UV_VERSION,
    UV_WHEELS,
    Python,
    UvError,
    Wheel,
    install_command,
    install_failed,
    uv_program,
)
from llamarig.render import layout
from pyinfra.facts.server import Arch

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.converged_box import converged_box, cpu_rig, interpreters_output
from tests.set_up import UV_VERSION as OUR_UV


@pytest.mark.parametrize(
    ("interpreter", "usable"),
    [
        (Interpreter((3, 9), complete=True), True),
        (Interpreter((3, 14), complete=True), True),
        (Interpreter((3, 8), complete=True), False),
        (Interpreter((2, 7), complete=True), False),
        (Interpreter((3, 13), complete=False), False),
        (Interpreter(), False),
    ],
)
def test_only_a_complete_and_new_enough_python_is_usable(interpreter: Interpreter, usable: bool) -> None:
    assert interpreter.is_usable is usable


def test_every_wheel_is_pinned_and_of_one_version() -> None:
    assert UV_VERSION == OUR_UV
    for processor, wheel in UV_WHEELS.items():
        assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)
        assert f"/uv-{UV_VERSION}-" in wheel.url
        assert f"_{processor}." in wheel.url


def test_a_declared_mirror_is_passed_to_uv() -> None:
    assert "--mirror 'https://lan/pythons' 3.13." in install_command("https://lan/pythons")
    assert "--mirror" not in install_command(None)


def test_the_refusal_names_version_path_and_remedy() -> None:
    message = install_failed(Interpreter((3, 8), complete=True), PYTHON_DOWNLOADS)
    assert "/usr/bin/python3 is Python 3.8, " in message
    assert "3.9 or newer" in message
    assert "host_policy(python_mirror=" in message
    assert "no Python that runs" in install_failed(Interpreter(), PYTHON_DOWNLOADS)


def deployed(output: str, *, processor: str = "x86_64") -> list[str]:
    """Commands of a deploy on a box whose Pythons report this."""
    replies = {"@@llamarig": "", "import sys": output, "uname -m": processor}
    return converged_commands([Python()], cpu_rig(), replies)


def test_a_python_at_our_path_is_as_declared() -> None:
    box = converged_box(cpu_rig())
    assert box.differences(Python()) == []
    each = [command for command in deployed(interpreters_output(layout.PYTHON)) if "@@llamarig" not in command]
    assert len(each) == 2 * 2, "its two facts, read once for each stage"


def test_the_distributions_python_is_linked() -> None:
    linked = f"mkdir -p {layout.BIN} && ln -sfn {SYSTEM_PYTHON} {layout.PYTHON}"
    assert linked in deployed(interpreters_output(SYSTEM_PYTHON))


def test_a_processor_without_a_uv_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        deployed("", processor="riscv64")
    assert "llamarig has no uv for riscv64" in caplog.text


def test_a_processor_without_a_uv_is_known_before_a_deploy_starts() -> None:
    box = converged_box(cpu_rig())
    interpreters = query(Interpreters, paths=[layout.PYTHON, SYSTEM_PYTHON])
    box.outputs.update({interpreters: "", query(Arch): "riscv64"})
    (refused,) = box.differences(Python())
    assert not refused.by_deploy
    assert "llamarig has no uv for riscv64" in refused.refusal
    box.outputs[query(Arch)] = "aarch64"
    assert [one.by_deploy for one in box.differences(Python())] == [True]
    box.outputs.update({interpreters: interpreters_output(SYSTEM_PYTHON), query(Arch): "riscv64"})
    assert [one.by_deploy for one in box.differences(Python())] == [True], "the distribution's is linked"


def test_a_server_that_does_not_speak_http_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of another kind inside an operation would end the run of every host."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer_nonsense, args=[listening], daemon=True).start()
        wheel = Wheel(f"http://127.0.0.1:{listening.getsockname()[1]}/uv.whl", "0" * 64)
        with pytest.raises(UvError, match=r"uv\.whl cannot be downloaded to the control machine"):
            uv_program(wheel)


def _answer_nonsense(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"nonsense\r\n\r\n")

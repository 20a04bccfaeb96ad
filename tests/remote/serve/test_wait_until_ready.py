"""The program that ends a unit's start: it waits for the model, and for nothing when the server has ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.serve.switched_box import SwitchedBox

PROGRAM = Path(__file__).parents[3] / "tasks/llamarig/remote/serve/wait_until_ready.py"
KEY = "sesame-0123456789"


@pytest.fixture
def server(box: SwitchedBox) -> Iterator[Server]:
    started = Server(box)
    yield started
    started.end()


class Server:
    """A server that is started as the main process of a unit, and the program that waits for it."""

    def __init__(self, box: SwitchedBox) -> None:
        self.box = box
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start_mode(self, mode: str, *more: str) -> None:
        program = Path(__file__).with_name("server_stand_in.py")
        address = ("--host", "127.0.0.1", "--port", str(self.box.port))
        self.start(sys.executable, "-I", "-S", "-B", str(program), *address, "--mode", mode, *more)

    def wait(self, seconds: int = 60, prefix: str = "", credentials: Path | None = None) -> tuple[int, str]:
        """Exit code and output of the program, started as systemd does."""
        assert self.process is not None
        environment = {"MAINPID": str(self.process.pid), "PATH": "/usr/bin:/bin"}
        if credentials is not None:
            environment["CREDENTIALS_DIRECTORY"] = str(credentials)
        url = f"http://127.0.0.1:{self.box.port}{prefix}"
        command = [sys.executable, "-I", "-B", str(PROGRAM), url, str(seconds)]
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def test_a_model_that_loads_is_waited_for(server: Server) -> None:
    server.start_mode("loads-slowly")
    code, output = server.wait()
    assert code == 0, output
    assert "the model answers" in output
    assert server.box.answers() == "loads-slowly"


def test_a_server_that_ends_fails_the_start_before_the_time_is_over(server: Server) -> None:
    server.start("sh", "-c", "sleep 1; exit 3")
    assert server.wait(seconds=3600) == (1, "the server has ended before the model answered\n")


def test_a_server_that_does_not_load_in_time_fails_the_start(server: Server) -> None:
    server.start_mode("hangs")
    code, output = server.wait(seconds=2)
    assert code == 1
    assert "does not answer after 2 s (serve.load_timeout_s)" in output


def test_an_api_with_a_prefix_is_asked_with_the_key_of_the_unit(server: Server, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "api-key").write_text(f"# mine\n{KEY}\n")
    server.start_mode("good", "--api-prefix", "/llama", "--api-key-file", str(credentials / "api-key"))
    assert server.wait(prefix="/llama", credentials=credentials)[0] == 0
    (credentials / "api-key").write_text("another\n")
    assert server.wait(seconds=1, prefix="/llama", credentials=credentials)[0] == 1

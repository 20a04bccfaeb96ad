"""A front on loopback, with its real helper, below it stand-ins for systemctl and for llama-server.

tests/box/ has the real ones. The helper is started for each connection, as systemd does with Accept=yes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamarig.remote.front.clients import hash_of
from llamarig.remote.front.settings import FrontModel, FrontSettings

from tests.remote.serve.switched_box import JOURNALCTL, PACKAGE, SYSTEMCTL, wait_for

HERE = Path(__file__).parent
HELPER = PACKAGE / "llamarig/remote/front/unit_helper.py"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


# As units do, whose ExecStartPost= waits until the model answers: a start ends with that, or with the server's end.
START = """\
systemctl() {{ {systemctl}; }}
pid() {{ (systemctl show "$1" -p MainPID --value); }}
test "$1" = start || {{ systemctl "$@"; exit; }}
name=${{2#llamarig-}} name=${{name%.service}}
test "$(pid "$2")" = 0 || exit 0
before=$(grep -c "^up $name\\$" {events})
(systemctl "$@") || exit 1
while test "$(grep -c "^up $name\\$" {events})" = "$before"; do
    test "$(pid "$2")" = 0 && exit 1
    sleep 0.1
done
exit 0"""


class FrontBox:
    """Models a, b and broken exclude each other, on one port as on a box; embed runs beside them, on a socket."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        for name in ("units", "bin", "keys", "logs"):
            (root / name).mkdir()
        self.port, self.events = free_port(), root / "events"
        self.events.touch()
        shared, exclusive = free_port(), ("a", "b", "broken")
        self.models = [
            *(self._model(name, str(shared), tuple(set(exclusive) - {name})) for name in exclusive),
            self._model("embed", str(root / "embed.sock"), ()),
        ]
        self.settings = FrontSettings(models=tuple(self.models), default="a")
        self.settings = replace(self.settings, **{"least_residency_s": 0, "keepalive_s": 0.3, **settings})
        self._program("systemctl", START.format(systemctl=SYSTEMCTL, events=self.events))
        self._program("journalctl", JOURNALCTL.format(root=root))
        self._process: subprocess.Popen[bytes] | None = None
        (root / "units.json").write_text(
            json.dumps({model.name: {"unit": model.unit, "key_file": model.key_file} for model in self.models})
        )
        self.systemctl("daemon-reload")
        self._helper = socket.socket(socket.AF_UNIX)
        self._helper.bind(str(root / "helper.sock"))
        self._helper.listen()
        self.requests: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _model(self, name: str, port: str, excludes: tuple[str, ...]) -> FrontModel:
        key = self.root / f"{name}.key"
        key.write_text(f"secret-of-{name}\n")
        key.chmod(0o600)
        command = [sys.executable, "-B", str(HERE / "model_stand_in.py"), "--name", name, "--port", port]
        command += ["--key-file", str(key), "--events", str(self.events), *(["--crashes"] * (name == "broken"))]
        conflicts = " ".join(f"llamarig-{other}.service" for other in excludes)
        unit = f"llamarig-{name}.service"
        text = f"[Unit]\nConflicts={conflicts}\n[Service]\nExecStart={shlex.join(command)}\n"
        (self.root / "units" / unit).write_text(text)
        url = f"http+unix://{port}" if port.startswith("/") else f"http://127.0.0.1:{port}"
        return FrontModel(name, unit, url, 2, 4096, name, excludes=excludes, key_file=str(key))

    def _program(self, name: str, script: str) -> None:
        write = ["/bin/sh", "-c", 'cat >"$1" && chmod 755 "$1"', "sh", str(self.root / "bin" / name)]
        subprocess.run(write, input=f"#!/bin/sh\n{script}\n", text=True, check=True)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.root}/bin:/usr/bin:/bin"
        ours = {"PATH": path, "LLAMARIG_STAND_IN": str(self.root), "PYTHONPATH": str(PACKAGE)}
        return {**os.environ, **ours}

    def systemctl(self, *words: str) -> None:
        subprocess.run([str(self.root / "bin/systemctl"), *words], env=self.environment, check=True)

    # --- helper ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._helper.accept()
                command = [sys.executable, "-I", "-B", str(HELPER), str(self.root / "units.json")]
                subprocess.Popen(command, stdin=connection.fileno(), stdout=connection.fileno(), env=self.environment)
                connection.close()

    # --- the front ------------------------------------------------------------------------------------------------

    def key(self, name: str, *keys: str) -> None:
        """Write the hashes of a client's keys, as an owner does."""
        (self.root / "keys" / name).write_text("".join(f"{hash_of(key)}\n" for key in keys))

    def start(self) -> None:
        file = self.root / "settings.json"
        file.write_text(json.dumps(self.settings.to_json()))
        command = [sys.executable, "-B", "-m", "llamarig.remote.front.service", str(file), str(self.root / "keys")]
        command += [str(self.root / "helper.sock"), "--listen", f"127.0.0.1:{self.port}"]
        with (self.root / "front.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            return self.get("/health", key="")[0] == 200
        except OSError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return (self.root / "front.log").read_text()

    def terminate(self) -> None:
        """Ask it to end, as systemd does."""
        os.kill(self.pid, signal.SIGTERM)

    def ended(self) -> int:
        assert self._process is not None
        return self._process.wait(timeout=60)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._helper.close()
        for model in self.models:
            self.systemctl("stop", model.unit)

    # --- clients --------------------------------------------------------------------------------------------------

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path: str, *, key: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.request("GET", path, None, key=key, **headers)

    def request(
        self, method: str, path: str, body: bytes | None, *, key: str = "", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        connection = self.connect()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    def ask(
        self, model: str | None, path: str = "/v1/chat/completions", *, key: str = "", **body: Any
    ) -> tuple[int, Any]:
        """Ask a model; return the status and the JSON of the answer."""
        whole = {**body, **({} if model is None else {"model": model})}
        status, _, content = self.request("POST", path, json.dumps(whole).encode(), key=key)
        return status, json.loads(content)

    @contextlib.contextmanager
    def stream(self, model: str, **body: Any) -> Iterator[http.client.HTTPResponse]:
        connection = self.connect()
        connection.request(
            "POST", "/v1/chat/completions", json.dumps({"model": model, "stream": True, **body}), {"Accept": "*/*"}
        )
        try:
            yield connection.getresponse()
        finally:
            connection.close()

    def states(self) -> dict[str, str]:
        models = json.loads(self.get("/front/status")[2])["models"]
        return {model["name"]: model["state"] for model in models}

    def noted(self) -> list[str]:
        """What the models have noted: `up`, `begin` and `end`, each with the model's name."""
        return self.events.read_text().splitlines()


@contextlib.contextmanager
def front_box(root: Path, **settings: Any) -> Iterator[FrontBox]:
    box = FrontBox(root, **settings)
    try:
        box.start()
        yield box
    finally:
        box.close()


def eventually(seconds: float, condition: Any) -> bool:
    """Whether something becomes true within a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

"""The command that reads units, run on this machine with a directory of units, one of them with a key."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from llamarig.facts.units import Unit, Units
from llamarig.render import layout

from tests.remote.serve.server_stand_in import server

UNIT, KEY = "llamarig-a.service", "sesame-0123456789"


@contextmanager
def serving(mode: str, prefix: str = "") -> Iterator[str]:
    """URL of a server with a key."""
    with server(0, mode, (KEY,), prefix) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}{prefix}/health"
        finally:
            http.shutdown()


def read(box: Path, url: str, *, text: str) -> Unit:
    """Run the fact's command with the directories of ``box``; a stand-in for systemctl says that the unit runs."""
    (box / "units").mkdir(exist_ok=True)
    (box / "units" / UNIT).write_text(text)
    systemctl = box / "systemctl"
    systemctl.write_text(f'#!/bin/sh\ncase "$*" in *--value*) echo {os.getpid()};; *) echo ActiveState=active;; esac\n')
    systemctl.chmod(0o755)
    command = Units().command(health={UNIT: url})
    for path in (layout.UNITS, layout.PROOFS, "/run/credentials"):
        command = command.replace(path, str(box / {layout.UNITS: "units"}.get(path, Path(path).name)))
    environment = {**os.environ, "PATH": f"{box}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    assert KEY not in done.stdout.replace(base64.b64encode(text.encode()).decode(), "") + done.stderr
    return Units().process(done.stdout.splitlines())[UNIT]


def text_with_key(box: Path, key: str) -> str:
    (box / "key").write_text(f"# mine\n{key}\n")
    return f"[Service]\nLoadCredential=api-key:{box}/key\n"


@pytest.mark.parametrize(
    ("mode", "key", "without", "with_key"),
    [("ok", KEY, 401, 200), ("open", KEY, 200, 200), ("ok", "another", 401, 401), ("hangs", KEY, 0, 0)],
)
def test_a_server_is_asked_without_and_with_its_key(
    tmp_path: Path, mode: str, key: str, without: int, with_key: int
) -> None:
    with serving(mode) as url:
        unit = read(tmp_path, url, text=text_with_key(tmp_path, key))
    assert unit.wants_key
    assert (unit.status_without_key, unit.status_with_key) == (without, with_key)


@pytest.mark.parametrize(("running", "found"), [("same", "same"), ("another", "other"), (None, "")])
def test_the_running_servers_key_is_compared_with_the_file(tmp_path: Path, running: str | None, found: str) -> None:
    text = text_with_key(tmp_path, KEY)
    if running is not None:
        (tmp_path / "credentials" / UNIT).mkdir(parents=True)
        copy = (tmp_path / "key").read_text() if running == "same" else "another\n"
        (tmp_path / "credentials" / UNIT / "api-key").write_text(copy)
    with serving("ok") as url:
        assert read(tmp_path, url, text=text).key == found


def test_an_api_with_a_prefix_is_asked_for_its_health_with_the_key(tmp_path: Path) -> None:
    """Only /health itself is public (tools/server/server-http.cpp, pinned commit)."""
    with serving("ok", prefix="/llama") as url:
        unit = read(tmp_path, url, text=text_with_key(tmp_path, KEY))
    assert (unit.health, unit.status_without_key, unit.status_with_key) == (200, 401, 200)


@pytest.mark.parametrize(("changed", "found"), [(False, "same"), (True, "other")])
def test_a_new_certificate_is_another_one(tmp_path: Path, changed: bool, found: str) -> None:
    copies = tmp_path / "credentials" / UNIT
    copies.mkdir(parents=True)
    lines = []
    for name in ("tls-certificate", "tls-key"):
        (tmp_path / name).write_text("new" if changed and name == "tls-certificate" else "old")
        (copies / name).write_text("old")
        lines.append(f"LoadCredential={name}:{tmp_path}/{name}\n")
    with serving("ok") as url:
        assert read(tmp_path, url, text="[Service]\n" + "".join(lines)).key == found


def test_a_server_without_a_key_is_asked_for_its_health_alone(tmp_path: Path) -> None:
    with serving("ok") as url:
        unit = read(tmp_path, url, text="[Service]\n")
    assert not unit.wants_key
    assert (unit.health, unit.key, unit.status_without_key) == (200, "", 0)

"""Ports: who listens, what is left of a server that has ended, and a switch to a build that binds in another way."""

from __future__ import annotations

import os
import signal
import socket
import struct
from pathlib import Path

import pytest
from llamarig.remote.serve.port_in_use import await_left_connections, left_connections, listeners
from llamarig.remote.shared.job_status import Progress

from tests.remote.serve.switched_box import PEER, UNIT, SwitchedBox, wait_for

WAITING = "waiting up to 70 s for "


def client_of(port: int) -> socket.socket:
    """A client that holds its connection; closed, it resets it, and nothing of it is left."""
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return client


def held_client_of(port: int) -> socket.socket:
    """The same, once the server has accepted it: of a connection that it has not, nothing is left when it ends."""
    client = client_of(port)
    wait_for(lambda: accepted(client))
    return client


def accepted(client: socket.socket) -> bool:
    """Whether the server has accepted the connection: until then its end has no inode in the kernel's table."""
    own = f":{client.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(remote.endswith(own) and inode != "0" for _, _, remote, *_, inode in (row[:10] for row in rows))


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_process_that_listens_is_found(family: int, address: str) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert listeners(port) == [], "it does not listen yet"
        server.listen()
        (listener,) = listeners(port)
        assert listener.pid == str(os.getpid())
        assert str(listener).startswith(f"{listener.name} (pid {os.getpid()}, ")
    assert listeners(port) == []


def test_two_servers_that_share_a_port_are_both_found() -> None:
    with socket.socket() as first, socket.socket() as second:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        first.listen()
        child = os.fork()
        if not child:
            second.listen()
            signal.pause()
        try:
            port = first.getsockname()[1]
            wait_for(lambda: len({one.pid for one in listeners(port)}) == 2)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_connections_of_a_server_that_has_ended_are_counted(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = client_of(port)
        server.accept()[0].close()
    assert left_connections(port) == 1
    assert not await_left_connections(port, Progress(tmp_path), longest_s=0.0), "it is still there"
    client.close()
    assert left_connections(port) == 0
    assert not await_left_connections(port, Progress(tmp_path)), "there is nothing to wait for"


def test_a_build_that_cannot_bind_beside_left_connections_is_started_once_they_are_gone(box: SwitchedBox) -> None:
    """A rollback from the pinned build to one of spring 2026, while a client of the former holds on."""
    box.serve(UNIT, "old")
    client = held_client_of(box.port)
    running = box.start(box.text("binds-as-before"))
    wait_for(lambda: str(box.status().get("step")).startswith(WAITING))
    client.close()
    running.wait(timeout=60)
    assert box.ended().startswith(f"done: {UNIT} answers"), box.ended()
    assert box.answers() == "binds-as-before"


@pytest.mark.parametrize(("old", "new"), [("old", "binds-later"), ("binds-later", "crashes")])
def test_a_build_that_could_not_bind_is_started_again_where_no_connection_is_left(
    box: SwitchedBox, old: str, new: str
) -> None:
    """It ended between the failed bind and the look. The new build, and the old one when it is restored."""
    box.serve(UNIT, "old")
    (box.units / UNIT).write_text(box.text(old))
    ended = box.switch(box.text(new))
    assert box.answers() == ("binds-later"), ended
    assert ended.startswith("done: ") or f"{UNIT} serves again as before" in ended, ended


def test_an_older_build_is_restored_once_it_can_bind(box: SwitchedBox) -> None:
    box.serve(UNIT, "binds-as-before")
    running = box.start(box.text("hangs"), load_timeout_s=3)
    wait_for(lambda: box.status().get("step") == "loading the model" and box.answers() == "hangs")
    client = held_client_of(box.port)
    wait_for(lambda: str(box.status().get("step")).startswith(WAITING))
    client.close()
    running.wait(timeout=120)
    assert f"{UNIT} serves again as before" in box.ended(), box.ended()
    assert box.answers() == "binds-as-before"


def test_a_port_of_another_program_is_refused_before_anything_is_stopped(box: SwitchedBox) -> None:
    box.record_start(PEER, box.serve(PEER, "peer"))
    ended = box.switch(box.text("new"))
    assert f"failed: port {box.port} is in use by python" in ended, ended
    assert ended.endswith("nothing was changed")
    assert box.answers() == "peer"

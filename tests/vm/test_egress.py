"""Whom a unit exchanges packets with, on a virtual machine: a container that shares its host's network filters nothing.

The guest reaches this machine as 10.0.2.2 (QEMU's user network), a private address.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from llamarig.declare.serve import Serve
from llamarig.render.sandbox import network_lines

from tests.box.exclusive_use import exclusive_use
from tests.box.paths import Rehearsal
from tests.vm.emulator import VirtualMachine

pytestmark = pytest.mark.vm

PORT = 23123
HOST = "10.0.2.2"
FILTERED = "TimeoutError"
"""What a program sees of a packet that is filtered: no answer."""
CONNECT = """
import socket, sys
def attempt(call):
    try:
        call()
        return "yes"
    except OSError as error:
        return error.strerror or type(error).__name__
with socket.socket() as own:
    print("listens", attempt(lambda: own.bind(("127.0.0.1", {port}))))
with socket.socket() as other:
    print("other", attempt(lambda: other.bind(("127.0.0.1", {port} + 1))))
def connect(address):
    socket.create_connection(address, timeout=5).close()
print("out", attempt(lambda: connect(("{host}", {listener}))))
"""


@pytest.fixture(scope="module")
def vm(users_box: Rehearsal) -> Iterator[VirtualMachine]:
    machine = VirtualMachine(users_box.cache / "vm", int(os.environ.get("LLAMARIG_TEST_VM_PORT", PORT)))
    with exclusive_use(users_box.cache / "vm"):
        machine.make()
        try:
            machine.start([])
            yield machine
        finally:
            machine.kill()


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """The port of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def attempts(vm: VirtualMachine, listener: int, **fields: Any) -> dict[str, str]:
    """What a program may do with the network of a unit that is declared so."""
    serve = Serve(**{"port": 8080, "context": 4096, "api_key_file": "/k", **fields})
    lines = [line for line in network_lines(serve) if not line.startswith("#")]
    program = CONNECT.format(port=serve.port, host=HOST, listener=listener)
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *(f"--property={line}" for line in lines)]
    output = vm.shell(shlex.join([*run, "--", "python3", "-c", program]))
    return dict(line.split(" ", 1) for line in output.splitlines())


def test_a_server_on_loopback_reaches_nothing_outside(vm: VirtualMachine, listener: int) -> None:
    found = attempts(vm, listener)
    assert found["listens"] == "yes"
    assert found["other"] == "Operation not permitted"
    assert found["out"] == FILTERED


def test_a_server_beyond_loopback_reaches_private_networks_unless_its_clients_are_declared(
    vm: VirtualMachine, listener: int
) -> None:
    assert attempts(vm, listener, host="0.0.0.0")["out"] == "yes"
    assert attempts(vm, listener, host="0.0.0.0", clients=("10.0.2.0/24",))["out"] == "yes"
    assert attempts(vm, listener, host="0.0.0.0", clients=("192.168.77.0/24",))["out"] == FILTERED

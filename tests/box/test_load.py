"""Two minutes of slow, broken and oversized requests and half-open connections to one model, beside another one.

Bounded, and from this machine alone: a box of the tests shares its loopback interface.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Thread

import pytest

from tests.box import second_model
from tests.box.deployment import Deployment, wait_for
from tests.box.hub import Hub
from tests.box.memory_group import host_pid, memory_group
from tests.box.paths import ADDRESS
from tests.box.rehearse import chat, is_healthy

pytestmark = [pytest.mark.box, pytest.mark.long]

SECONDS = 120
HALF_OPEN, SLOW, BROKEN, OVERSIZED, UNREAD = 100, 30, 4, 2, 8
"""Clients of each kind at a time."""
UNITS = ("llamarig-tiny", "llamarig-second")
LARGEST_BODY = 100 << 20
"""Bytes; llama-server refuses a larger one (CPPHTTPLIB_PAYLOAD_MAX_LENGTH of the pinned commit: no flag changes it)."""
LARGE_BODY = 20 << 20
"""Bytes of a body that is parsed. Larger ones only take longer: 117 s for 95 MiB."""
TIMES_ITS_SIZE = 90
"""What llama-server takes of RAM for a chat of one long text: 73 to 89 times its size (1, 10 and 95 MiB, b10069).

The text is copied from parser to template to tokenizer, whose working memory per character is most of it. Nothing but
the unit's own MemoryMax= bounds that: see `test_a_body_beyond_the_limit_of_memory_ends_its_own_unit_alone`.
"""
ANSWER_S = 30.0
"""Longest that a completion of the other model may take; an idle one takes less than a second."""
LARGER_MIB = OVERSIZED * (LARGE_BODY >> 20) * TIMES_ITS_SIZE
"""MiB that the model under load may take more."""
LIMIT_MIB = 1024
"""MiB of a limit that one LARGE_BODY exceeds, and the model itself does not."""


class Load:
    """Clients in threads of their own, until `stop` is set."""

    def __init__(self, port: int) -> None:
        self.port, self.stop, self.done = port, Event(), Counter[str]()
        self.threads: list[Thread] = []

    def run(self, number: int, client: Callable[[Load, random.Random], None]) -> None:
        """Repeat what a client does, in several threads."""
        for seed in range(number):
            self.threads.append(Thread(target=self._repeat, args=(client, random.Random(seed))))
            self.threads[-1].start()

    def _repeat(self, client: Callable[[Load, random.Random], None], chance: random.Random) -> None:
        while not self.stop.is_set():
            with suppress(OSError):  # the server may hang up on any of them
                client(self, chance)
                self.done[client.__name__] += 1
            self.stop.wait(0.05)

    def connection(self) -> socket.socket:
        return socket.create_connection((ADDRESS, self.port), timeout=20)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        assert not [thread for thread in self.threads if thread.is_alive()]


def post(body: bytes, length: int | None = None, path: str = "/v1/chat/completions", more: str = "") -> bytes:
    """A request. ``length``: another one than it has."""
    head = f"POST {path} HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def chat_request(prompt: str, **more: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": 4, **more}).encode()


BAD = (
    b"\x00\xff" * 2000,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: box\r\nContent-Length: -5\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: box\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: box\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 50_000 + b" HTTP/1.1\r\nHost: box\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + b"X: 1\r\n" * 5_000 + b"\r\n",
    post(b"{"),
    post(b""),
    post(b"[]"),
    post(b'{"messages": "hello"}'),
    post(b'{"messages": [{"role": 5}], "max_tokens": "many"}'),
    post(b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    post(b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    post(chat_request("Hello.", temperature=-1e308, top_k=-(2**31), n_predict=-7, seed=2**63)),
    post(chat_request("Hello."), length=1_000_000),  # and hangs up
    post(b'{"prompt": [1e99, -1, 99999999999]}', path="/completion"),
)


def half_open(load: Load, chance: random.Random) -> None:
    """Connect, send nothing or a part of a request, and stay."""
    with load.connection() as client:
        client.sendall(chance.choice([b"", b"GET /hea", post(chat_request("Hello."), length=5_000)]))
        load.stop.wait(chance.uniform(5, 40))


def slow(load: Load, chance: random.Random) -> None:
    """Send a request a few bytes a second."""
    with load.connection() as client:
        for byte in post(chat_request("Slowly.")):
            client.sendall(bytes([byte]))
            if load.stop.wait(chance.uniform(0.05, 0.5)):
                return
        client.recv(1000)


def broken(load: Load, chance: random.Random) -> None:
    """Send what is no request, and read what comes back, or not even that."""
    with load.connection() as client:
        client.sendall(chance.choice(BAD))
        client.settimeout(2)
        if chance.random() < 0.5:
            client.recv(10_000)


def oversized(load: Load, chance: random.Random) -> None:
    """More text than the context holds, a large body, and one that is refused by its length."""
    length = chance.choice([100_000, LARGE_BODY, LARGEST_BODY + 1])
    with load.connection() as client:
        client.sendall(post(b"", length=length))
        for part in long_chat(length):
            if load.stop.is_set():
                return
            client.sendall(part)
        client.recv(1000)


def long_chat(length: int) -> Iterator[bytes]:
    """A chat of one long text, with a body of exactly this many bytes."""
    head, words, tail = b'{"messages": [{"role": "user", "content": "', b"many words " * 6_000, b'"}]}'
    left = length - len(head) - len(tail)
    yield head
    while left > 0:
        yield words[:left]
        left -= len(words)
    yield tail


def unread(load: Load, chance: random.Random) -> None:
    """Ask for a stream and read none of it."""
    with load.connection() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(post(chat_request("A story.", stream=True, max_tokens=2_000)))
        load.stop.wait(chance.uniform(1, 10))


@pytest.fixture
def two_models(variant: Deployment, deployment: Deployment, hub: Hub) -> Iterator[Deployment]:
    """The model that is put under load, and one beside it."""
    second_model.declare(variant, hub)
    outcome = variant.run()
    assert outcome.code == 0, str(outcome)
    yield variant
    second_model.remove(deployment)
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def states(box: Deployment) -> str:
    """What a restart would change."""
    return box.shell(f"systemctl show {' '.join(UNITS)} -p Id -p MainPID -p InvocationID -p NRestarts -p ActiveState")


def memory_mib(box: Deployment, unit: str, which: str) -> int:
    """``which``: VmRSS, or VmHWM for the most so far. The container has no memory controller."""
    status = box.shell(f"grep {which} /proc/$(systemctl show {unit} -p MainPID --value)/status")
    return int(status.split()[1]) >> 10


def test_no_unit_is_restarted_and_no_other_one_affected(two_models: Deployment) -> None:
    box, other = two_models, f"http://{ADDRESS}:{two_models.rig['models'][1]['serve']['port']}"
    before, memory = states(box), {unit: memory_mib(box, unit, "VmRSS") for unit in UNITS}
    load = Load(box.rig["models"][0]["serve"]["port"])
    for number, client in (
        (HALF_OPEN, half_open),
        (SLOW, slow),
        (BROKEN, broken),
        (OVERSIZED, oversized),
        (UNREAD, unread),
    ):
        load.run(number, client)
    waits, deadline = [], time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            began = time.monotonic()
            assert chat(other, "Are you well?")
            waits.append(time.monotonic() - began)
            time.sleep(1)
    finally:
        load.end()
    print(f"requests: {dict(load.done)}; completions of the other model: {len(waits)}, {max(waits):.1f} s at most")
    for unit in UNITS:
        print(f"{unit}: {memory[unit]} MiB before, {memory_mib(box, unit, 'VmHWM')} MiB at most")
    assert states(box) == before
    assert chat(box.address, "And you?")
    assert max(waits) < ANSWER_S
    assert memory_mib(box, UNITS[0], "VmHWM") < memory[UNITS[0]] + LARGER_MIB
    assert memory_mib(box, UNITS[1], "VmHWM") < memory[UNITS[1]] + 256
    assert min(load.done[client.__name__] for client in (half_open, slow, broken, oversized, unread)) > 0
    stopped = "systemctl list-units --failed --plain --no-legend 'llamarig*'"
    assert box.shell(stopped) == ""
    assert box.shell("journalctl -u llamarig_liveness -o cat --no-pager | grep -c restarting || true") == "0"


def test_a_body_beyond_the_limit_of_memory_ends_its_own_unit_alone(two_models: Deployment) -> None:
    """What memory_max_mib is for: the kernel ends the one server, which stays down, and the other one serves."""
    box, other = two_models, f"http://{ADDRESS}:{two_models.rig['models'][1]['serve']['port']}"
    before = box.shell(f"systemctl show {UNITS[1]} -p MainPID -p InvocationID -p NRestarts -p ActiveState")
    pid = int(box.shell(f"systemctl show {UNITS[0]} -p MainPID --value"))
    try:
        with memory_group("load", LIMIT_MIB) as group:
            group.add(host_pid(box, pid))
            client = socket.create_connection((ADDRESS, box.rig["models"][0]["serve"]["port"]), timeout=120)
            with client, suppress(OSError):
                client.sendall(post(b"", length=LARGE_BODY))
                for part in long_chat(LARGE_BODY):
                    client.sendall(part)
                client.recv(1000)
            wait_for(lambda: box.shell(f"systemctl is-failed {UNITS[0]} || true") == "failed", "the unit to fail")
            assert group.kills == 1
            assert group.peak_mib <= LIMIT_MIB
        assert chat(other, "Are you well?")
        assert box.shell(f"systemctl show {UNITS[1]} -p MainPID -p InvocationID -p NRestarts -p ActiveState") == before
        assert box.shell(f"systemctl show {UNITS[0]} -p NRestarts --value") == "0"
    finally:
        box.shell(f"systemctl reset-failed {UNITS[0]}; systemctl start {UNITS[0]}")
    wait_for(lambda: is_healthy(box.address), "the model to be loaded")
    assert chat(box.address, "As before?")

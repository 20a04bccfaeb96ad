"""Run pyinfra in a copy of a process that has imported it already, which saves each run most of its processor time.

It is the same code in a forked process with its own working directory, environment, streams and exit status. Variables
of the interpreter such as PYTHONPATH have no effect, and modules that a real run imports late are imported already. A
server (this module as a script) imports pyinfra and this tree's package once; for each run it forks. It belongs to one
process of tests; when that ends, it ends too and kills the runs that are left.
"""

from __future__ import annotations

import _socket
import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYINFRA = str(Path(sys.executable).with_name("pyinfra"))

_LONGEST_REQUEST = 1 << 20
_REAP_S = 0.02
"""How often the server looks for runs that have ended."""


@dataclass
class _Run:
    ended: threading.Event
    status: int | None = None
    """None where the server ended first."""


class PreparedPyinfra:
    """Starts runs of pyinfra. Thread-safe."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._lock = threading.Lock()
        self._runs: dict[int, _Run] = {}
        self._next = 0
        self._is_over = False
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.prepared_pyinfra", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run([PYINFRA, *arguments], capture_output=True, text=True, timeout=timeout)`` would.

        :raises subprocess.TimeoutExpired: after killing the run and its children
        :raises RuntimeError: where the server has ended
        """
        output, errors = os.memfd_create("stdout"), os.memfd_create("stderr")
        try:
            run = _Run(threading.Event())
            with self._lock:
                if self._is_over:
                    raise RuntimeError(f"the server that starts pyinfra has ended: {self._server.poll()}")
                self._next += 1
                number = self._next
                self._runs[number] = run
                request = {"number": number, "argv": [PYINFRA, *arguments], "cwd": str(cwd), "env": dict(env)}
                socket.send_fds(self._socket, [json.dumps(request).encode()], [output, errors])
            if not run.ended.wait(timeout):
                with self._lock:
                    self._socket.send(json.dumps({"kill": number}).encode())
                run.ended.wait()
                raise subprocess.TimeoutExpired([PYINFRA, *arguments], timeout, _text(output), _text(errors))
            if run.status is None:
                raise RuntimeError(f"the server that starts pyinfra ended during this run: {self._server.poll()}")
            return subprocess.CompletedProcess(
                [PYINFRA, *arguments], run.status, _text(output).decode(), _text(errors).decode()
            )
        finally:
            os.close(output)
            os.close(errors)

    def close(self) -> None:
        """End the server."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._server.wait()

    def _listen(self) -> None:
        with suppress(OSError):  # as the end of the stream: the server has ended
            while message := self._socket.recv(1 << 16):
                report = json.loads(message)
                run = self._runs.pop(report["number"])
                run.status = report["status"]
                run.ended.set()
        with self._lock:
            self._is_over = True
            for run in self._runs.values():
                run.ended.set()


@cache
def prepared_pyinfra() -> PreparedPyinfra:
    """The server of this process, started when it is needed first."""
    prepared = PreparedPyinfra()
    atexit.register(prepared.close)
    return prepared


def run_pyinfra(
    *arguments: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run pyinfra with this process's environment, or another one."""
    return prepared_pyinfra().run(
        [str(argument) for argument in arguments], cwd=cwd, env=os.environ if env is None else env, timeout=timeout
    )


def _text(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


# --- the server -------------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork for each request, and report each run that ends, until the other side closes."""
    # Bound before pyinfra has gevent replace them by functions that start its event loop in this process.
    wait, ended_child = select.select, os.waitpid
    connection = _socket.socket(fileno=descriptor)
    # Imported for the forked processes. pyinfra's program comes first, as in a real run: it patches what others import.
    import pyinfra_cli.main  # noqa: F401, I001 - unused here; its place matters
    import llamarig.commands.audit
    import llamarig.commands.command_line
    import llamarig.commands.deploy  # noqa: F401 - for the forks

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which close the connection
    running: dict[int, int] = {}
    try:
        while True:
            readable, _, _ = wait([descriptor], [], [], _REAP_S if running else None)
            if readable:
                data, ancillary, _, _ = connection.recvmsg(_LONGEST_REQUEST, socket.CMSG_SPACE(8))
                if not data:
                    return
                _handle(json.loads(data), _descriptors(ancillary), descriptor, running)
            for pid in list(running):
                ended, status = ended_child(pid, os.WNOHANG)
                if ended:
                    report = {"number": running.pop(pid), "status": os.waitstatus_to_exitcode(status)}
                    connection.send(json.dumps(report).encode())
    finally:
        for pid in running:
            _kill(pid)


def _handle(request: dict[str, Any], streams: list[int], connection: int, running: dict[int, int]) -> None:
    if "kill" in request:
        for pid in [pid for pid, number in running.items() if number == request["kill"]]:
            _kill(pid)
        return
    pid = os.fork()
    if pid == 0:
        os.close(connection)
        _become(request, streams)
    running[pid] = request["number"]
    for stream in streams:
        os.close(stream)


def _kill(pid: int) -> None:
    """Kill a run and its children; alone where it has not made its process group yet."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Run pyinfra in this process, and exit with its status."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = request["argv"]
        sys.path[0] = str(Path(PYINFRA).parent)
        sys.modules["__main__"].__package__ = None  # or click names this module in its usage
        from pyinfra_cli.main import main

        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()  # as an interpreter that ends does; the report of an audit is written there
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
